"""Holds the demand for one dataset: how many copies were in use at once, in slots of equal length.

A slot that nobody measured is missing (NaN) and not zero: a Prometheus that was down for a night must not look like a
night without demand. A series is bounded, immutable and cheap to cut: `until` shares the numbers, which is how a replay
gives a forecaster the past alone.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from kube_cache.errors import InvalidRequest
from kube_cache.forecast.wall_time import same_time_before

MAX_SLOTS = 131_072  # 1 MiB of numbers: three months of minutes, or four weeks at any step that a forecast needs
DAY_S = 86_400
MISSING = math.nan
_ROUNDING = 1e-9  # 3.0000000001 copies, out of a division, are three


@dataclass(frozen=True)
class Series:
    start: int
    """Begin of the first slot, in seconds since the epoch."""
    step_s: int
    values: memoryview
    """Copies in use at once in each slot; NaN where it was not measured."""
    zone: ZoneInfo
    """Where the people are whose habits make the demand."""

    @staticmethod
    def of(values: Iterable[float], *, start: int, step_s: int, zone: ZoneInfo) -> Series:
        """Make a series of numbers in order. Raises InvalidRequest for too many, and a step that makes no sense."""
        _check_step(step_s)
        numbers = array("d", values)
        _check_length(len(numbers), step_s)
        return Series(start, step_s, memoryview(numbers).toreadonly(), zone)

    @staticmethod
    def from_points(
        points: Iterable[tuple[float, float]], *, step_s: int, zone: ZoneInfo, end: int | None = None
    ) -> Series:
        """Sort measured points into slots, from the first of them to the last, or to the slot that `end` is in.

        points: (seconds since the epoch, copies), in any order. Several in a slot count as the largest, because a plan
        must suffice for it. NaN is no measurement. A point at a time that is no number raises InvalidRequest.
        """
        _check_step(step_s)
        slots: dict[int, float] = {}
        for moment, value in points:
            if not math.isfinite(moment):
                raise InvalidRequest(f"a measured point has the time {moment}; times are seconds since the epoch")
            if not math.isnan(value):
                slot = int(moment // step_s)
                slots[slot] = max(value, slots.get(slot, value))
        if not slots:
            return Series.of((), start=0, step_s=step_s, zone=zone)
        first, last = min(slots), max(slots) if end is None else end // step_s
        _check_length(last - first + 1, step_s)
        values = (slots.get(slot, MISSING) for slot in range(first, last + 1))
        return Series.of(values, start=first * step_s, step_s=step_s, zone=zone)

    def __len__(self) -> int:
        return len(self.values)

    def value(self, position: int) -> float:
        """Return the copies in use in that slot; NaN where it was not measured, or lies outside the series."""
        return float(self.values[position]) if 0 <= position < len(self.values) else MISSING

    def time(self, position: int) -> int:
        """Return the begin of a slot, which may lie outside the series, in seconds since the epoch."""
        return self.start + position * self.step_s

    def position(self, moment: int) -> int:
        """Return the slot that a moment is in; negative, or past the end, outside the series."""
        return (moment - self.start) // self.step_s

    def until(self, position: int) -> Series:
        """Return the slots before `position`: what was known when that slot began."""
        return Series(self.start, self.step_s, self.values[: max(0, position)], self.zone)

    def slots(self, seconds: float) -> int:
        """Return the number of slots that a duration takes, rounded up."""
        return math.ceil(seconds / self.step_s - _ROUNDING)

    def same_slot_before(self, position: int, days: int) -> tuple[int, ...]:
        """Return the slots of the same local time `days` days before: none, one or two; see `wall_time`."""
        moments = same_time_before(self.time(position), days, self.zone)
        return tuple(self.position(moment) for moment in moments)


def whole_copies(amount: float) -> int:
    """Return the copies that suffice for an amount; 0 for what is no number of copies: NaN, negative, infinite."""
    return math.ceil(amount - _ROUNDING) if 0 < amount < math.inf else 0


def check_span(start: int, end: int, step_s: int) -> None:
    """Raise InvalidRequest unless a series from `start` to `end`, in seconds since the epoch, can be kept."""
    _check_step(step_s)
    if end < start:
        raise InvalidRequest(f"demand is asked for from {start} to {end}, which is earlier")
    _check_length(end // step_s - start // step_s + 1, step_s)


def _check_step(step_s: int) -> None:
    if not 1 <= step_s <= DAY_S:
        raise InvalidRequest(f"step: {step_s} s is no length of a slot; choose one from 1 s to a day, as 300 s")


def _check_length(slots: int, step_s: int) -> None:
    if slots > MAX_SLOTS:
        raise InvalidRequest(
            f"{slots:,} slots of {step_s} s are more than the {MAX_SLOTS:,} that are kept; ask for fewer days or a longer step"
        )
