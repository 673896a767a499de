"""Executions from outside: the query for running workflows, and signals to workflows that may have ended."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.service import RPCError, RPCStatusCode

from kube_cache.temporal import executions
from kube_cache.temporal.search_attributes import dataset_value, initial
from tests.watcher.fakes import no_namespace


class FakeClient:
    """One workflow, which answers or raises as told."""

    def __init__(self, *, error: RPCStatusCode | RPCError | None = None, close_time: object = None) -> None:
        self.queries: list[str] = []
        self.signals: list[tuple[str, list[Any]]] = []
        self._error = error
        self._close_time = close_time

    def list_workflows(self, query: str) -> str:
        self.queries.append(query)
        return query

    def get_workflow_handle(self, _workflow_id: str) -> Any:
        return SimpleNamespace(signal=self._signal, describe=self._describe)

    async def _signal(self, name: str, *, args: list[Any], **_: Any) -> None:
        self._fail()
        self.signals.append((name, args))

    async def _describe(self, **_: Any) -> Any:
        self._fail()
        return SimpleNamespace(close_time=self._close_time)

    def _fail(self) -> None:
        if isinstance(self._error, RPCError):
            raise self._error
        if self._error is not None:
            raise RPCError("as told", self._error, b"")


def test_a_quote_in_a_dataset_does_not_end_the_query() -> None:
    client = FakeClient()
    executions.running(client, "DatasetOnNode", dataset="s3://b/it's")  # type: ignore[arg-type]
    executions.running(client, "WarmPod")  # type: ignore[arg-type]
    assert client.queries == [
        "WorkflowType = 'DatasetOnNode' AND ExecutionStatus = 'Running' AND KcDataset = 's3://b/it''s'",
        "WorkflowType = 'WarmPod' AND ExecutionStatus = 'Running'",
    ]


def test_a_long_dataset_is_asked_for_as_it_is_stored() -> None:
    uri = "s3://models/" + "x" * 1000
    client = FakeClient()
    executions.running(client, "DatasetOnNode", dataset=uri)  # type: ignore[arg-type]
    stored = next(pair.value for pair in initial(phase="Ready", dataset=uri) if pair.key.name == "KcDataset")
    assert len(stored.encode()) <= 255
    assert client.queries[0].endswith(f"KcDataset = '{stored}'")
    assert stored != dataset_value(uri + "y")


def test_a_signal_without_an_argument_sends_none() -> None:
    client = FakeClient()

    async def send() -> None:
        await executions.signal_if_running(client, "w", "resync")  # type: ignore[arg-type]
        await executions.signal_if_running(client, "w", "leave", "consumer")  # type: ignore[arg-type]

    asyncio.run(send())
    assert client.signals == [("resync", []), ("leave", ["consumer"])]


def test_a_workflow_that_is_not_there_needs_no_signal_and_has_ended() -> None:
    client: Any = FakeClient(error=RPCStatusCode.NOT_FOUND)
    asyncio.run(executions.signal_if_running(client, "w", "leave"))
    assert asyncio.run(executions.has_ended(client, "w"))


@pytest.mark.parametrize(
    "error",
    [pytest.param(RPCStatusCode.UNAVAILABLE, id="away"), pytest.param(no_namespace(), id="without our namespace")],
)
def test_a_server_that_cannot_tell_is_an_error(error: RPCStatusCode | RPCError) -> None:
    """Else a server that is only busy would have seats of living workflows deleted."""
    client: Any = FakeClient(error=error)
    with pytest.raises(RPCError):
        asyncio.run(executions.signal_if_running(client, "w", "leave"))
    with pytest.raises(RPCError):
        asyncio.run(executions.has_ended(client, "w"))


@pytest.mark.parametrize(("close_time", "ended"), [(None, False), ("2026-01-01", True)])
def test_a_workflow_has_ended_once_it_has_a_close_time(close_time: object, ended: bool) -> None:
    client: Any = FakeClient(close_time=close_time)
    assert asyncio.run(executions.has_ended(client, "w")) is ended
