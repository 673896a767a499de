"""Chooses how much headroom a forecast gets: the least with which the last two weeks had the hits that are wanted.

So the owner of the data says "98 % hits" and not a quantile, whose meaning differs with each series. The two worst
days do not count: a holiday and the day beside it would raise the headroom of all days for two weeks. Where the hits
cost more waste than allowed, the largest headroom within the allowance is taken instead, and the gate judges the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kube_cache.forecast.replay import Score, daily_scores, plans, score
from kube_cache.forecast.series import DAY_S, Series
from kube_cache.forecast.weekly_quantile import WeeklyQuantile

_WEEK_S = 7 * DAY_S
_REPLAYED_S = 2 * _WEEK_S
_DAYS_LEFT_OUT = 2
# In units of the square root of the copies. Fine where a large, regular series needs it (3 % of 25 copies is 0.15),
# coarse where a small and noisy one ends: three times the spread of a Poisson process.
STEPS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0)
_MIN_ARRIVALS = 20  # arbitrary: one hit more or less is then 5 %


@dataclass(frozen=True)
class TunedQuantile:
    """The model that we ship."""

    wanted_hit_rate: float = 0.98
    """Of the days that count, 0 to 1."""
    max_wasted: float = 0.4
    """Wasted copies for each arrival; below the gate's allowance, since the next week may be worse than the last
    two."""
    base: WeeklyQuantile = field(default_factory=WeeklyQuantile)
    name: str = "ours"

    def fit(self, history: Series, lead: int) -> WeeklyQuantile:
        """Replay the end of the history; with too few arrivals in it the headroom stays as it is in `base`."""
        end = len(history)
        # Before that, there was no week to learn from.
        first = max(history.slots(_WEEK_S) + lead, end - history.slots(_REPLAYED_S))
        if score(history, [0.0] * (end - first), first).arrivals < _MIN_ARRIVALS:
            return self.base
        expected = plans(history, self.base.with_headroom(0.0), lead, first, end)
        return self.base.with_headroom(self._chosen(history, expected, first))

    def _chosen(self, history: Series, expected: Sequence[float], first: int) -> float:
        def planned(headroom: float) -> list[float]:
            raised = self.base.with_headroom(headroom).raised
            return [raised(copies) for copies in expected]

        low, high = 0, len(STEPS) - 1
        while low < high:  # more headroom never means fewer hits
            middle = (low + high) // 2
            if _hit_rate(daily_scores(history, planned(STEPS[middle]), first)) >= self.wanted_hit_rate:
                high = middle
            else:
                low = middle + 1
        while low and score(history, planned(STEPS[low]), first).wasted_each > self.max_wasted:
            low -= 1
        return STEPS[low]


def _hit_rate(days: Sequence[Score]) -> float:
    """Return the hit rate of the days but for the worst, of which a third at most is left out."""
    counted = sorted(days, key=lambda day: day.misses)[: len(days) - min(_DAYS_LEFT_OUT, len(days) // 3)]
    arrivals = sum(day.arrivals for day in counted)
    return sum(day.hits for day in counted) / arrivals if arrivals else 1.0
