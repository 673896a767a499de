"""Continue-as-new of `DatasetOnNode`, on a real server that suggests it early: the entity forgets nothing."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from temporalio.client import WorkflowUpdateFailedError

from kube_cache import names
from kube_cache.contracts.common import Consumer, ErrorInfo, PodRef
from kube_cache.contracts.node import DatasetOnNodeStatus, SnapshotLost
from tests.workflows.fakes import DIGEST, refused
from tests.workflows.workbench import Workbench, until, workbench
from tools.stack import Stack, temporal
from tools.stack.stack import TEMPORAL
from workflows.dataset_on_node import DatasetOnNode

pytestmark = pytest.mark.stack
EVENTS = 60
"""More events than one download with its answers writes; the server's default is 4,096."""


@pytest.fixture(scope="module")
def early_address() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(temporal.DYNAMIC_CONFIG, "limit.historyCount.suggestContinueAsNew", EVENTS)
        with Stack(servers=[TEMPORAL], with_product=False) as stack:
            yield stack.temporal_address


class Entity:
    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self.runs: list[str] = []

    async def status(self) -> DatasetOnNodeStatus:
        return await self._bench.entity().query("status", result_type=DatasetOnNodeStatus)

    async def run_id(self) -> str:
        return (await self._bench.entity().describe()).run_id

    async def continue_as_new(self, times: int = 1) -> None:
        """Send the entity signals without effect until it has continued as new `times` times."""
        for _ in range(times):
            before = await self.run_id()
            for _ in range(20 * EVENTS):
                stranger = Consumer(f"nobody/{uuid.uuid4()}", PodRef("ml", "x", uuid.uuid4().hex))
                await self._bench.entity().signal("leave", stranger)
                if await self.run_id() != before:
                    break
            else:
                raise AssertionError("the entity never continued as new")


def consumers(status: DatasetOnNodeStatus) -> set[str]:
    return {consumer.workflow_id for consumer in status.consumers}


@asynccontextmanager
async def workbench_with_entity(address: str) -> AsyncIterator[tuple[Workbench, Entity]]:
    async with workbench(address) as bench:
        yield bench, Entity(bench)


async def test_consumers_ready_and_paused_survive(early_address: str) -> None:
    async with workbench_with_entity(early_address) as (bench, entity):
        pods = [await bench.start() for _ in range(3)]
        assert {(await pod.result()).outcome for pod in pods} == {"released"}
        await bench.entity().signal("pause")
        before = await entity.status()
        await entity.continue_as_new(2)
        after = await entity.status()
        assert consumers(after) == consumers(before) == {pod.id for pod in pods}
        assert after.phase == "Ready"
        assert bench.world.count(names.STREAM_DATASET) == 1, "nothing is fetched again"
        with pytest.raises(WorkflowUpdateFailedError) as refusal:
            await bench.entity().execute_update(DatasetOnNode.evict)
        assert "in use by ml/pod-" in str(refusal.value.cause)
        # Still paused: a Pod that needs it now waits.
        bench.world.complete.clear()
        late = await bench.start()
        await until(lambda: bench.world.count(names.JOIN_DATASET) == 4)
        await entity.continue_as_new()
        assert (await entity.status()).waiting == [late.id]
        assert bench.world.count(names.STREAM_DATASET) == 1
        await bench.entity().signal("resume")
        assert (await late.result()).outcome == "released"


async def test_a_download_goes_on_and_each_pod_is_answered_also_one_that_joins_meanwhile(
    early_address: str,
) -> None:
    async with workbench_with_entity(early_address) as (bench, entity):
        bench.world.finish_stream.clear()
        pods = [await bench.start()]
        await bench.world.streaming.wait()
        first = await entity.run_id()
        while await entity.run_id() == first:
            pods.append(await bench.start())
        pods += [await bench.start() for _ in range(3)]
        await until(lambda: bench.world.count(names.JOIN_DATASET) == len(pods))

        async def all_wait() -> bool:
            return set((await entity.status()).waiting) == {pod.id for pod in pods}

        await until(all_wait)
        bench.world.finish_stream.set()
        assert {(await pod.result()).outcome for pod in pods} == {"released"}
        assert bench.world.count(names.PATCH_GATE) == len(pods)


async def test_an_error_and_the_pods_that_run_on_the_snapshot_survive(early_address: str) -> None:
    async with workbench_with_entity(early_address) as (bench, entity):
        pod = await bench.start()
        await pod.result()
        bench.world.complete.clear()
        bench.world.error[names.STREAM_DATASET] = [refused("AccessDenied", "denied")]
        await bench.entity().signal("snapshot_lost", SnapshotLost())

        async def failed() -> bool:
            return (await entity.status()).error is not None

        await until(failed)
        await entity.continue_as_new()
        status = await entity.status()
        assert status.error == ErrorInfo("AccessDenied", "denied")
        assert consumers(status) == {pod.id}
        assert status.phase == "AwaitingOperator"
        await bench.entity().signal("snapshot_lost", SnapshotLost())

        async def ready() -> bool:
            return (await entity.status()).phase == "Ready"

        await until(ready)


async def test_each_pin_is_given_back_across_the_changes(early_address: str) -> None:
    async with workbench_with_entity(early_address) as (bench, entity):
        bench.world.complete.add(DIGEST)
        handle = await bench.start()
        await handle.result()
        first = await entity.run_id()
        leaving = [PodRef("ml", f"gone-{number}", uuid.uuid4().hex) for number in range(EVENTS)]
        await asyncio.gather(*(bench.entity().signal("leave", Consumer(f"warm/{pod.uid}", pod)) for pod in leaving))
        await until(lambda: bench.world.count(names.UNPIN) >= len(leaving))
        assert {arg.pod.uid for arg in bench.world.args(names.UNPIN)} == {pod.uid for pod in leaving}
        assert await entity.run_id() != first
        assert consumers(await entity.status()) == {handle.id}
