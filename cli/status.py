"""`kube-cache status`: a table of all Pods that wait for data, once or live."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.cluster import ask, complain_of_sources, print_json
from kube_cache.insight.sources import Sources
from kube_cache.insight.warms import Filter, Overview, Warm, overview
from kube_cache.units import format_bytes, format_seconds

_WATCH_S: Final = 2.0
_SPARE: Final = 4
"""A live view rests this many times as long as its look at the cluster took, so that it never loads a busy one."""
_BAR: Final = 10
_MAX_DATASET: Final = 48
_MAX_STUCK: Final = 3
_MAX_STUCK_JSON: Final = 100
_STYLES: Final = {
    "Warming": "cyan",
    "AwaitingOperator": "bold red",
    "WaitingForDisk": "red",
    "WaitingForCapacity": "yellow",
    "WaitingForGates": "yellow",
    "Paused": "magenta",
    "Cancelled": "magenta",
    "Done": "green",
    "Binding": "green",
}


def run(wanted: Filter, *, limit: int, watch: bool, as_json: bool) -> int:
    """Print the table, or keep it up to date until Ctrl-C. Return the exit code."""
    return ask(lambda sources: _run(sources, wanted, limit=limit, watch=watch, as_json=as_json))


async def _run(sources: Sources, wanted: Filter, *, limit: int, watch: bool, as_json: bool) -> int:
    if watch and not as_json:
        await _watch(sources, wanted, limit)
        return 0
    while True:
        started = time.monotonic()
        seen = await overview(sources, wanted, limit=limit)
        if as_json:
            print_json(document(seen, sources))
        else:
            Console().print(table(seen, time.time()))
        if not watch:
            return complain_of_sources(sources)
        await _rest(started)
        sources.kubernetes_error = sources.temporal_error = ""


async def _watch(sources: Sources, wanted: Filter, limit: int) -> None:
    console = Console()
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            started = time.monotonic()
            # What does not fit on the screen is counted, like what exceeds the limit.
            seen = await overview(sources, wanted, limit=min(limit, max(1, console.height - 6)))
            live.update(Group(table(seen, time.time()), _troubles(sources)), refresh=True)
            await _rest(started)
            sources.kubernetes_error = "" if sources.kube else sources.kubernetes_error
            sources.temporal_error = "" if sources.temporal else sources.temporal_error


async def _rest(started: float) -> None:
    await asyncio.sleep(max(_WATCH_S, _SPARE * (time.monotonic() - started)))


def _troubles(sources: Sources) -> Text:
    errors = {"the API server": sources.kubernetes_error, "Temporal": sources.temporal_error}
    return Text("\n".join(f"{name} tells nothing: {error}" for name, error in errors.items() if error), style="red")


def table(seen: Overview, now: float) -> RenderableType:
    """Compose the table for people. now: seconds since the epoch."""
    prefetches = Text(_prefetches(seen), style="dim")
    if not seen.total:
        return Group(Text("No Pod waits for data."), *([prefetches] if prefetches else []))
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("POD", "PHASE", "NODE"):
        made.add_column(name, no_wrap=True)
    made.add_column("DATASET", overflow="fold")  # the one that gives way on a narrow terminal
    made.add_column("PROGRESS", no_wrap=True)
    is_fed = any(warm.from_neighbours for warm in seen.warms)
    if is_fed:
        made.add_column("SOURCE", no_wrap=True)
    for name in ("RATE", "ETA", "SINCE"):
        made.add_column(name, no_wrap=True, justify="right")
    for warm in seen.warms:
        made.add_row(
            f"{warm.namespace}/{warm.pod}",
            Text(warm.phase, style=_STYLES.get(warm.phase, "")),
            warm.node or "-",
            _short(warm.dataset),
            _progress(warm),
            *([warm.from_neighbours or "-"] if is_fed else []),
            f"{format_bytes(warm.bytes_per_s)}/s" if warm.bytes_per_s else "-",
            "-" if warm.eta_s is None else format_seconds(warm.eta_s),
            format_seconds(max(0.0, now - warm.since)),
        )
    return Group(made, Text(_summary(seen), style="dim"), *([prefetches] if prefetches else []))


def _short(dataset: str) -> str:
    """Cut the middle out of a long one, or of several: what tells datasets apart is mostly at the end."""
    if len(dataset) <= _MAX_DATASET:
        return dataset
    half = _MAX_DATASET // 2
    return f"{dataset[:half]}…{dataset[-half + 1 :]}"


def _progress(warm: Warm) -> str:
    if not warm.total_bytes:
        return "-"
    if warm.done_bytes is None:
        return format_bytes(warm.total_bytes)
    share = warm.done_bytes / warm.total_bytes
    full = int(share * _BAR)
    return f"{'█' * full}{'░' * (_BAR - full)} {share:3.0%} of {format_bytes(warm.total_bytes)}"


def _summary(seen: Overview) -> str:
    phases = ", ".join(f"{count} {phase}" for phase, count in seen.by_phase.most_common())
    hidden = seen.total - len(seen.warms)
    return f"{seen.total} Pods: {phases}" + (f". {hidden} younger ones are not shown (--limit)" if hidden else "")


def _prefetches(seen: Overview) -> str:
    """Say how many prefetches live, and which need somebody; empty for none."""
    living = seen.prefetches
    if not living.total:
        return ""
    phases = ", ".join(f"{count} {phase or 'New'}" for phase, count in living.by_phase.most_common())
    more = len(living.stuck) - _MAX_STUCK
    stuck = f". Not going on: {', '.join(living.stuck[:_MAX_STUCK])}" if living.stuck else ""
    return (
        f"{living.total} {'prefetches' if living.total > 1 else 'prefetch'}: {phases}{stuck}"
        f"{f' and {more} more' if more > 0 else ''} (`kube-cache prefetch list`)"
    )


def document(seen: Overview, sources: Sources) -> dict[str, Any]:
    """Compose what `--json` prints; docs/operate/cli.md explains the keys."""
    rows = []
    for warm in seen.warms:
        row = asdict(warm)
        del row["entities"], row["present_bytes"]
        rows.append(row)
    return {
        "warms": rows,
        "shown": len(rows),
        "total": seen.total,
        "by_phase": dict(seen.by_phase),
        "prefetches": {
            "total": seen.prefetches.total,
            "by_phase": dict(seen.prefetches.by_phase),
            "stuck": seen.prefetches.stuck[:_MAX_STUCK_JSON],
        },
        "kubernetes_error": sources.kubernetes_error,
        "temporal_error": sources.temporal_error,
    }
