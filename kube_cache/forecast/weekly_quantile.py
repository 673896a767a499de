"""Forecasts the copies to have ready: a quantile of the last weeks at that time, at today's level, and headroom.

Each of the last weeks is an example of what comes now. It is scaled by how today's level, of the last half hour that
is known, compares with the level of that week then: a quiet holiday lowers the plan and a busy day raises it. The
headroom is what a Poisson process of that size would vary by, times a factor that the last week's replay chooses
(`headroom`).

Twenty lines of arithmetic and no dependency: of the libraries that were measured none was more accurate, and numpy
alone is 98 MB in the operator's image for a few sums a minute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kube_cache.forecast.series import DAY_S, MISSING, Series

_WEEK_DAYS = 7


@dataclass(frozen=True)
class WeeklyQuantile:
    """A model of fixed headroom, which is also its own forecaster."""

    quantile: float = 0.75
    """Of the examples, 0 to 1. Above the median, since a copy too few costs more than a copy too many."""
    weeks: int = 4
    level_window_s: int = 1800
    shrink_copies: float = 3.0
    """Added to both levels before they are divided: two copies against one prove little, 200 against 100 much."""
    headroom: float = 0.5
    """Times the square root of the copies."""
    name: str = "weekly_quantile"

    def fit(self, _history: Series, _lead: int) -> WeeklyQuantile:
        return self

    def with_headroom(self, headroom: float) -> WeeklyQuantile:
        return replace(self, headroom=headroom)

    def forecast(self, history: Series, positions: range) -> Sequence[float]:
        now = self._level(history, len(history) - 1)
        ratios = [self._ratios(history, week, now) for week in range(1, self.weeks + 1)]
        return [self.raised(self._expected(history, position, ratios)) for position in positions]

    def raised(self, expected: float) -> float:
        """Add the headroom to an expected number of copies; NaN stays NaN."""
        return expected + self.headroom * math.sqrt(max(expected, 0.0))

    def _expected(self, history: Series, position: int, ratios: Sequence[float]) -> float:
        examples = [
            value * ratio
            for week, ratio in enumerate(ratios, start=1)
            for slot in history.same_slot_before(position, week * _WEEK_DAYS)
            if not math.isnan(value := history.value(slot))
        ]
        return quantile(examples, self.quantile) if examples else MISSING

    def _ratios(self, history: Series, week: int, now: float) -> float:
        """Return today's level over that of a week then; 1 where either is not known."""
        last, days = len(history) - 1, week * _WEEK_DAYS
        # The clocks may have skipped that time of day; an hour beside it tells the level as well.
        slots = history.same_slot_before(last, days) or (last - history.slots(days * DAY_S),)
        then = self._level(history, slots[-1])
        ratio = (now + self.shrink_copies) / (then + self.shrink_copies) if then + self.shrink_copies > 0 else 1.0
        return 1.0 if math.isnan(ratio) else ratio

    def _level(self, history: Series, last: int) -> float:
        """Return the mean of the window that ends with the slot `last`; NaN where nothing in it was measured."""
        window = max(1, history.slots(self.level_window_s))
        seen = [history.value(slot) for slot in range(last - window + 1, last + 1)]
        known = [value for value in seen if not math.isnan(value)]
        return sum(known) / len(known) if known else MISSING


def quantile(values: Sequence[float], share: float) -> float:
    """Return the quantile `share` (0 to 1) of at least one number, between two of them where it falls between."""
    ordered = sorted(values)
    below, rest = divmod(share * (len(ordered) - 1), 1)
    first = ordered[int(below)]
    return first + (ordered[min(int(below) + 1, len(ordered) - 1)] - first) * rest
