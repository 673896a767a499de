"""What one viewer sees of the facts: a filter and a page of each list, by the address' query string.

Every list is cut here, whatever the cluster holds: a view has at most a few hundred rows. Viewers with equal queries
share one view.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar
from urllib.parse import parse_qs, urlencode

from watcher.page.model import Dataset, Facts, Hour, Node, Prefetch, Release, Warm

WARMS, NODES, DATASETS = 50, 25, 15
"""Rows of a page."""
MAX_CHIPS: Final = 6
"""Snapshots that the row of a node names; the others are counted."""
_MAX_FILTER: Final = 100
_MAX_PAGE: Final = 100_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Query:
    """The address, in its canonical form: equal views have equal queries."""

    find: str = ""
    """Text that a row must hold: of a Pod, a namespace, a node or a dataset."""
    phase: str = ""
    warms: int = 1
    nodes: int = 1
    datasets: int = 1

    def href(self, **changes: str | int) -> str:
        """Compose the address of another view."""
        other = replace(self, **changes)  # type: ignore[arg-type]
        fields = {name: getattr(other, name) for name in ("find", "phase", "warms", "nodes", "datasets")}
        return "?" + urlencode({name: value for name, value in fields.items() if value not in ("", 1)})


def parse_query(text: str) -> Query:
    """Parse a query string; what is unknown or senseless counts as absent."""
    try:
        found = parse_qs(text, max_num_fields=20, errors="replace")
    except ValueError:
        return Query()

    def page(name: str) -> int:
        value = found.get(name, ["1"])[0]
        is_number = value.isascii() and value.isdecimal() and len(value) < 7
        return min(max(1, int(value)), _MAX_PAGE) if is_number else 1

    return Query(
        found.get("find", [""])[0].strip()[:_MAX_FILTER],
        found.get("phase", [""])[0][:_MAX_FILTER],
        page("warms"),
        page("nodes"),
        page("datasets"),
    )


@dataclass(frozen=True, slots=True)
class Cut(Generic[T]):
    """One page of a list."""

    rows: tuple[T, ...]
    page: int
    pages: int
    count: int
    """Rows of all pages."""
    total: int
    """Rows that there are without the filter."""


@dataclass(frozen=True, slots=True)
class View:
    facts: Facts
    query: Query
    warms: Cut[Warm]
    nodes: Cut[Node]
    datasets: Cut[Dataset]
    releases: tuple[Release, ...]
    prefetches: tuple[Prefetch, ...]
    phases: tuple[tuple[str, int], ...]
    """Phases of all Pods on their way, the most frequent first."""
    day: Hour
    """The sum of the hours."""

    @property
    def hit_ratio(self) -> float | None:
        """Share of the released Pods that found all of their data; None without a release."""
        count = self.day.hits + self.day.misses + self.day.cold
        return self.day.hits / count if count else None


def view(facts: Facts, query: Query) -> View:
    find = query.find.casefold()
    warms = cut(
        [warm for warm in facts.warms if not query.phase or warm.phase == query.phase], query.warms, WARMS,
        find, lambda warm: f"{warm.namespace}/{warm.pod}\n{warm.node}\n{warm.dataset}", len(facts.warms),
    )  # fmt: skip
    shown = tuple(warm if warm.message else replace(warm, message=facts.message(warm.uid)) for warm in warms.rows)
    hours = facts.hours
    return View(
        facts,
        query,
        replace(warms, rows=shown),
        cut(
            facts.nodes,
            query.nodes,
            NODES,
            find,
            lambda node: "\n".join((node.name, *(each.dataset for each in node.holdings))),
            len(facts.nodes),
        ),
        cut(facts.datasets, query.datasets, DATASETS, find, lambda dataset: dataset.uri, len(facts.datasets)),
        tuple(
            release
            for release in facts.releases
            if find in f"{release.namespace}/{release.pod}\n{release.node}\n{release.dataset}".casefold()
        ),
        tuple(each for each in facts.prefetches if find in f"{each.name}\n{each.dataset}".casefold()),
        tuple(Counter(warm.phase for warm in facts.warms).most_common()),
        Hour(
            hours[0].starts_at if hours else 0,
            sum(hour.hits for hour in hours),
            sum(hour.misses for hour in hours),
            sum(hour.cold for hour in hours),
            sum(hour.gpu_s for hour in hours),
        ),
    )


def cut(rows: Sequence[T], page: int, size: int, find: str, text: Callable[[T], str], total: int) -> Cut[T]:
    """Filter the rows and cut one page out; a page behind the last one is the last one. find: casefolded."""
    found = [row for row in rows if find in text(row).casefold()] if find else rows
    pages = max(1, -(-len(found) // size))
    page = min(page, pages)
    return Cut(tuple(found[(page - 1) * size : page * size]), page, pages, len(found), total)
