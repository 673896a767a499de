"""HTML of a view: rows with ids, by section. Pure functions of what is shown.

Every value passes jinja2's autoescape. A row is rendered once for all viewers and kept until it changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kube_cache.units import format_bytes, format_seconds
from watcher.page import words
from watcher.page.model import Dataset, Facts, Hour, Node, Prefetch, Release, Span, Step, Warm
from watcher.page.view import MAX_CHIPS, Cut, Query, View, view

_HERE: Final = Path(__file__).parent
# Rows are kept as long as they are shown: some hundred rows for each of the different views of a hundred viewers.
_KEPT_ROWS: Final = 4096
WIDTH: Final = 1000
"""Of a waterfall, in its own units."""

Frame = Mapping[str, Mapping[str, str]]
"""Section -> id of a row -> its HTML, in their order."""


class Bar(NamedTuple):
    """A span as it is drawn."""

    step: Step
    x: float
    width: float


def bars(spans: Iterable[Span]) -> list[Bar]:
    """Lay spans out side by side, over the whole width."""
    spans = list(spans)
    total = sum(span.seconds for span in spans) or 1.0
    found, x = [], 0.0
    for span in spans:
        width = span.seconds / total * WIDTH
        if width >= 0.5:
            found.append(Bar(span.step, round(x, 1), round(width, 1)))
        x += width
    return found


def by_step(spans: Iterable[Span]) -> list[Span]:
    """Add up the spans of each step, in the order of the steps."""
    seconds: dict[Step, float] = {}
    for span in spans:
        seconds[span.step] = seconds.get(span.step, 0.0) + span.seconds
    return [Span(step, seconds[step]) for step in Step if step in seconds]


def _static() -> Mapping[str, tuple[bytes, str]]:
    found = {}
    for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript")):
        found[name] = ((_HERE / "static" / name).read_bytes(), f"{kind}; charset=utf-8")
    return found


STATIC: Final = _static()
"""Name -> content, type."""
_VERSION: Final = hashlib.sha256(b"".join(content for content, _ in STATIC.values())).hexdigest()[:12]
_ENVIRONMENT: Final = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_ENVIRONMENT.filters.update(
    bytes=format_bytes,
    seconds=format_seconds,
    short=words.short,
    clock=words.clock_time,
    iso=words.iso_time,
    day_and_clock=words.day_and_clock,
)
_ENVIRONMENT.globals.update(
    bars=bars, by_step=by_step, width=WIDTH, version=_VERSION, steps=list(Step), max_chips=MAX_CHIPS
)
_PAGE, _WARM, _RELEASE, _NODE, _DATASET, _PREFETCH, _PARTS = (
    _ENVIRONMENT.get_template(f"{name}.html")
    for name in ("page", "warm", "release", "node", "dataset", "prefetch", "parts")
)


@dataclass(frozen=True, slots=True)
class _WarmRow:
    """A Pod on its way, with what else its row depends on."""

    warm: Warm
    age: str
    percent: int
    left: str
    """Time that the download still takes, in words; empty where nobody knows."""


def frame(facts: Facts, query: Query) -> Frame:
    """Render what a viewer sees."""
    seen = view(facts, query)
    return {
        "banner": {"banner-0": _part("banner", seen)},
        "today": {"today-0": _today(facts.at, facts.since, tuple(facts.hours), seen.day, facts.dollars_per_hour)},
        "phases": {"phases-0": _part("phases", seen)},
        "warms": dict(_rows("warm", seen.warms.rows, lambda row: row.uid, lambda row: _warm(_warm_row(row, facts.at)))),
        "warms-pages": {"warms-pages-0": _pages("warms", seen.warms, query)},
        "prefetches-head": {"prefetches-head-0": _part("prefetches", seen)},
        "prefetches": dict(_rows("prefetch", seen.prefetches, lambda row: row.name, _prefetch)),
        "releases": dict(_rows("release", seen.releases, lambda row: row.uid, _release)),
        "nodes": dict(_rows("node", seen.nodes.rows, lambda row: row.name, _node)),
        "nodes-pages": {"nodes-pages-0": _pages("nodes", seen.nodes, query)},
        "datasets": dict(_rows("dataset", seen.datasets.rows, lambda row: row.uri, _dataset)),
        "datasets-pages": {"datasets-pages-0": _pages("datasets", seen.datasets, query)},
    }


def page(found: Frame, query: Query, *, live: bool) -> str:
    """Compose the first paint, complete without JavaScript. live: the server has room for another viewer."""
    return _PAGE.render(sections={name: list(rows.values()) for name, rows in found.items()}, query=query, live=live)


def changes(before: Frame | None, after: Frame) -> str:
    """Compose the message that leads from one frame to the next: changed rows, and the order where it is another.

    before: None for a viewer of whom nothing is known. Empty where nothing has changed.
    """
    sections = {}
    for name, rows in after.items():
        old: Mapping[str, str] = {} if before is None else before[name]
        new = {key: html for key, html in rows.items() if old.get(key) != html}
        order = list(rows) if before is None or list(old) != list(rows) else None
        if new or order is not None:
            sections[name] = {"rows": new, "order": order}
    return json.dumps(sections, separators=(",", ":")) if sections else ""


def _rows(kind: str, rows: Iterable, key: Callable, html: Callable) -> Iterable[tuple[str, str]]:  # type: ignore[type-arg]
    for row in rows:
        text = html(row)
        yield row_id(kind, key(row)), text


@lru_cache(_KEPT_ROWS)
def row_id(kind: str, key: str) -> str:
    """Id of a row in the document: of letters and digits, whatever the key is."""
    return f"{kind}-{hashlib.sha256(key.encode(errors='replace')).hexdigest()[:16]}"


def _warm_row(warm: Warm, now: float) -> _WarmRow:
    left = warm.left_s
    return _WarmRow(
        warm,
        words.age(now - warm.created_at) if warm.created_at else "",
        int(warm.percent),
        "" if left is None else words.short(left) if left < 1 else format_seconds(left),
    )


@lru_cache(_KEPT_ROWS)
def _warm(row: _WarmRow) -> str:
    return _WARM.render(row=row, warm=row.warm, id=row_id("warm", row.warm.uid))


@lru_cache(_KEPT_ROWS)
def _release(release: Release) -> str:
    return _RELEASE.render(release=release, id=row_id("release", release.uid))


@lru_cache(_KEPT_ROWS)
def _prefetch(prefetch: Prefetch) -> str:
    return _PREFETCH.render(prefetch=prefetch, id=row_id("prefetch", prefetch.name))


@lru_cache(_KEPT_ROWS)
def _node(node: Node) -> str:
    return _NODE.render(node=node, id=row_id("node", node.name))


@lru_cache(_KEPT_ROWS)
def _dataset(dataset: Dataset) -> str:
    return _DATASET.render(dataset=dataset, id=row_id("dataset", dataset.uri))


def _part(name: str, seen: View) -> str:
    return _PARTS.render(part=name, view=seen, facts=seen.facts, query=seen.query)


def _pages(name: str, shown: Cut, query: Query) -> str:  # type: ignore[type-arg]
    return _PARTS.render(part="pages", name=name, cut=shown, query=query)


def _today(at: float, since: float, hours: tuple[Hour, ...], day: Hour, dollars_per_hour: float) -> str:
    return _PARTS.render(part="today", at=at, since=since, hours=hours, day=day, dollars_per_hour=dollars_per_hour)
