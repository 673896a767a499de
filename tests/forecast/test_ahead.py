"""How many placeholder Pods stand: one for each copy for which no node is there, within a budget."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest

from kube_cache.contracts.forecast import (
    AheadWanted,
    DatasetForecast,
    DatasetState,
    ForecastReport,
    RunState,
    ScoredPlan,
)
from kube_cache.forecast.ahead import decide
from kube_cache.forecast.carried_out import ahead
from kube_cache.forecast.settings import ForecastSettings

A, B = "s3://models/a", "s3://models/b"


def want(dataset: str, copies: int) -> AheadWanted:
    return AheadWanted(dataset, copies, 2400)


@pytest.mark.parametrize(
    ("wanted", "nodes", "used", "came", "kept", "more"),
    [
        pytest.param({A: 3}, "xy", {}, {}, 0, {A: 3}, id="one node too few, and a placeholder for each idle node"),
        pytest.param({A: 3}, "xyz", {}, {}, 0, {}, id="enough nodes"),
        pytest.param({A: 2}, "", {}, {}, 0, {A: 2}, id="no node at all"),
        pytest.param({A: 3}, "xyz", {}, {"z": A}, 1, {}, id="a node that came is kept, and idle ones are free"),
        pytest.param({A: 4}, "xyz", {}, {"z": A}, 1, {A: 3}, id="a second one is missing"),
        pytest.param({A: 3}, "xyz", {"z": {A}}, {}, 0, {}, id="the Pod has come there instead"),
        pytest.param({A: 3}, "xyz", {"z": {A}}, {"z": A}, 0, {}, id="beside it"),
        pytest.param({A: 3}, "xyz", {"z": {B}}, {}, 0, {A: 3}, id="another dataset has the node"),
        pytest.param({A: 3}, "xy", {"z": {A}}, {}, 0, {}, id="in use on a node that may not be chosen any more"),
        pytest.param({A: 1, B: 2}, "xy", {}, {}, 0, {B: 3}, id="an idle node counts once"),
        pytest.param({A: 9, B: 9}, "", {}, {}, 0, {A: 2, B: 2}, id="the budget is shared"),
        pytest.param({A: 9}, "wxy", {}, {}, 0, {A: 4}, id="the budget has those on idle nodes, too"),
    ],
)
def test_how_many_stand(
    wanted: Mapping[str, int],
    nodes: str,
    used: Mapping[str, Collection[str]],
    came: Mapping[str, str],
    kept: int,
    more: Mapping[str, int],
) -> None:
    found = decide([want(*each) for each in wanted.items()], list(nodes), used, came, 4)
    assert (sum(found.kept.values()), found.more, found.reason) == (kept, more, "")


def test_a_budget_that_idle_nodes_use_up_is_told() -> None:
    found = decide([want(A, 9)], list("wxyz"), {}, {}, 4)
    assert found.more == {}
    assert "5 nodes are missing" in found.reason
    assert "KUBE_CACHE_FORECAST__MAX_PLACEHOLDERS" in found.reason


def test_only_what_acts_is_placed_and_until_the_slots_of_its_plan_are_over() -> None:
    """In forecast-only, and without a plan to come, no node is asked for."""
    pending = [ScoredPlan(900, 3, True), ScoredPlan(1200, 2, True)]
    datasets = [
        DatasetForecast(A, DatasetState.ACTING, lead_s=600, pending=pending, scored_until=900),
        DatasetForecast(B, DatasetState.FORECAST_ONLY, lead_s=600, pending=pending, scored_until=900),
        DatasetForecast("s3://models/c", DatasetState.ACTING, lead_s=600, pending=pending, scored_until=1500),
    ]
    report = ForecastReport(RunState.OK, datasets=datasets)
    assert ahead(report, ForecastSettings(step_s=300)) == [AheadWanted(A, 3, 2400)]
