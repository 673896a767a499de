"""A workflow that no code leads to again is ended, on a real server; one whose task fails for another reason is not."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
import structlog
from temporalio import workflow
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from kube_cache import names
from kube_cache.temporal import executions
from tests.workflows.workbench import until
from tools.stack import Stack, temporal
from tools.stack.stack import TEMPORAL
from watcher.unreplayable import Unreplayable


@pytest.fixture
def quick_address() -> Iterator[str]:
    """Of a server that tells after two failed tasks; the five of the default take it most of a minute."""
    setting = "system.numConsecutiveWorkflowTaskProblemsToTriggerSearchAttribute"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(temporal.DYNAMIC_CONFIG, setting, 2)
        with Stack(servers=[TEMPORAL], with_product=False) as stack:
            yield stack.temporal_address


@workflow.defn(name=names.WARM_POD)
class Before:
    def __init__(self) -> None:
        self._go = False

    @workflow.run
    async def run(self, _fails: bool) -> None:
        await workflow.sleep(timedelta(days=1))

    @workflow.signal
    def go(self) -> None:
        self._go = True


@workflow.defn(name=names.WARM_POD)
class After:
    """Another release: the timer that the history has is not there."""

    def __init__(self) -> None:
        self._go = False

    @workflow.run
    async def run(self, fails: bool) -> None:
        if fails:
            raise RuntimeError("a mistake of ours")
        await workflow.wait_condition(lambda: self._go)

    @workflow.signal
    def go(self) -> None:
        self._go = True


@asynccontextmanager
async def serving(client: Client, queue: str, kind: type) -> AsyncIterator[None]:
    async with Worker(
        client, task_queue=queue, workflows=[kind], workflow_runner=UnsandboxedWorkflowRunner(), max_cached_workflows=0
    ):
        yield


async def has_failed(handle: WorkflowHandle[object, object]) -> bool:
    return any(
        [event.HasField("workflow_task_failed_event_attributes") async for event in handle.fetch_history_events()]
    )


@pytest.mark.stack
def test_only_what_cannot_be_replayed_is_ended(quick_address: str) -> None:
    async def run() -> list[WorkflowExecutionStatus | None]:
        client = await Client.connect(quick_address, namespace=names.TEMPORAL_NAMESPACE)
        queue = uuid.uuid4().hex

        async def start(*, fails: bool) -> WorkflowHandle[object, object]:
            return await client.start_workflow(names.WARM_POD, fails, id=uuid.uuid4().hex, task_queue=queue)

        async def is_listed() -> bool:
            return any([found.id == torn.id async for found in executions.unreplayable(client)])

        async with serving(client, queue, Before):
            torn = await start(fails=False)
            await until(lambda: _has_timer(torn))
        async with serving(client, queue, After):
            broken = await start(fails=True)
            well = await start(fails=False)
            await torn.signal("go")
            await until(lambda: has_failed(broken))
            await until(is_listed)
            await Unreplayable(client).end()
            await Unreplayable(client).end()
            found = [(await handle.describe()).status for handle in (torn, broken, well)]
            for handle in (broken, well):
                await handle.terminate()
        return found

    running = WorkflowExecutionStatus.RUNNING
    assert asyncio.run(run()) == [WorkflowExecutionStatus.TERMINATED, running, running]


async def _has_timer(handle: WorkflowHandle[object, object]) -> bool:
    return any([event.HasField("timer_started_event_attributes") async for event in handle.fetch_history_events()])


def test_an_older_temporal_is_named_once() -> None:
    class Old:
        def list_workflows(self, _query: str) -> AsyncIterator[object]:
            async def refuse() -> AsyncIterator[object]:
                raise RPCError("invalid search attribute", RPCStatusCode.INVALID_ARGUMENT, b"")
                yield

            return refuse()

    async def run() -> None:
        unreplayable = Unreplayable(Old())  # type: ignore[arg-type]
        await unreplayable.end()
        await unreplayable.end()

    with structlog.testing.capture_logs() as logs:
        asyncio.run(run())
    assert [line["log_level"] for line in logs] == ["warning"]
