"""A series keeps what was measured, and nothing else: gaps are missing and not zero."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_cache.errors import InvalidRequest
from kube_cache.forecast.series import MAX_SLOTS, Series, whole_copies
from kube_cache.forecast.wall_time import zone
from tests.forecast.made import HOUR, MONDAY, UTC, moment, series

POINTS = st.lists(st.tuples(st.integers(0, 400_000), st.floats(0, 1e6) | st.just(math.nan)), max_size=40)


def points(*given: tuple[float, float]) -> list[float]:
    return list(Series.from_points(given, step_s=60, zone=UTC).values)


def test_a_slot_without_a_point_is_missing() -> None:
    assert points((0, 2), (180, 5))[0::3] == [2, 5]
    assert all(math.isnan(value) for value in points((0, 2), (180, 5))[1:3])


def test_nan_is_no_measurement_and_zero_is_one() -> None:
    assert points((0, 1), (60, math.nan), (60, 0), (120, 1)) == [1, 0, 1]


def test_the_largest_of_several_points_in_a_slot_counts_in_any_order() -> None:
    assert points((59, 3), (0, 1), (61, 2), (1, 2)) == [3, 2]


def test_a_series_ends_now_and_not_with_its_last_measurement() -> None:
    made = Series.from_points([(60, 1), (300, 9)], step_s=60, zone=UTC, end=200)
    assert str(list(made.values)) == str([1.0, math.nan, math.nan])
    assert len(Series.from_points([], step_s=60, zone=UTC, end=200)) == 0


@pytest.mark.parametrize("given", [pytest.param([], id="none"), pytest.param([(60, math.nan)], id="only NaN")])
def test_no_measurement_is_an_empty_series(given: list[tuple[float, float]]) -> None:
    assert points(*given) == []


@given(POINTS)
def test_each_measurement_is_covered_and_no_other_slot_has_a_number(given: list[tuple[int, float]]) -> None:
    made = Series.from_points(given, step_s=300, zone=UTC)
    measured = [(at, value) for at, value in given if not math.isnan(value)]
    assert all(made.value(made.position(at)) >= value for at, value in measured)
    numbers = {slot for slot, value in enumerate(made.values) if not math.isnan(value)}
    assert numbers == {made.position(at) for at, _ in measured}


def test_a_series_is_bounded() -> None:
    with pytest.raises(InvalidRequest, match="ask for fewer days or a longer step"):
        points((0, 1), (MAX_SLOTS * 60, 1))
    with pytest.raises(InvalidRequest, match="ask for fewer days or a longer step"):
        series([0.0] * (MAX_SLOTS + 1))


@pytest.mark.parametrize("step", [0, -60, 86_401])
def test_a_step_that_makes_no_sense_is_refused(step: int) -> None:
    with pytest.raises(InvalidRequest, match="no length of a slot"):
        series([1.0], step_s=step)


@pytest.mark.parametrize("at", [math.nan, math.inf])
def test_a_point_without_a_time_is_refused(at: float) -> None:
    with pytest.raises(InvalidRequest, match="seconds since the epoch"):
        points((at, 1))


def test_outside_of_a_series_nothing_is_known() -> None:
    made = series([1, 2, 3])
    assert math.isnan(made.value(-1))
    assert math.isnan(made.value(3))
    assert math.isnan(made.until(2).value(2))
    assert len(made.until(-5)) == 0


def test_a_series_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        series([1, 2]).values[0] = 5.0


def test_nine_o_clock_moves_with_the_clocks() -> None:
    made = series([0.0], start=moment("2026-03-01T00:00+01:00"), zone=zone("Europe/Berlin"))
    summer = made.position(moment("2026-03-30T09:00+02:00"))
    assert made.same_slot_before(summer, 7) == (made.position(moment("2026-03-23T09:00+01:00")),)
    assert summer - made.same_slot_before(summer, 7)[0] == 7 * 24 - 1


def test_times_and_positions_are_each_others_inverse() -> None:
    made = series([0.0] * 5)
    assert [made.position(made.time(slot) + HOUR - 1) for slot in range(-2, 8)] == list(range(-2, 8))
    assert made.time(0) == MONDAY


@pytest.mark.parametrize(
    ("amount", "copies"), [(0, 0), (0.01, 1), (3.0000000001, 3), (3.1, 4), (-2, 0), (math.nan, 0), (math.inf, 0)]
)
def test_copies_are_rounded_up(amount: float, copies: int) -> None:
    assert whole_copies(amount) == copies
