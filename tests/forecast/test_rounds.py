"""A round of the forecast: what is planned from what, that a bad history plans nothing, and what the score says."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from kube_cache.contracts.forecast import (
    MAX_CURVE_SLOTS,
    MAX_DATASETS,
    UNKNOWN,
    DatasetForecast,
    DatasetState,
    ForecastReport,
    RunState,
    Sized,
)
from kube_cache.forecast import rounds
from kube_cache.forecast.carried_out import actions
from kube_cache.forecast.rounds import copies_now, next_report, wants_size
from kube_cache.forecast.series import DAY_S, MISSING, Series
from kube_cache.forecast.settings import ForecastSettings
from tests.forecast.made import HOUR, MONDAY, series, shaped

URI, GB = "s3://models/gpt", 10**9
SETTINGS = ForecastSettings(step_s=HOUR, lead_s=HOUR, max_copies=100)
EMPTY = ForecastReport(RunState.NO_DATA)


def rush(moment: datetime) -> float:
    """From 9 to 17 o'clock 8 copies."""
    return 8.0 if 9 <= moment.hour < 17 else 0.0


WEEKS = shaped(29, rush)
MORNING = 28 * 24 + 7
"""The slot of 7 o'clock, two slots before the rush."""


class Rounds:
    """One round after another over the same demand."""

    def __init__(self, history: Series = WEEKS, settings: ForecastSettings = SETTINGS, uri: str = URI) -> None:
        self.history, self.settings, self.uri = history, settings, uri
        self.report = EMPTY
        self.started: list[int] = []
        """Copies of the prefetch in each round; 0 = none was started or renewed."""
        self.ended: list[str] = []

    def play(self, slot: int, sizes: list[Sized] | None = None, **changes: Any) -> DatasetForecast:
        """Do the round in which `slot` is the last one known."""
        settings = replace(self.settings, **changes)
        made = next_report(
            {self.uri: self.history.until(slot + 1)},
            self.report,
            settings,
            self.history.time(slot),
            bytes_per_s=1e9,
            sizes=sizes or [],
        )
        self.report, start, end = actions(self.report, made, settings)
        self.started.append(start[0].copies if start else 0)
        self.ended += end
        return self.report.datasets[0]

    def begin(self, slot: int) -> None:
        """Do the two rounds after which a dataset can act: the gate looks at it, and its size is learned."""
        first = self.play(slot - 1)
        assert wants_size(first, self.history.time(slot - 1)), "the gate is open"
        self.play(slot, [Sized(self.uri, self.history.time(slot - 1), GB)])


def test_copies_are_asked_for_before_the_rush_and_let_go_after_it() -> None:
    play = Rounds()
    play.begin(MORNING - 2)
    assert play.started == [0, 0], "nobody comes within the lead"
    found = play.play(MORNING - 1)
    assert found.state == DatasetState.ACTING, found.reason
    play.play(MORNING)
    assert play.started[-1] >= 8, "at 7 o'clock for the slot of 9"
    assert play.report.datasets[0].plan is not None
    assert play.report.datasets[0].prefetch.startswith("forecast-")
    for slot in range(MORNING + 1, MORNING + 14):
        play.play(slot)
    assert play.started[-1] == 0
    assert play.ended == [rounds.prefetch_name(URI)], "once, when the rush was over"
    assert play.report.datasets[0].prefetch == ""


def test_what_a_later_slot_does_not_need_is_kept_until_the_slots_before_it_are_over() -> None:
    play = Rounds(settings=replace(SETTINGS, lead_s=3 * HOUR))
    last = 28 * 24 + 16
    play.begin(last - 12)
    for slot in range(last - 11, last + 1):
        found = play.play(slot)
        assert found.plan is not None
        assert found.plan.copies == 0 or slot + 4 <= last, "nothing is planned for the evening"
        assert (play.started[-1] == 8) is (last - 11 <= slot < last), "but the copies stay until then"
    assert [plan.copies for plan in found.pending if plan.slot_at >= found.scored_until] == [0, 0, 0, 0]


def test_the_score_of_a_rush_is_of_what_was_planned_for_it() -> None:
    play = Rounds()
    play.begin(MORNING - 6)
    for slot in range(MORNING - 5, MORNING + 15):
        play.play(slot)
    score = play.report.datasets[0].score()
    assert (score.ours.arrivals, score.ours.hits) == (8, 8)
    assert score.always_on.hits == 8
    assert score.ours.idle_h == 0 < score.always_on.idle_h
    assert score.slots == 21
    assert score.acted == 19, "all but those whose plans were made before the gate had looked"
    assert len(play.report.datasets[0].pending) <= 3, "bounded by the lead"


