"""Today's workflows replay yesterday's histories: what is in flight survives an upgrade."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from tests.workflows.record import HISTORIES, SCENARIOS, WATCH_WAITS
from tests.workflows.workbench import WORKFLOWS

_FILES = sorted(HISTORIES.glob("*.json"))


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in _FILES])
def test_a_recorded_history_replays(path: object) -> None:
    history = WorkflowHistory.from_json("", path.read_text())
    # A group's pauses follow from its id, which must be the one that it had.
    history = replace(history, workflow_id=history.events[0].workflow_execution_started_event_attributes.workflow_id)
    # Without debug_mode a thread that gets no processor for two seconds counts as a deadlock.
    asyncio.run(Replayer(workflows=WORKFLOWS, debug_mode=True).replay_workflow(history))


def test_every_scenario_was_recorded() -> None:
    found = {(path.stem.split(".")[0], path.stem.split(".")[2]) for path in _FILES}
    assert found == {(scenario.__name__, how) for scenario in SCENARIOS for how in WATCH_WAITS}
