"""The simple policies that a forecast has to beat, as models of the same protocol.

None of them is meant for production. `Reactive` is the product without prediction, and `AlwaysOn` is what people do who
cannot wait: both frame each score.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from kube_cache.forecast.series import DAY_S, MISSING, Series

_WEEK_DAYS = 7
_WEEKS = 4


@dataclass(frozen=True)
class Reactive:
    """Plans nothing: each Pod waits for its data."""

    name: str = "reactive"

    def fit(self, _history: Series, _lead: int) -> Reactive:
        return self

    def forecast(self, _history: Series, positions: range) -> Sequence[float]:
        return [0.0] * len(positions)


@dataclass(frozen=True)
class AlwaysOn:
    """Keeps as many copies as the first four weeks ever used at once, day and night."""

    name: str = "always_on"
    copies: float = MISSING

    def fit(self, history: Series, _lead: int) -> AlwaysOn:
        first = history.until(history.slots(_WEEKS * _WEEK_DAYS * DAY_S))
        return AlwaysOn(self.name, max((value for value in first.values if math.isfinite(value)), default=MISSING))

    def forecast(self, _history: Series, positions: range) -> Sequence[float]:
        return [self.copies] * len(positions)


@dataclass(frozen=True)
class LastValue:
    """Keeps `more` copies above what was in use last."""

    more: int = 1
    name: str = "last_value"

    def fit(self, _history: Series, _lead: int) -> LastValue:
        return self

    def forecast(self, history: Series, positions: range) -> Sequence[float]:
        return [history.value(len(history) - 1) + self.more] * len(positions)


@dataclass(frozen=True)
class SeasonalNaive:
    """Expects what the same slot had a week ago."""

    name: str = "seasonal_naive"

    def fit(self, _history: Series, _lead: int) -> SeasonalNaive:
        return self

    def forecast(self, history: Series, positions: range) -> Sequence[float]:
        return [max(_weekly(history, position, weeks=1), default=MISSING) for position in positions]


@dataclass(frozen=True)
class WeeklyMedian:
    """Expects the median of the same slot of the last four weeks."""

    name: str = "median"

    def fit(self, _history: Series, _lead: int) -> WeeklyMedian:
        return self

    def forecast(self, history: Series, positions: range) -> Sequence[float]:
        seen = [_weekly(history, position, weeks=_WEEKS) for position in positions]
        return [statistics.median(values) if values else MISSING for values in seen]


def _weekly(history: Series, position: int, *, weeks: int) -> list[float]:
    slots = [slot for week in range(1, weeks + 1) for slot in history.same_slot_before(position, week * _WEEK_DAYS)]
    return [value for slot in slots if not math.isnan(value := history.value(slot))]
