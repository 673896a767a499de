"""How the last reconciles went, as metrics: from Temporal, for any operator may have run them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from temporalio.client import Client, ScheduleActionStartWorkflow, ScheduleOverlapPolicy
from temporalio.client import WorkflowExecutionStatus as Status

from kube_cache import names
from kube_cache.contracts.reconcile import ReconcileResult
from kube_cache.telemetry import metrics
from kube_cache.temporal import reconcile_schedule
from tests.telemetry.scrape import value
from tests.workflows.workbench import until
from tools.stack.temporal import Temporal


def run(status: Status, *, ago_s: float, took_s: float = 2) -> Any:
    began = datetime.now(UTC) - timedelta(seconds=ago_s)
    ended = None if status == Status.RUNNING else began + timedelta(seconds=took_s)
    return SimpleNamespace(id="reconcile", run_id="run", status=status, start_time=began, close_time=ended)


def measured(*runs: Any) -> dict[str, float | None]:
    """runs: the latest first."""

    class Runs:
        async def list_workflows(self, query: str, *, limit: int) -> AsyncIterator[Any]:
            for each in runs[:limit]:
                yield each

        def get_workflow_handle(self, _id: str, **_: Any) -> Any:
            async def result(**_: Any) -> ReconcileResult:
                return ReconcileResult(nodes_seen=5, nodes_silent=2)

            return SimpleNamespace(result=result)

    metrics.clear_as_follower()
    asyncio.run(reconcile_schedule.measure(Runs()))  # type: ignore[arg-type]
    return {
        name: metrics.REGISTRY.get_sample_value(f"kube_cache_reconcile_{name}", {"operator": "leader"})
        for name in ("success_age_seconds", "failures", "duration_seconds")
    }


def test_the_age_of_the_last_success_and_the_failures_since_are_exported() -> None:
    found = measured(
        run(Status.RUNNING, ago_s=1),
        run(Status.FAILED, ago_s=300),
        run(Status.TIMED_OUT, ago_s=600),
        run(Status.COMPLETED, ago_s=900),
        run(Status.FAILED, ago_s=1200),
    )
    assert found["failures"] == 2
    assert found["success_age_seconds"] is not None
    assert 890 < found["success_age_seconds"] < 930
    assert found["duration_seconds"] == 2
    findings = {kind: value("kube_cache_reconcile_findings", finding=kind) for kind in ("nodes_silent", "unpinned")}
    assert findings == {"nodes_silent": 2, "unpinned": 0}


def test_a_reconcile_that_never_succeeded_grows_old_all_the_same() -> None:
    found = measured(run(Status.FAILED, ago_s=10), run(Status.FAILED, ago_s=1000))
    assert found["failures"] == 2
    assert found["success_age_seconds"] is not None
    assert found["success_age_seconds"] >= 1000
    assert found["duration_seconds"] is None


async def test_runs_never_overlap_and_one_that_hangs_is_ended_before_a_young_pin_grows_old(
    temporal_server: Temporal,
) -> None:
    client = await Client.connect(temporal_server.address, namespace=names.TEMPORAL_NAMESPACE)
    await reconcile_schedule.ensure(client, interval_s=3600)
    schedule = (await client.get_schedule_handle(names.RECONCILE_SCHEDULE).describe()).schedule
    assert schedule.policy.overlap == ScheduleOverlapPolicy.SKIP
    assert isinstance(schedule.action, ScheduleActionStartWorkflow)
    assert schedule.action.run_timeout is not None
    assert schedule.action.run_timeout.total_seconds() < 600, "see `grace_s` in kube_cache.store.node_store"


async def test_a_run_of_an_older_build_is_ended_for_nobody_could_go_on_with_it(temporal_server: Temporal) -> None:
    client = await Client.connect(temporal_server.address, namespace=names.TEMPORAL_NAMESPACE)
    old = await client.start_workflow(names.FORMER_RECONCILE, id=f"reconcile-{uuid.uuid4()}", task_queue="nobody")

    async def ended() -> bool:
        await reconcile_schedule.ensure(client, interval_s=3600)
        return (await old.describe()).status == Status.TERMINATED

    await until(ended)  # the list of open workflows lags


async def test_an_agent_that_asks_twice_leaves_one_request_which_knows_both_reasons(temporal_server: Temporal) -> None:
    """Without a schedule, as before the first operator has made it: the request waits all the same."""
    client = await Client.connect(temporal_server.address, namespace=names.TEMPORAL_NAMESPACE)
    node = f"node-{uuid.uuid4().hex[:8]}"
    for reason in ("the index was rebuilt", "damage was found"):
        await reconcile_schedule.request(client, node, reason)
    handle = client.get_workflow_handle(names.reconcile_request_id(node))
    asked = [
        event.workflow_execution_signaled_event_attributes
        async for event in handle.fetch_history_events()
        if event.HasField("workflow_execution_signaled_event_attributes")
    ]
    assert [b"index" in signal.input.payloads[0].data for signal in asked] == [True, False]
    assert (await handle.describe()).status == Status.RUNNING
    await handle.terminate()