def test_days_of_a_score_are_bounded_and_local() -> None:
    zone = "Australia/Lord_Howe"
    play = Rounds(settings=replace(SETTINGS, time_zone=zone))
    for slot in range(15 * 24, 29 * 24):
        if slot % 2 == 0:
            play.play(slot, judge_every_s=40 * DAY_S)
    days = play.report.datasets[0].days
    assert len(days) == 7
    assert {(day.begin + 11 * HOUR) % DAY_S for day in days} == {0}, "midnight there, in summer"


def test_a_slot_that_was_not_measured_is_not_scored() -> None:
    values = list(WEEKS.values)
    values[MORNING + 2] = MISSING
    play, other = Rounds(series(values)), Rounds()
    for each in (play, other):
        each.begin(MORNING - 3)
        for slot in (*range(MORNING - 2, MORNING + 2), MORNING + 3):
            each.play(slot)
    assert play.report.datasets[0].score().slots == other.report.datasets[0].score().slots - 1
    assert play.report.datasets[0].score().ours.arrivals == 0, "nobody knows when they came"


def test_a_gate_that_is_closed_moves_nothing_and_scores_what_would_have_been() -> None:
    noisy = Rounds(shaped(29, lambda at: float((at.day * 7 + at.hour * 5) % 11 == 0) * 6), SETTINGS)
    for slot in range(28 * 24, 28 * 24 + 20):
        found = noisy.play(slot)
    assert found.state == DatasetState.FORECAST_ONLY
    assert "asked for" in found.reason
    assert noisy.started == [0] * 20
    score = found.score()
    assert score.acted == 0 < score.slots


def test_limits_that_change_count_at_once() -> None:
    play = Rounds()
    play.begin(MORNING - 1)
    assert play.play(MORNING).state == DatasetState.ACTING
    assert play.play(MORNING + 1, min_hit_rate=1.0, max_wasted=0.0).state in (
        DatasetState.ACTING,
        DatasetState.FORECAST_ONLY,
    )
    closed = play.play(MORNING + 2, max_wasted=-1.0)
    assert closed.state == DatasetState.FORECAST_ONLY
    assert play.ended == [rounds.prefetch_name(URI)], "a closed gate lets the copies go"


@pytest.mark.parametrize(
    ("values", "state"),
    [
        pytest.param([], DatasetState.EMPTY, id="empty"),
        pytest.param([MISSING] * 700, DatasetState.EMPTY, id="only NaN"),
        pytest.param([1.0] * 24 * 3, DatasetState.SHORT, id="short"),
        pytest.param([*WEEKS.values, *[MISSING] * 9], DatasetState.STALE, id="stale"),
        pytest.param([*WEEKS.values, -4.0], DatasetState.NEGATIVE, id="negative"),
        pytest.param([*WEEKS.values, 7e10], DatasetState.ABSURD, id="bytes"),
        pytest.param([1.0, MISSING, MISSING] * 24 * 10 + [1.0], DatasetState.GAPS, id="gaps"),
    ],
)
def test_a_bad_history_is_named_and_keeps_the_plan_that_was_made(values: list[float], state: DatasetState) -> None:
    play = Rounds()
    play.begin(MORNING - 1)
    play.play(MORNING)
    before = play.report.datasets[0]
    assert before.prefetch
    play.history = series(values)
    now = WEEKS.time(MORNING + 1) if not values else play.history.time(len(values) - 1)
    made = next_report({URI: play.history}, play.report, SETTINGS, now, bytes_per_s=1e9)
    report, start, end = actions(replace(play.report, made_at=0), replace(made, made_at=1), SETTINGS)
    found = report.datasets[0]
    assert (found.state, start, end) == (state, [], [])
    assert found.reason
    assert found.plan is None
    assert (found.prefetch, found.prefetch_until) == (before.prefetch, before.prefetch_until)


def test_a_dataset_that_is_asked_for_no_more_loses_its_copies() -> None:
    play = Rounds()
    play.begin(MORNING - 1)
    play.play(MORNING)
    made = next_report({}, play.report, SETTINGS, WEEKS.time(MORNING + 1), bytes_per_s=1e9)
    _, start, end = actions(play.report, made, SETTINGS)
    assert (start, end) == ([], [rounds.prefetch_name(URI)])


