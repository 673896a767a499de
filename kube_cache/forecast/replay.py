"""Replays demand against plans and counts what the plans were worth. An error of a forecast says nothing about that.

The rules. Demand is the number of copies in use at once. A rise from one slot to the next is as many arrivals of Pods.
An arrival hits if an idle node already holds the data, and misses else. A plan for a slot is a number of copies, in use
and idle together, and is made from what was measured up to `lead` slots before. A copy that a plan brings, and that a
later plan retires before any Pod used it, is wasted. A node that a Pod leaves stays warm as long as the plan has room.

So the score is of the plans alone. In a cluster it is a lower bound of the hits: a retired copy stays on the disk until
somebody needs the room.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kube_cache.forecast.forecaster import Model
from kube_cache.forecast.series import DAY_S, MISSING, Series, whole_copies


@dataclass(frozen=True)
class Score:
    arrivals: int = 0
    hits: int = 0
    brought: int = 0
    """Copies that were fetched ahead of any Pod."""
    wasted: int = 0
    """Copies of these that were retired before any Pod used them."""
    idle_h: float = 0.0
    """Hours that copies were ready and not in use, summed over the nodes."""

    @property
    def misses(self) -> int:
        return self.arrivals - self.hits

    @property
    def hit_rate(self) -> float:
        """Hits of each arrival, 0 to 1; NaN without arrivals."""
        return self._each(self.hits)

    @property
    def wasted_each(self) -> float:
        """Wasted copies for each arrival; NaN without arrivals."""
        return self._each(self.wasted)

    @property
    def idle_h_each(self) -> float:
        """Idle hours for each arrival; NaN without arrivals."""
        return self._each(self.idle_h)

    def _each(self, amount: float) -> float:
        return amount / self.arrivals if self.arrivals else math.nan


def plans(demand: Series, model: Model, lead: int, first: int, end: int) -> list[float]:
    """Return the plan for each slot from `first` to before `end`, as it would have been made at the time.

    lead: slots from the last one known to the one planned, at least 1.
    The model is fitted anew for each day of slots. Neither fit nor forecast gets a slot that is later than `lead` slots
    before the one planned.
    """
    day = max(1, demand.slots(DAY_S))
    made: list[float] = []
    for begin in range(first, end, day):
        forecaster = model.fit(demand.until(begin - lead + 1), lead)
        for position in range(begin, min(begin + day, end)):
            made.extend(forecaster.forecast(demand.until(position - lead + 1), range(position, position + 1)))
    return made


def daily_scores(demand: Series, planned: Sequence[float], first: int) -> list[Score]:
    """Replay each day of slots for itself."""
    day = max(1, demand.slots(DAY_S))
    return [score(demand, planned[begin : begin + day], first + begin) for begin in range(0, len(planned), day)]


def score(demand: Series, planned: Sequence[float], first: int) -> Score:
    """Replay `planned`, whose first plan is for the slot `first`. A plan that is NaN is a plan of none.

    A slot without a measurement counts for nothing, and neither does the difference across a gap.
    """
    tally = Tally(hours=demand.step_s / 3600)
    before = demand.value(first - 1)
    for position, plan in enumerate(planned, start=first):
        now = demand.value(position)
        if math.isnan(now):
            before = MISSING
            continue
        used = whole_copies(now)
        tally.slot(whole_copies(plan), used if math.isnan(before) else whole_copies(before), used)
        before = now
    return Score(tally.arrivals, tally.hits, tally.brought, tally.wasted, tally.idle_h)


@dataclass
class Tally:
    """Counts slot after slot."""

    hours: float
    """Hours of a slot."""
    arrivals: int = 0
    hits: int = 0
    brought: int = 0
    wasted: int = 0
    idle_h: float = 0.0
    idle: int = 0
    """Copies that are ready and not in use."""
    fresh: int = 0
    """Idle copies that were brought and that no Pod has used yet."""

    def slot(self, planned: int, before: int, used: int) -> None:
        """Carry out the plan with `before` copies in use, then let Pods come or go until `used` are."""
        if (more := max(0, planned - before) - self.idle) > 0:
            self.brought += more
            self.fresh += more
            self.idle += more
        self._retire_to(planned - before)
        arrivals = max(0, used - before)
        hits = min(arrivals, self.idle)
        self.arrivals += arrivals
        self.hits += hits
        self.idle += max(0, before - used) - hits
        # Nobody chooses between two idle copies by their past; fresh ones first tells the least waste.
        self.fresh -= min(self.fresh, hits)
        self._retire_to(planned - used)
        self.idle_h += self.idle * self.hours

    def _retire_to(self, copies: int) -> None:
        """Retire idle copies down to a number, used ones first, since they have been of use."""
        retired = max(0, self.idle - max(0, copies))
        wasted = max(0, retired - (self.idle - self.fresh))
        self.idle -= retired
        self.fresh -= wasted
        self.wasted += wasted
