"""Plans how many copies of each dataset are to be ready when the lead time has passed, within a budget.

A pure function of what is known: it chooses no nodes and moves no byte. A plan is good for one slot. The next plan, a
slot later, replaces it: what that one does not ask for is retired, which is how copies go after the peak. A history
that cannot be used, a gate that is closed and a forecaster that cannot tell each give a plan of none, with the reason.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kube_cache.forecast.condition import State
from kube_cache.forecast.forecaster import Model
from kube_cache.forecast.gate import Verdict
from kube_cache.forecast.series import Series, whole_copies
from kube_cache.units import format_bytes


@dataclass(frozen=True)
class Demand:
    dataset: str
    bytes_each: int
    """Size of one copy."""
    history: Series
    model: Model | None = None
    """Of this dataset alone, instead of the one for all."""
    lead: int = 0
    """As above."""


@dataclass(frozen=True)
class Budget:
    """Bounds of the copies that are ready and not in use, over all datasets."""

    max_copies: int
    max_bytes: int
    max_growth: float = 1.5
    """Times the most copies that a dataset ever used at once: a forecast beyond is taken for a mistake."""


@dataclass(frozen=True)
class Planned:
    dataset: str
    ready_at: int
    """When the copies must be complete, in seconds since the epoch."""
    until: int
    """When they are retired unless a later plan asks for them again, in seconds since the epoch."""
    forecast: float
    """Copies in use and idle together, before any bound; NaN where there is none."""
    wanted: int
    """Idle copies that the forecast asks for, beyond those in use."""
    copies: int
    """Idle copies that are granted."""
    reason: str
    """Why fewer are granted than the forecast asks for, in words; empty where none are missing."""


def plan(
    demands: Sequence[Demand], verdicts: Mapping[str, Verdict], model: Model, budget: Budget, lead: int
) -> list[Planned]:
    """Plan the slot that lies `lead` slots after the last of each history; one answer for each demand, in order.

    lead: at least 1.     verdicts: the gate's, by dataset. A dataset without one is not acted on.
    """
    wishes = [_wish(demand, verdicts.get(demand.dataset), model, budget, lead) for demand in demands]
    wanted = [wish.copies for wish in wishes]
    granted = share(wanted, [demand.bytes_each for demand in demands], budget)
    return [
        wish if copies == wish.copies else replace(wish, copies=copies, reason=_short_of(wish, copies, budget))
        for wish, copies in zip(wishes, granted, strict=True)
    ]


def share(wanted: Sequence[int], bytes_each: Sequence[int], budget: Budget) -> list[int]:
    """Grant copies one by one, each to the dataset with the smallest part of its wish, until nothing more fits."""
    granted = [0] * len(wanted)
    copies_left, bytes_left = budget.max_copies, budget.max_bytes
    queue = [(0.0, number) for number, copies in enumerate(wanted) if copies > 0]
    heapq.heapify(queue)
    while queue and copies_left > 0:
        _, number = heapq.heappop(queue)
        if bytes_each[number] > bytes_left:
            continue  # what is left only shrinks: this dataset gets no more
        granted[number] += 1
        copies_left -= 1
        bytes_left -= bytes_each[number]
        if granted[number] < wanted[number]:
            heapq.heappush(queue, (granted[number] / wanted[number], number))
    return granted


def _wish(demand: Demand, verdict: Verdict | None, model: Model, budget: Budget, lead: int) -> Planned:
    """Plan for one dataset as if it were alone."""
    history, model, lead = demand.history, demand.model or model, demand.lead or lead
    target = len(history) - 1 + lead
    ready_at, until = history.time(target), history.time(target + 1)

    def none(forecast: float, reason: str, wanted: int = 0) -> Planned:
        return Planned(demand.dataset, ready_at, until, forecast, wanted, 0, reason)

    if verdict is None:
        return none(math.nan, "the gate has not judged this dataset: judge its history first")
    if verdict.state is not State.USABLE:
        return none(math.nan, verdict.reason)
    forecast = model.fit(history, lead).forecast(history, range(target, target + 1))[0]
    if not math.isfinite(forecast) or forecast < 0:
        return none(forecast, f"{model.name} cannot tell how many copies are needed then (it said {forecast:g})")
    known = [value for value in history.values if math.isfinite(value)]
    in_use = whole_copies(known[-1]) if known else 0
    wanted = max(0, whole_copies(forecast) - in_use)
    if not verdict.acts:
        return none(forecast, verdict.reason, wanted)
    highest = max(known, default=0.0)
    ceiling = whole_copies(budget.max_growth * highest)
    if in_use + wanted <= ceiling:
        return replace(none(forecast, "", wanted), copies=wanted)
    reason = (
        f"{whole_copies(forecast)} copies are forecast, more than {budget.max_growth:g} times what was ever in use "
        f"({highest:g}): planned are {ceiling}"
    )
    return replace(none(forecast, reason, wanted), copies=max(0, ceiling - in_use))


def _short_of(wish: Planned, copies: int, budget: Budget) -> str:
    return (
        f"{copies} of {wish.wanted} copies: the budget of {budget.max_copies} idle copies and "
        f"{format_bytes(budget.max_bytes)} is shared with other datasets"
    )
