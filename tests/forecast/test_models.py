"""The models expect what the last weeks had, at today's level; a gap, a clock change or a holiday misleads none."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_cache.forecast import baselines
from kube_cache.forecast.headroom import STEPS, TunedQuantile
from kube_cache.forecast.replay import plans, score
from kube_cache.forecast.series import MISSING, Series
from kube_cache.forecast.wall_time import zone
from kube_cache.forecast.weekly_quantile import WeeklyQuantile, quantile
from tests.forecast.made import moment, office_hours, series, shaped

PLAIN = WeeklyQuantile(headroom=0.0)
DAY = 24
WEEK = 7 * DAY


def expected(history: Series, ahead: int = 1, model: WeeklyQuantile = PLAIN) -> float:
    position = len(history) - 1 + ahead
    return model.forecast(history, range(position, position + 1))[0]


def test_a_regular_week_repeats_itself() -> None:
    demand = shaped(29, office_hours)
    for hour in range(28 * DAY, 29 * DAY):
        assert expected(demand.until(hour)) == pytest.approx(demand.value(hour))


def test_a_day_at_half_the_level_lowers_the_plan_and_a_busy_one_raises_it() -> None:
    usual = [100.0] * (4 * WEEK)
    assert expected(series([*usual, 50.0])) == pytest.approx(100 * 53 / 103)
    assert expected(series([*usual, 150.0])) == pytest.approx(100 * 153 / 103)


def test_few_copies_prove_little_of_the_level() -> None:
    assert expected(series([*[1.0] * (4 * WEEK), 2.0])) == pytest.approx(5 / 4)


def test_a_gap_is_not_taken_for_a_quiet_night() -> None:
    usual = list(shaped(29, lambda _: 10.0).values)
    down = [MISSING if 2 * WEEK <= hour < 3 * WEEK else value for hour, value in enumerate(usual)]
    assert expected(series(down)) == expected(series(usual)) == 10


def test_without_a_level_of_today_the_last_weeks_count_as_they_are() -> None:
    assert expected(series([*[10.0] * (4 * WEEK), MISSING])) == 10


def test_a_time_that_was_never_measured_cannot_be_told() -> None:
    assert math.isnan(expected(series([5.0] * DAY)))
    assert math.isnan(expected(series([])))


def test_one_holiday_in_four_weeks_does_not_empty_the_plan() -> None:
    demand = list(shaped(29, office_hours).values)
    for hour in range(3 * WEEK, 3 * WEEK + DAY):
        demand[hour] = 0.0
    at_noon = 4 * WEEK + 12
    assert expected(series(demand[:at_noon])) >= 0.9 * demand[at_noon]


@pytest.mark.parametrize(
    ("start", "change"),
    [
        pytest.param("2026-03-02T00:00+01:00", "2026-03-29", id="spring"),
        pytest.param("2026-09-28T00:00+02:00", "2026-10-25", id="autumn"),
    ],
)
def test_the_rush_is_expected_at_nine_by_the_clock_after_a_change(start: str, change: str) -> None:
    demand = shaped(35, lambda at: 20.0 if at.hour == 9 else 0.0, zone=zone("Europe/Berlin"), start=moment(start))
    first = datetime.fromisoformat(change).replace(tzinfo=zone("Europe/Berlin")).timestamp()
    for hour in range(demand.position(int(first)), len(demand)):
        planned = expected(demand.until(hour))
        assert (planned > 10) == (demand.value(hour) > 10), datetime.fromtimestamp(demand.time(hour), demand.zone)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12), st.floats(0, 1))
def test_a_quantile_lies_among_its_values(values: list[float], share: float) -> None:
    assert min(values) <= quantile(values, share) <= max(values)


@pytest.mark.parametrize(("share", "value"), [(0, 1), (0.5, 2.5), (0.75, 3.25), (1, 4)])
def test_quantiles(share: float, value: float) -> None:
    assert quantile([4, 1, 3, 2], share) == value


@given(
    st.lists(st.floats(0, 1e5) | st.just(MISSING), min_size=WEEK + 1, max_size=2 * WEEK),
    st.integers(1, 3),
)
def test_ours_is_never_negative_nor_infinite_for_demand_that_can_be(values: list[float], ahead: int) -> None:
    planned = expected(series(values), ahead, WeeklyQuantile())
    assert math.isnan(planned) or 0 <= planned < math.inf


def test_headroom_is_the_least_that_had_the_hits() -> None:
    demand = noisy(6)
    first = len(demand) - 2 * WEEK
    model = TunedQuantile(wanted_hit_rate=0.98, max_wasted=math.inf)
    chosen = model.fit(demand, 1)
    rates = {
        step: score(demand, plans(demand, model.base.with_headroom(step), 1, first, len(demand)), first).hit_rate
        for step in STEPS
    }
    assert 0 < chosen.headroom < STEPS[-1]
    assert rates[chosen.headroom] >= 0.93
    assert rates[STEPS[STEPS.index(chosen.headroom) - 1]] < 0.98


def test_the_allowed_waste_bounds_the_headroom() -> None:
    demand = noisy(6)
    greedy = TunedQuantile(wanted_hit_rate=1.0, max_wasted=math.inf).fit(demand, 1)
    thrifty = TunedQuantile(wanted_hit_rate=1.0, max_wasted=0.3).fit(demand, 1)
    first = len(demand) - 2 * WEEK
    assert thrifty.headroom < greedy.headroom
    assert score(demand, plans(demand, thrifty, 1, first, len(demand)), first).wasted_each <= 0.3


def test_one_strange_day_does_not_raise_the_headroom_of_two_weeks() -> None:
    usual = noisy(6)
    strange = list(usual.values)
    for hour in range(len(strange) - 4 * DAY, len(strange) - 3 * DAY):
        strange[hour] *= 3
    model = TunedQuantile(wanted_hit_rate=0.9, max_wasted=math.inf)
    assert model.fit(series(strange), 1).headroom <= model.fit(usual, 1).headroom + 0.2


def test_too_few_arrivals_choose_nothing() -> None:
    model = TunedQuantile(base=replace(PLAIN, headroom=0.7))
    assert model.fit(shaped(42, lambda at: float(at.hour == 9 and at.weekday() == 0)), 1).headroom == 0.7
    assert model.fit(series([]), 1).headroom == 0.7


def test_the_baselines() -> None:
    demand = series([float(hour % WEEK // DAY) for hour in range(5 * WEEK)])
    end, following = len(demand), range(len(demand), len(demand) + 1)
    assert baselines.Reactive().fit(demand, 1).forecast(demand, following) == [0]
    assert baselines.AlwaysOn().fit(demand, 1).forecast(demand, following) == [6]
    assert baselines.LastValue().fit(demand, 1).forecast(demand, following) == [7]
    assert baselines.SeasonalNaive().fit(demand, 1).forecast(demand, range(end, end + 25))[::24] == [0, 1]
    assert baselines.WeeklyMedian().fit(demand, 1).forecast(demand, following) == [0]
    assert math.isnan(baselines.SeasonalNaive().forecast(demand.until(9), range(9, 10))[0])


def noisy(weeks: int) -> Series:
    """Office hours, each hour a little more or less, in a pattern that does not repeat itself weekly."""
    regular = shaped(weeks * 7, office_hours)
    return series([value + (hour * 7919 % 23) / 6 if value else 0.0 for hour, value in enumerate(regular.values)])