def test_what_cannot_be_resolved_is_told_and_moves_nothing() -> None:
    play = Rounds()
    play.play(MORNING - 1)
    found = play.play(MORNING, [Sized(URI, WEEKS.time(MORNING), error="AccessDenied: no right")])
    assert (found.state, found.reason) == (DatasetState.UNRESOLVED, "AccessDenied: no right")
    assert not wants_size(found, WEEKS.time(MORNING) + HOUR)
    assert wants_size(found, WEEKS.time(MORNING) + DAY_S), "a day later"
    assert copies_now(found) == 0


def test_a_prefetch_outlives_its_plan_by_little_and_is_the_same_each_time() -> None:
    play = Rounds()
    play.begin(MORNING - 1)
    found = play.play(MORNING)
    assert found.plan is not None
    assert found.plan.until <= found.prefetch_until <= found.plan.until + 2 * HOUR
    made = next_report({URI: WEEKS.until(MORNING + 1)}, play.report, SETTINGS, WEEKS.time(MORNING), bytes_per_s=1e9)
    (spec,) = actions(play.report, made, SETTINGS)[1]
    assert spec.expires_s == found.prefetch_until - play.report.made_at
    assert (spec.idle, spec.datasets, spec.namespace) == (True, [URI], "default")


def test_the_lead_follows_the_size_and_the_speed_of_a_download() -> None:
    settings = ForecastSettings(min_lead_s=600)
    assert settings.lead_for(10**9, 1e9) == 600
    assert settings.lead_for(10**12, 1e9) == 2000
    assert settings.lead_for(10**15, 1e6) == 6 * HOUR
    assert replace(settings, lead_s=900).lead_for(10**12, 1e9) == 900


def test_the_curve_is_a_day_in_bounded_slots() -> None:
    five_minutes = series([float(slot % 288 > 100) for slot in range(288 * 20)], step_s=300)
    settings = ForecastSettings(step_s=300)
    made = next_report({URI: five_minutes}, EMPTY, settings, five_minutes.time(288 * 20 - 1), bytes_per_s=1e9)
    (found,) = made.datasets
    assert len(found.expected) == len(found.planned) == len(found.seen) == MAX_CURVE_SLOTS
    assert found.curve_step_s == 900
    assert found.curve_start == five_minutes.time(288 * 20)
    assert max(found.planned) <= 2, "1.5 times what was ever in use"
    assert UNKNOWN not in found.seen


def test_the_night_in_which_the_clocks_change_plans_nothing_wild() -> None:
    """Berlin, 29 March 2026: 2 to 3 o'clock is skipped. The rush of 9 o'clock by the clock comes an hour earlier."""
    settings = replace(SETTINGS, time_zone="Europe/Berlin")
    zone = rounds.zone("Europe/Berlin")
    history = shaped(60, rush, zone=zone)
    night = (datetime(2026, 3, 29, tzinfo=zone).timestamp() - MONDAY) // HOUR
    play = Rounds(history, settings)
    play.begin(int(night))
    for slot in range(int(night) + 1, int(night) + 24):
        play.play(slot)
    score = play.report.datasets[0].score()
    assert (score.ours.arrivals, score.ours.hits) == (8, 8)
    assert max(play.started) <= 12


def test_the_number_of_datasets_is_bounded_and_the_busiest_stay() -> None:
    quiet = {f"s3://models/{number}": series([0.0]) for number in range(MAX_DATASETS + 4)}
    made = next_report(quiet | {"s3://z": series([5.0])}, EMPTY, SETTINGS, MONDAY, bytes_per_s=1e9)
    assert len(made.datasets) == MAX_DATASETS
    assert made.left_out == 5
    assert made.datasets[-1].dataset == "s3://z"


def test_only_so_many_are_judged_in_a_round_and_each_has_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_MAX_JUDGED", 2)
    demand = {f"s3://models/{number}": WEEKS.until(MORNING) for number in range(3)}
    now = WEEKS.time(MORNING - 1)
    first = next_report(demand, EMPTY, SETTINGS, now, bytes_per_s=1e9)
    assert [bool(each.backtest.judged_at) for each in first.datasets] == [True, True, False]
    second = next_report(demand, first, SETTINGS, now + 60, bytes_per_s=1e9)
    assert [each.backtest.judged_at for each in second.datasets] == [now, now, now + 60]
    third = next_report(demand, second, SETTINGS, now + DAY_S, bytes_per_s=1e9)
    assert sum(each.backtest.judged_at == now + DAY_S for each in third.datasets) <= 2
