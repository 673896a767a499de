"""A reconcile that fails again and again is told where people look, and not before it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus as Status
from temporalio.service import RPCError, RPCStatusCode

from watcher.reconcile_health import ReconcileHealth

LEASE = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "name": "kube-cache-operator", "uid": "lease-uid"}


class Temporal:
    def __init__(self, *runs: tuple[Status, float]) -> None:
        """runs: status, and seconds since it began; the latest first."""
        self._runs = runs

    async def list_workflows(self, _query: str, *, limit: int) -> AsyncIterator[Any]:
        for number, (status, ago_s) in enumerate(self._runs[:limit]):
            began = datetime.now(UTC) - timedelta(seconds=ago_s)
            ended = None if status == Status.RUNNING else began + timedelta(seconds=1)
            yield SimpleNamespace(
                id=f"reconcile-{number}", run_id="run", status=status, start_time=began, close_time=ended
            )

    def get_workflow_handle(self, _id: str, **_: Any) -> Any:
        """The histories of the runs are gone, as after Temporal's retention."""

        async def result(**_: Any) -> None:
            raise RPCError("workflow not found", RPCStatusCode.NOT_FOUND, b"")

        return SimpleNamespace(result=result)


def events(*runs: tuple[Status, float]) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    kube = SimpleNamespace(create=lambda _path, body: written.append(body))
    health = ReconcileHealth(
        Temporal(*runs), kube, lambda: True, lambda: LEASE, namespace="seats", interval_s=300  # type: ignore[arg-type]
    )  # fmt: skip
    asyncio.run(health.check())
    return written


def test_a_reconcile_that_has_not_succeeded_for_three_intervals_is_told_on_the_lease() -> None:
    (event,) = events((Status.RUNNING, 5), (Status.FAILED, 305), (Status.TIMED_OUT, 905), (Status.COMPLETED, 1205))
    assert event["regarding"] == {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "namespace": "seats",
        "name": "kube-cache-operator",
        "uid": "lease-uid",
    }
    assert (event["type"], event["reason"]) == ("Warning", "ReconcileFailing")
    assert "2 have failed" in event["note"]
    assert "workflow reconcile-1 in Temporal's UI" in event["note"]


@pytest.mark.parametrize(
    "runs",
    [
        pytest.param([(Status.COMPLETED, 10), (Status.FAILED, 2000)], id="it has succeeded since"),
        pytest.param([(Status.FAILED, 10), (Status.COMPLETED, 400)], id="once is no trouble"),
        pytest.param([(Status.RUNNING, 10), (Status.COMPLETED, 9000)], id="no operator ran for a while"),
        pytest.param([], id="it never ran"),
    ],
)
def test_a_reconcile_that_may_be_well_is_not_told(runs: list[tuple[Status, float]]) -> None:
    assert events(*runs) == []
