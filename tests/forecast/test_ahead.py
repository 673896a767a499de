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
from kube_cache.forecast.ahead import missing
from kube_cache.forecast.carried_out import ahead
from kube_cache.forecast.settings import ForecastSettings

A, B = "s3://models/a", "s3://models/b"


def want(dataset: str, copies: int) -> AheadWanted:
    return AheadWanted(dataset, copies, 2400)


@pytest.mark.parametrize(
    ("wanted", "nodes", "used", "held", "copies"),
    [
        pytest.param({A: 3}, "xy", {}, "", {A: 1}, id="one node too few"),
        pytest.param({A: 3}, "xyz", {}, "", {}, id="enough nodes"),
        pytest.param({A: 2}, "", {}, "", {A: 2}, id="no node at all"),
        pytest.param({A: 3}, "xyz", {}, "z", {A: 1}, id="a node that came for a placeholder is kept"),
        pytest.param({A: 3}, "xyz", {"z": {A}}, "", {}, id="the Pod has come there instead"),
        pytest.param({A: 3}, "xyz", {"z": {A}}, "z", {}, id="beside it"),
        pytest.param({A: 3}, "xyz", {"z": {B}}, "", {A: 1}, id="another dataset has the node"),
        pytest.param({A: 3}, "xy", {"z": {A}}, "", {}, id="in use on a node that may not be chosen any more"),
        pytest.param({A: 1, B: 2}, "xy", {}, "", {B: 1}, id="an idle node counts once"),
        pytest.param({A: 4, B: 4}, "", {}, "", {A: 2, B: 1}, id="the budget is shared"),
    ],
)
def test_what_is_missing(
    wanted: Mapping[str, int],
    nodes: str,
    used: Mapping[str, Collection[str]],
    held: str,
    copies: Mapping[str, int],
) -> None:
    found = missing([want(*each) for each in wanted.items()], list(nodes), used, list(held), 3)
    assert found.copies == copies


def test_a_placeholder_keeps_away_from_nodes_that_count_already_and_from_no_other() -> None:
    found = missing([want(A, 9)], list("vwxyz"), {"x": {A}, "y": {B}}, ["z"], 3)
    assert found.counted == {"v", "w", "x"}


def test_without_a_budget_nothing_is_placed() -> None:
    assert missing([want(A, 3)], [], {}, [], 0).copies == {}


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
