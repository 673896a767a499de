"""The bench replays the series that its page names, and the goals of the page hold on them."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path

import pytest

from kube_cache.forecast.baselines import AlwaysOn
from kube_cache.forecast.forecaster import Model
from kube_cache.forecast.gate import judge
from kube_cache.forecast.headroom import TunedQuantile
from kube_cache.forecast.replay import Score, plans, score
from tests.bench.predict_series import Case, cases, given, nine_o_clock


def case(name: str) -> Case:
    return next(each for each in cases() if each.name == name)


def replayed(case: Case, model: Model) -> Score:
    lead = case.demand.slots(case.lead_s)
    return score(case.demand, plans(case.demand, model, lead, case.first, len(case.demand)), case.first)


def test_the_real_series_are_whole() -> None:
    found = {each.name: (len(each.demand), each.demand.step_s) for each in cases()}
    assert found["nyc_taxi"] == (10_320, 1800)
    assert found["aapl_tweets"] == (15_902, 300)
    assert not any(math.isnan(value) for each in cases() for value in each.demand.values)


def test_the_rush_is_at_nine_in_berlin_on_both_sides_of_the_clock_change() -> None:
    rush = nine_o_clock(seed=2)
    for day in ("2026-03-27", "2026-03-30"):
        begin = rush.position(int(datetime.fromisoformat(f"{day}T00:00").replace(tzinfo=rush.zone).timestamp()))
        peak = max(range(begin, begin + 288), key=rush.value)
        assert 9 <= datetime.fromtimestamp(rush.time(peak), rush.zone).hour < 11
    assert nine_o_clock(seed=2).values == rush.values != nine_o_clock(seed=1).values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        pytest.param("2026-02-02 00:00:00,4\n2026-02-02 00:05:00,6\n", [2, 3], id="local times"),
        pytest.param(
            "1769990400,4\n1769990700,\n1769991000,8\n1769991300,2\n", [2, math.nan, 4, 1], id="an empty value"
        ),
        pytest.param("2026-02-02T01:00:00+01:00,4\n2026-02-02T00:05:00Z,6\n", [2, 3], id="offsets"),
    ],
)
def test_any_file_of_timestamp_and_value_is_read(tmp_path: Path, text: str, values: list[float]) -> None:
    (tmp_path / "mine.csv").write_text(f"timestamp,value\n{text}")
    found = given(tmp_path / "mine.csv", lead_s=600, per_copy=2, zone_name="UTC")
    assert str(list(found.demand.values)) == str([float(value) for value in values])
    assert (found.name, found.demand.step_s, found.demand.start) == ("mine", 300, 1769990400)


@pytest.mark.slow
def test_on_the_taxis_ours_hits_with_a_fraction_of_the_idle_hours() -> None:
    ours, always = (replayed(case("nyc_taxi"), model) for model in (TunedQuantile(), AlwaysOn()))
    assert ours.hit_rate >= 0.95
    assert ours.idle_h_each <= 0.07 * always.idle_h_each


@pytest.mark.slow
def test_the_rush_hits_and_acts_and_the_tweets_do_not_act() -> None:
    rush, tweets = case("rush"), case("aapl_tweets")
    assert replayed(rush, TunedQuantile()).hit_rate >= 0.75
    for each, acts in ((rush, True), (tweets, False)):
        verdict = judge(each.demand, TunedQuantile(), 2, each.demand.time(len(each.demand)))
        assert verdict.acts is acts, verdict.reason
