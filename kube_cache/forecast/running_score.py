"""Scores the plans of a dataset slot after slot, as demand is measured: ours, and as many copies as were ever in use.

The same rules as of a replay (`replay`), carried from one report to the next. A slot that was not measured counts for
nothing. Keeps sums of days, so that a score is bounded however long the forecast runs.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

from kube_cache.contracts import forecast as contracts
from kube_cache.contracts.forecast import DAYS_OF_SCORE, DatasetForecast, DayScore, Figures, ScoredPlan
from kube_cache.forecast.replay import Tally
from kube_cache.forecast.series import Series, whole_copies

# After a longer pause the slots in between had no plans, and say nothing about them.
_MAX_PAUSE_S = 2 * 3600


def scored(forecast: DatasetForecast, history: Series, step_s: int, zone: ZoneInfo) -> DatasetForecast:
    """Score the slots that were measured since the last time; forget the plans of slots that have passed."""
    end = len(history)
    first = history.position(forecast.scored_until)
    begun = forecast.scored_until and 0 <= end - first <= history.slots(_MAX_PAUSE_S)
    ours, always = _tally(forecast.tally, step_s), _tally(forecast.always_tally, step_s)
    days = list(forecast.days)
    for slot in range(first, end) if begun else ():
        value = history.value(slot)
        if math.isnan(value):
            continue
        before = history.value(slot - 1)
        used = whole_copies(value)
        was = used if math.isnan(before) else whole_copies(before)
        plan = _plan_for(forecast.pending, history.time(slot))
        counted = _count(ours, plan.copies if plan else 0, was, used)
        framed = _count(always, forecast.highest, was, used)
        days = _added(days, _day(history.time(slot), zone), counted, framed, acted=plan is not None and plan.acts)
    until = history.time(end)
    # The last plan of the past stays: it counts on where the lead has grown and no plan was made for a slot.
    past = [plan for plan in forecast.pending if plan.slot_at < until][-1:]
    return replace(
        forecast,
        days=days,
        pending=[*past, *(plan for plan in forecast.pending if plan.slot_at >= until)],
        scored_until=until,
        tally=contracts.Tally(ours.idle, ours.fresh),
        always_tally=contracts.Tally(always.idle, always.fresh),
    )


def _tally(state: contracts.Tally, step_s: int) -> Tally:
    return Tally(hours=step_s / 3600, idle=state.idle, fresh=state.fresh)


def _plan_for(pending: list[ScoredPlan], moment: int) -> ScoredPlan | None:
    return next((plan for plan in reversed(pending) if plan.slot_at <= moment), None)


def _count(tally: Tally, copies: int, before: int, used: int) -> Figures:
    """Count one slot; what it adds."""
    was = Figures(tally.arrivals, tally.hits, tally.brought, tally.wasted, tally.idle_h)
    tally.slot(copies, before, used)
    return Figures(
        tally.arrivals - was.arrivals,
        tally.hits - was.hits,
        tally.brought - was.brought,
        tally.wasted - was.wasted,
        tally.idle_h - was.idle_h,
    )


def _added(days: list[DayScore], begin: int, ours: Figures, always_on: Figures, *, acted: bool) -> list[DayScore]:
    today = days[-1] if days and days[-1].begin == begin else DayScore(begin)
    older = days[:-1] if days and days[-1].begin == begin else days
    today = DayScore(
        begin,
        today.slots + 1,
        today.acted + acted,
        _rounded(contracts.add([today.ours, ours])),
        _rounded(contracts.add([today.always_on, always_on])),
    )
    return [*older, today][-DAYS_OF_SCORE:]


def _rounded(figures: Figures) -> Figures:
    return replace(figures, idle_h=round(figures.idle_h, 4))


def _day(moment: int, zone: ZoneInfo) -> int:
    """Return the begin of the local day."""
    local = datetime.fromtimestamp(moment, zone)
    return int(local.replace(hour=0, minute=0, second=0, microsecond=0).timestamp())
