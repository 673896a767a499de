"""Makes the next report of the forecast from the last one and from what was measured since: score, gate, plan, curve.

Pure: the same demand, report and time, the same next report. A report is the only memory, so what a later round needs
is in it. Chooses no nodes and moves no byte.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kube_cache.contracts.forecast import (
    MAX_CURVE_SLOTS,
    MAX_DATASETS,
    UNKNOWN,
    Backtest,
    CopiesPlan,
    DatasetForecast,
    DatasetState,
    Figures,
    ForecastReport,
    RunState,
    ScoredPlan,
    Sized,
)
from kube_cache.forecast import owners_rules
from kube_cache.forecast.condition import State, examine
from kube_cache.forecast.gate import Mode, Verdict, decide, judge
from kube_cache.forecast.planner import Demand, Planned, plan
from kube_cache.forecast.replay import Score
from kube_cache.forecast.running_score import scored
from kube_cache.forecast.series import DAY_S, Series, whole_copies
from kube_cache.forecast.settings import ForecastSettings
from kube_cache.forecast.wall_time import zone
from kube_cache.forecast.weekly_quantile import WeeklyQuantile

# Looks of the gate in one round, some two CPU-seconds each: a first round of hundreds of datasets must end before the
# next one is due.
_MAX_JUDGED = 20
_SIZE_AGE_S = DAY_S
_NO_SIZE = "its size is not known yet: it is planned for from the next run on"


@dataclass(frozen=True)
class _Known:
    """What a round knows of a dataset before it plans."""

    before: DatasetForecast
    history: Series
    state: State
    reason: str
    """What is wrong with the history; empty where it is usable."""
    lead: int
    """Slots from the last one known to the one that is planned."""


def next_report(
    demand: Mapping[str, Series],
    before: ForecastReport,
    settings: ForecastSettings,
    now: int,
    *,
    bytes_per_s: float,
    sizes: Sequence[Sized] = (),
) -> ForecastReport:
    """Make the report of `now`, in seconds since the epoch. bytes_per_s: of a download. sizes: learned since."""
    names = sorted(demand, key=lambda name: (-_highest(demand[name]), name))
    known = [
        _known(_with_size(name, before, sizes), demand[name], settings, now, bytes_per_s)
        for name in names[:MAX_DATASETS]
    ]
    known = _judged(known, settings, now)
    verdicts = {each.before.dataset: _verdict(each, settings) for each in known}
    demands = [
        Demand(each.before.dataset, each.before.bytes_each, each.history, _model(each.before), each.lead)
        for each in known
    ]
    plans = plan(demands, verdicts, WeeklyQuantile(), owners_rules.budget(settings), 1)
    found = [
        _forecast(each, verdicts[each.before.dataset], made, settings) for each, made in zip(known, plans, strict=True)
    ]
    return ForecastReport(
        RunState.OK,
        "",
        now,
        now,
        settings.step_s,
        settings.time_zone,
        settings.expression,
        owners_rules.limits(settings),
        bytes_per_s,
        sorted(found, key=lambda each: each.dataset),
        max(0, len(names) - MAX_DATASETS),
    )


def prefetch_name(dataset: str) -> str:
    """Return the name of the prefetch that carries out the plans for a dataset."""
    return f"forecast-{hashlib.sha256(dataset.encode()).hexdigest()[:12]}"


def copies_now(dataset: DatasetForecast) -> int:
    """Return the copies to have now, in use and idle: the most of all plans whose slot has yet to come.

    The plan for the end of the lead alone would retire copies a lead too early. While all of them are in use the
    prefetch moves nothing, and keeps the data on the nodes that Pods leave.
    """
    if dataset.state != DatasetState.ACTING:
        return 0
    return max((each.copies for each in dataset.pending if each.slot_at >= dataset.scored_until), default=0)


def _with_size(name: str, before: ForecastReport, sizes: Sequence[Sized]) -> DatasetForecast:
    found = next((each for each in before.datasets if each.dataset == name), DatasetForecast(name, ""))
    learned = next((each for each in sizes if each.dataset == name), None)
    if learned is None:
        return found
    # What could not be resolved keeps the size that it had, and is told.
    size = found.bytes_each if learned.error else learned.bytes
    return replace(found, bytes_each=size, sized_at=learned.at, size_error=learned.error)


def _known(
    before: DatasetForecast, history: Series, settings: ForecastSettings, now: int, bytes_per_s: float
) -> _Known:
    state, wrong = examine(history, now, owners_rules.needs(settings))
    lead_s = settings.lead_for(before.bytes_each, bytes_per_s)
    # A rise is seen at the begin of the slot after the one that it was in: a slot more.
    lead = history.slots(lead_s) + 1
    return _Known(replace(before, lead_s=lead_s), history, state, wrong, lead)


def _judged(known: Sequence[_Known], settings: ForecastSettings, now: int) -> list[_Known]:
    """Have the gate look at those whose turn it is, those that waited longest first."""
    due = [
        each
        for each in known
        if each.state is State.USABLE and not 0 <= now - each.before.backtest.judged_at < settings.judge_every_s
    ]
    turn = {
        each.before.dataset
        for each in sorted(due, key=lambda each: (each.before.backtest.judged_at, each.before.dataset))[:_MAX_JUDGED]
    }
    return [_judge(each, settings, now) if each.before.dataset in turn else each for each in known]


def _judge(each: _Known, settings: ForecastSettings, now: int) -> _Known:
    verdict = judge(
        each.history,
        owners_rules.model(settings),
        each.lead,
        now,
        owners_rules.rules(settings),
        owners_rules.needs(settings),
    )
    headroom = owners_rules.model(settings).fit(each.history, each.lead).headroom
    backtest = Backtest(now, verdict.acts, _figures(verdict.score), headroom)
    return replace(each, before=replace(each.before, backtest=backtest))


def _verdict(each: _Known, settings: ForecastSettings) -> Verdict:
    """Return what the gate says by its last look, and by the limits of today."""
    backtest = each.before.backtest
    if each.state is not State.USABLE:
        return Verdict(Mode.FORECAST_ONLY, each.state, each.reason, Score())
    if not backtest.judged_at:
        return Verdict(Mode.FORECAST_ONLY, each.state, "the gate looks at it within the next runs", Score())
    figures = backtest.figures
    score = Score(figures.arrivals, figures.hits, figures.brought, figures.wasted, figures.idle_h)
    mode, reason = decide(score, owners_rules.rules(settings))
    if mode is Mode.ACTS and each.before.size_error:
        return Verdict(Mode.FORECAST_ONLY, each.state, each.before.size_error, score)
    if mode is Mode.ACTS and not each.before.sized_at:
        return Verdict(Mode.FORECAST_ONLY, each.state, _NO_SIZE, score)
    return Verdict(mode, each.state, reason, score)


def _model(before: DatasetForecast) -> WeeklyQuantile:
    return WeeklyQuantile(headroom=before.backtest.headroom) if before.backtest.judged_at else WeeklyQuantile()


def _forecast(each: _Known, verdict: Verdict, made: Planned, settings: ForecastSettings) -> DatasetForecast:
    before, history = each.before, each.history
    state, reason = _state_of(each, verdict)
    seen = history.value(len(history) - 1)
    highest = _highest(history)
    forecast = replace(
        before,
        state=state,
        reason=reason,
        in_use=UNKNOWN if math.isnan(seen) else whole_copies(seen),
        highest=highest,
        plan=None,
    )
    if each.state is not State.USABLE:
        # What was planned stays until its end, and nothing new is planned.
        return replace(forecast, expected=[], planned=[], seen=[])
    forecast = scored(forecast, history, settings.step_s, zone(settings.time_zone))
    in_use = max(0, forecast.in_use)
    asked = whole_copies(made.forecast)
    copies = min(asked, in_use + made.copies)
    plan_now = CopiesPlan(
        made.ready_at,
        made.until,
        copies if verdict.acts else 0,
        made.copies,
        made.wanted,
        made.forecast if math.isfinite(made.forecast) else UNKNOWN,
        made.reason if made.copies < made.wanted else "",
    )
    would = copies if verdict.acts else min(asked, in_use + made.wanted)
    pending = [plan for plan in forecast.pending if plan.slot_at < made.ready_at]
    pending.append(ScoredPlan(made.ready_at, would, verdict.acts))
    forecast = replace(forecast, plan=plan_now, pending=pending)
    return _with_curve(forecast, history, owners_rules.budget(settings).max_growth)


def _state_of(each: _Known, verdict: Verdict) -> tuple[DatasetState, str]:
    if each.state is not State.USABLE:
        return DatasetState(str(each.state)), each.reason
    if not each.before.backtest.judged_at or verdict.reason == _NO_SIZE:
        return DatasetState.UNJUDGED, verdict.reason
    if each.before.size_error and verdict.reason == each.before.size_error:
        return DatasetState.UNRESOLVED, verdict.reason
    return (DatasetState.ACTING if verdict.acts else DatasetState.FORECAST_ONLY), verdict.reason


def wants_size(dataset: DatasetForecast, now: int) -> bool:
    """Return whether the size of a dataset must be looked up: the gate is open, and it is unknown or a day old."""
    return dataset.backtest.acts and not 0 <= now - dataset.sized_at < _SIZE_AGE_S


def _with_curve(forecast: DatasetForecast, history: Series, max_growth: float) -> DatasetForecast:
    """Add the day that comes and the day that was, in at most MAX_CURVE_SLOTS each."""
    day = history.slots(DAY_S)
    each = max(1, math.ceil(day / MAX_CURVE_SLOTS))
    day = day // each * each
    end = len(history)
    base = _model(forecast).with_headroom(0.0)
    expected = base.forecast(history, range(end, end + day))
    raised = [_model(forecast).raised(copies) for copies in expected]
    ceiling = whole_copies(max_growth * forecast.highest)
    past = [history.value(slot) for slot in range(end - day, end)]
    return replace(
        forecast,
        curve_start=history.time(end),
        curve_step_s=each * history.step_s,
        expected=_grouped(expected, each),
        planned=[min(copies, ceiling) for copies in _grouped(raised, each)],
        seen=_grouped(past, each),
    )


def _grouped(values: Sequence[float], each: int) -> list[int]:
    """Return the most of each group of values; UNKNOWN where none of them is known."""
    groups = (values[begin : begin + each] for begin in range(0, len(values), each))
    return [max((whole_copies(value) for value in group if not math.isnan(value)), default=UNKNOWN) for group in groups]


def _highest(history: Series) -> int:
    return max((whole_copies(value) for value in history.values if math.isfinite(value)), default=0)


def _figures(score: Score) -> Figures:
    return Figures(score.arrivals, score.hits, score.brought, score.wasted, round(score.idle_h, 2))
