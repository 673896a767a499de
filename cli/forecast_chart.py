"""Curves of copies in a terminal: a sparkline of one line, and bars of the past, the forecast and the plan."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Final

from rich.text import Text

from kube_cache.contracts.forecast import UNKNOWN, DatasetForecast

_EIGHTHS: Final = " ▁▂▃▄▅▆▇█"
_HEIGHT: Final = 8
_NOTHING: Final = "·"


def squeezed(values: Sequence[int], width: int) -> list[int]:
    """Return at most `width` values, each the highest of its part: a peak is what the copies are for."""
    if len(values) <= width:
        return list(values)
    bounds = [place * len(values) // width for place in range(width + 1)]
    return [max(values[begin:end]) for begin, end in itertools.pairwise(bounds)]


def sparkline(values: Sequence[int], width: int) -> str:
    """Draw values on one line; `·` where nothing can be told."""
    shown = squeezed(values, width)
    top = max([1, *shown])
    return "".join(_NOTHING if each == UNKNOWN else _EIGHTHS[max(1, each * 8 // top) if each else 0] for each in shown)


def chart(of: DatasetForecast, width: int, clock: Callable[[int], str]) -> list[Text]:
    """Draw what was in use, then what is expected (full) and planned (shaded above it), with a scale and times.

    width: columns at most. clock: formats seconds since the epoch.
    """
    columns = max(1, min(width, len(of.seen) + len(of.expected)))
    whole = len(of.seen) + len(of.expected)
    past = min(len(of.seen), columns * len(of.seen) // max(1, whole))
    seen, expected = squeezed(of.seen, max(1, past)) if past else [], squeezed(of.expected, columns - past)
    planned = squeezed(of.planned, columns - past)
    top = max([1, *seen, *expected, *planned])
    lines = []
    for row in range(_HEIGHT, 0, -1):
        line = Text(f"{-(-top * row // _HEIGHT):>5} ┤" if row in (_HEIGHT, _HEIGHT // 2) else "      │", style="dim")
        for each in seen:
            line.append(_cell(each, row, top), style="dim")
        for place, each in enumerate(expected):
            cell = _cell(each, row, top)
            is_planned = place < len(planned) and _cell(planned[place], row, top) != " "
            line.append(*(("░", "green") if cell == " " and is_planned else (cell, "cyan")))
        lines.append(line)
    lines.append(Text("    0 └" + "─" * (past + len(expected)), style="dim"))
    begin = clock(of.curve_start - len(of.seen) * of.curve_step_s)
    now, end = clock(of.curve_start), clock(of.curve_start + len(of.expected) * of.curve_step_s)
    times = f"{begin if past else ''}".ljust(past) + now
    lines.append(Text("       " + times.ljust(past + len(expected) - len(end)) + end, style="dim"))
    key = Text("       ")
    for words, style in (("█ in use   ", "dim"), ("█ expected   ", "cyan"), ("░ planned besides", "green")):
        key.append(words, style=style)
    lines.append(key)
    return lines


def _cell(value: int, row: int, top: int) -> str:
    """Return what of a bar falls into a row, counted from 1 at the bottom."""
    eighths = max(0, value) * _HEIGHT * 8 // top - (row - 1) * 8
    return _EIGHTHS[max(0, min(8, eighths))]
