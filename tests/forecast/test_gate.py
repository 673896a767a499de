"""The gate lets a forecast act only where it would have paid, and names each history from which nothing can be told."""

from __future__ import annotations

import math
from random import Random

import pytest

from kube_cache.forecast.baselines import AlwaysOn, Reactive
from kube_cache.forecast.condition import HistoryNeeds, State, examine
from kube_cache.forecast.gate import GateRules, Mode, judge
from kube_cache.forecast.headroom import TunedQuantile
from kube_cache.forecast.series import MISSING, Series
from tests.forecast.made import office_hours, series, shaped

USUAL = shaped(35, office_hours)


def end(history: Series) -> int:
    return history.time(len(history))


def test_a_regular_series_acts() -> None:
    verdict = judge(USUAL, TunedQuantile(), 1, end(USUAL))
    assert verdict.mode is Mode.ACTS
    assert verdict.score.hit_rate > 0.95
    assert verdict.reason.startswith("acts: the last 7 days would have had 100% hits and 0.00 wasted copies")


def test_noise_is_forecast_only_and_says_why() -> None:
    chance = Random(5)
    noise = series([float(chance.choice([0, 0, 0, 0, 0, 0, 9])) for _ in range(35 * 24)])
    verdict = judge(noise, TunedQuantile(), 1, end(noise))
    assert verdict.mode is Mode.FORECAST_ONLY
    assert verdict.state is State.USABLE
    assert "hits and" in verdict.reason
    assert "at least 70% and at most 0.50 are asked for" in verdict.reason


@pytest.mark.parametrize(
    ("model", "rules", "acts"),
    [
        pytest.param(AlwaysOn(), GateRules(), True, id="all hits, no waste"),
        pytest.param(Reactive(), GateRules(), False, id="no hits"),
        pytest.param(Reactive(), GateRules(min_hit_rate=0), True, id="no hits are asked for"),
        pytest.param(AlwaysOn(), GateRules(max_wasted=0), True, id="no waste, none allowed"),
    ],
)
def test_the_owner_rules(model: AlwaysOn | Reactive, rules: GateRules, acts: bool) -> None:
    assert judge(USUAL, model, 1, end(USUAL), rules).acts is acts


def test_few_arrivals_prove_nothing() -> None:
    rare = shaped(35, lambda at: float(at.hour == 9))
    verdict = judge(rare, TunedQuantile(), 1, end(rare))
    assert not verdict.acts
    assert "the last 7 days had 7 arrivals, and 20 are needed to judge by" in verdict.reason


@pytest.mark.parametrize(
    ("values", "age_h", "state", "told"),
    [
        pytest.param([], 0, State.EMPTY, "check that the expression gives a series", id="empty"),
        pytest.param([MISSING] * 900, 0, State.EMPTY, "no demand was measured", id="only NaN"),
        pytest.param([1.0] * 24 * 13, 0, State.SHORT, "13.0 days of demand are known and 14 are needed", id="short"),
        pytest.param([*USUAL.values, -1.0], 0, State.NEGATIVE, "demand was -1 at", id="negative"),
        pytest.param([*USUAL.values, -math.inf], 0, State.NEGATIVE, "demand was -inf at", id="minus infinite"),
        pytest.param([*USUAL.values, 7e10], 0, State.ABSURD, "not bytes or seconds", id="bytes"),
        pytest.param([*USUAL.values, math.inf], 0, State.ABSURD, "demand was inf at", id="infinite"),
        pytest.param([1.0, MISSING, MISSING] * 24 * 10 + [1.0], 0, State.GAPS, "only 33% of the slots", id="gaps"),
        pytest.param(USUAL.values, 4, State.STALE, "the last measurement is 4h00m old", id="stale"),
        pytest.param([*USUAL.values, *[MISSING] * 4], 0, State.STALE, "4h00m old", id="no measurement lately"),
        pytest.param(USUAL.values, 2, State.USABLE, "", id="usable"),
        pytest.param([*[MISSING] * 99, *USUAL.values], 0, State.USABLE, "", id="began late"),
    ],
)
def test_each_bad_history_has_a_name_and_moves_nothing(
    values: list[float], age_h: int, state: State, told: str
) -> None:
    history = series(values)
    now = end(history) + age_h * 3600
    found, wrong = examine(history, now)
    assert found is state
    assert told in wrong
    verdict = judge(history, TunedQuantile(), 1, now)
    assert verdict.state is state
    assert verdict.acts is (state is State.USABLE)
    if state is not State.USABLE:
        assert verdict.reason == f"forecast-only: {wrong}"


def test_what_a_history_needs_is_the_owners_choice() -> None:
    assert examine(USUAL, end(USUAL), HistoryNeeds(min_days=36))[0] is State.SHORT
    assert examine(USUAL, end(USUAL), HistoryNeeds(max_copies=11))[0] is State.ABSURD
