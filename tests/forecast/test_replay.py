"""The score counts what its rules say, and no plan knows the future."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kube_cache.forecast import baselines
from kube_cache.forecast.forecaster import Model
from kube_cache.forecast.headroom import TunedQuantile
from kube_cache.forecast.replay import Score, daily_scores, plans, score
from kube_cache.forecast.series import MISSING
from kube_cache.forecast.weekly_quantile import WeeklyQuantile
from tests.forecast.made import office_hours, series, shaped

MODELS: Sequence[Model] = (
    baselines.Reactive(),
    baselines.AlwaysOn(),
    baselines.LastValue(),
    baselines.SeasonalNaive(),
    baselines.WeeklyMedian(),
    WeeklyQuantile(),
    TunedQuantile(),
)
AMOUNTS = st.integers(0, 6) | st.just(MISSING)


@pytest.mark.parametrize(
    ("demand", "planned", "expected"),
    [
        pytest.param([0, 2, 2], [0, 0], Score(2, 0, 0, 0, 0), id="reactive: both miss"),
        pytest.param([0, 2, 2], [2, 2], Score(2, 2, 2, 0, 0), id="ready in time: both hit"),
        pytest.param([0, 3, 3], [2, 3], Score(3, 2, 2, 0, 0), id="one too few"),
        pytest.param([0, 0, 1], [1, 1], Score(1, 1, 1, 0, 1), id="an hour too early is an idle hour"),
        pytest.param([0, 0, 0, 1], [1, 0, 0], Score(1, 0, 1, 1, 1), id="retired unused is wasted"),
        pytest.param([2, 0, 2], [2, 2], Score(2, 2, 0, 0, 2), id="what Pods leave stays warm as planned"),
        pytest.param([2, 0, 2], [0, 0], Score(2, 0, 0, 0, 0), id="what Pods leave goes without a plan"),
        pytest.param([1, 1, 2], [3, 3], Score(1, 1, 2, 0, 3), id="a plan counts those in use"),
        pytest.param([0, 1, 1], [MISSING, 1], Score(1, 0, 0, 0, 0), id="a plan of NaN is none"),
        pytest.param([0, MISSING, 5, 6], [6, 6, 6], Score(1, 1, 1, 0, 1), id="a gap hides who came in it"),
    ],
)
def test_what_counts(demand: list[float], planned: list[float], expected: Score) -> None:
    assert score(series(demand), planned, first=1) == expected


def test_always_on_wastes_nothing_and_idles_most() -> None:
    demand = shaped(35, office_hours)
    found = score(demand, plans(demand, baselines.AlwaysOn(), 1, 28 * 24, len(demand)), 28 * 24)
    assert found.hit_rate == 1
    assert found.wasted == 0
    assert found.idle_h == sum(12 - office for office in demand.values[28 * 24 :])


@given(st.lists(AMOUNTS, min_size=2, max_size=60), st.data())
def test_nothing_is_counted_twice(demand: list[float], data: st.DataObject) -> None:
    planned = data.draw(st.lists(AMOUNTS, min_size=len(demand) - 1, max_size=len(demand) - 1))
    found = score(series(demand), planned, first=1)
    assert found.hits + found.misses == found.arrivals
    assert 0 <= found.wasted <= found.brought
    assert found.idle_h >= 0
    assert 0 <= found.hits <= found.arrivals


@given(st.lists(AMOUNTS, min_size=2, max_size=60), st.data())
def test_a_larger_plan_never_has_fewer_hits(demand: list[float], data: st.DataObject) -> None:
    planned = data.draw(st.lists(st.integers(0, 6), min_size=len(demand) - 1, max_size=len(demand) - 1))
    more = [copies + data.draw(st.integers(0, 2)) for copies in planned]
    assert score(series(demand), more, 1).hits >= score(series(demand), planned, 1).hits


def test_the_days_of_a_score_are_those_of_the_whole() -> None:
    demand = shaped(10, office_hours)
    planned = [5.0] * (len(demand) - 24)
    days = daily_scores(demand, planned, 24)
    assert len(days) == 9
    assert sum(day.hits for day in days) == score(demand, planned, 24).hits


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
@settings(max_examples=8, deadline=None)
@given(st.integers(22 * 24, 30 * 24 - 1), st.integers(1, 3), st.integers(0, 2**32))
def test_a_change_of_the_future_changes_no_plan_of_the_past(model: Model, now: int, lead: int, seed: int) -> None:
    """Demand after `now` becomes something else: all plans that were made until then, `lead` slots ahead, stay."""
    first, random = 21 * 24, Random(seed)
    past = [office_hours_with_noise(hour, random.random()) for hour in range(now + 1)]
    futures = [[random.choice([MISSING, 0.0, 500.0 * random.random()]) for _ in range(31 * 24 - now - 1)] for _ in "ab"]
    made = [plans(series(past + future), model, lead, first, now + lead + 1) for future in futures]
    assert len(made[0]) == now + lead + 1 - first
    assert [str(plan) for plan in made[0]] == [str(plan) for plan in made[1]]  # NaN is equal to NaN here


def test_a_change_of_the_last_slot_that_is_known_changes_the_plan() -> None:
    """The test before would pass for a model that knows nothing."""
    usual = list(shaped(29, office_hours).values)[: 28 * 24 + 14]
    for model in (baselines.LastValue(), WeeklyQuantile(), TunedQuantile()):
        busy = [*usual[:-3], usual[-3] + 50, *usual[-2:]]
        planned = [plans(series(values), model, 2, len(usual) - 1, len(usual)) for values in (usual, busy)]
        assert planned[1] > planned[0]


def office_hours_with_noise(hour: int, noise: float) -> float:
    return max(0, 6 - abs(hour % 24 - 13)) * 2 + math.floor(3 * noise)
