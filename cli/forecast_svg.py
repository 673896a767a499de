"""The curves of a forecast as an SVG picture, written by hand: three step lines and an axis for each dataset.

No library: rich exports a picture of the terminal's text, which asks for a font from the net, and a PNG would take one
that rasters. Every text passes an escape, because names of datasets come from Pods.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, tzinfo
from html import escape
from typing import Final

from kube_cache.contracts.forecast import UNKNOWN, DatasetForecast

_WIDTH: Final = 960
_HEIGHT: Final = 200
"""Of a dataset, in pixels, head and axis included."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 20, 50, 30
_LINES: Final = (("in use", "#888888"), ("expected", "#1f77b4"), ("planned", "#2ca02c"))


def draw(datasets: Sequence[DatasetForecast], zone: tzinfo) -> str:
    """Compose the document, one chart below the other. zone: of the times at the axes."""
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT * max(1, len(datasets))}"'
            ' font-family="sans-serif" font-size="12" fill="#444444">'
        )
    ]
    for place, each in enumerate(datasets):
        parts += [f'<g transform="translate(0 {place * _HEIGHT})">', *_chart(each, zone), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _chart(of: DatasetForecast, zone: tzinfo) -> list[str]:
    parts = [
        f'<text x="{_LEFT}" y="20" font-weight="bold">{escape(of.dataset)}</text>',
        f'<text x="{_LEFT}" y="38">{escape(of.state)}{escape(f": {of.reason}" if of.reason else "")}</text>',
    ]
    slots = len(of.seen) + max(len(of.expected), len(of.planned))
    if not slots:
        return [*parts, f'<text x="{_LEFT}" y="{_TOP + 40}">no curve</text>']
    top = max([1, *of.seen, *of.expected, *of.planned])
    base = _HEIGHT - _BOTTOM
    parts += [
        f'<path d="M{_LEFT} {_TOP}V{base}H{_WIDTH - _RIGHT}" fill="none" stroke="#bbbbbb"/>',
        f'<text x="{_LEFT - 6}" y="{_TOP + 4}" text-anchor="end">{top}</text>',
        f'<text x="{_LEFT - 6}" y="{base + 4}" text-anchor="end">0</text>',
    ]
    past = len(of.seen)
    for number, (values, begin) in enumerate(((of.seen, 0), (of.expected, past), (of.planned, past))):
        name, colour = _LINES[number]
        parts.append(f'<path d="{_steps(values, begin, slots, top)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{_WIDTH - 240 + 80 * number}" y="20" fill="{colour}">{name}</text>')
    for slot, anchor in ((0, "start"), (past, "middle"), (slots, "end")):
        at = datetime.fromtimestamp(of.curve_start + (slot - past) * of.curve_step_s, zone)
        parts.append(f'<text x="{_x(slot, slots)}" y="{base + 18}" text-anchor="{anchor}">{at:%d.%m. %H:%M}</text>')
    return parts


def _steps(values: Sequence[int], begin: int, slots: int, top: int) -> str:
    """Return a path that holds each value for its slot, and leaves gaps where nothing can be told."""
    path, is_open = [], False
    for place, value in enumerate(values, begin):
        if value == UNKNOWN:
            is_open = False
            continue
        y = round(_HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * value / top, 1)
        path.append(f"V{y}" if is_open else f"M{_x(place, slots)} {y}")
        path.append(f"H{_x(place + 1, slots)}")
        is_open = True
    return "".join(path) or f"M{_LEFT} {_TOP}"


def _x(slot: int, slots: int) -> float:
    return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * slot / slots, 1)
