"""Today's workflows replay yesterday's histories: what is in flight survives an upgrade."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from tests.workflows.record import HISTORIES, SCENARIOS, WATCH_WAITS
from workflows.dataset_on_node import DatasetOnNode
from workflows.reconcile import Reconcile
from workflows.warm_pod.workflow import WarmPod

_FILES = sorted(HISTORIES.glob("*.json"))


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in _FILES])
def test_a_recorded_history_replays(path: object) -> None:
    history = WorkflowHistory.from_json(path.stem, path.read_text())
    asyncio.run(Replayer(workflows=[WarmPod, DatasetOnNode, Reconcile]).replay_workflow(history))


def test_every_scenario_was_recorded() -> None:
    found = {(path.stem.split(".")[0], path.stem.split(".")[2]) for path in _FILES}
    assert found == {(scenario.__name__, how) for scenario in SCENARIOS for how in WATCH_WAITS}
