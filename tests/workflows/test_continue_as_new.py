"""Continue-as-new on a real server that suggests it early: neither an entity nor a Pod's workflow forgets anything."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError

from kube_cache import names
from kube_cache.contracts.common import Consumer, ErrorInfo, PodRef
from kube_cache.contracts.group import GroupMember, PodGroupStatus
from kube_cache.contracts.node import DatasetOnNodeStatus, SnapshotLost
from kube_cache.contracts.prefetch import PrefetchPhase, PrefetchStatus
from kube_cache.contracts.warm_pod import DatasetReady, WarmPodResult
from kube_cache.kube.nodes import NodeFacts
from kube_cache.temporal.search_attributes import DATASET, NODE, PHASE, POD
from tests.workflows.fakes import DIGEST, refused
from tests.workflows.workbench import Workbench, until, workbench
from tools.stack import Stack, temporal
from tools.stack.stack import TEMPORAL
from workflows.dataset_on_node import DatasetOnNode
from workflows.warm_pod.workflow import WarmPod

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
        fetches = bench.world.count(names.STREAM_DATASET)  # one; a Pod that joins late has the disk looked at again
        before = await entity.status()
        await entity.continue_as_new(2)
        after = await entity.status()
        assert consumers(after) == consumers(before) == {pod.id for pod in pods}
        assert after.phase == "Ready"
        assert bench.world.count(names.STREAM_DATASET) == fetches, "nothing is fetched again"
        with pytest.raises(WorkflowUpdateFailedError) as refusal:
            await bench.entity().execute_update(DatasetOnNode.evict)
        assert "in use by ml/pod-" in str(refusal.value.cause)
        # Still paused: a Pod that needs it now waits.
        bench.world.complete.clear()
        late = await bench.start()
        await until(lambda: bench.world.count(names.JOIN_DATASET) == 4)
        await entity.continue_as_new()
        assert (await entity.status()).waiting == [late.id]
        assert bench.world.count(names.STREAM_DATASET) == fetches
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


async def test_a_pods_workflow_continues_in_the_middle_of_a_download_and_keeps_what_it_was_started_with(
    early_address: str,
) -> None:
    async with workbench(early_address) as bench:
        bench.world.finish_stream.clear()
        pod = await bench.start()
        await bench.world.streaming.wait()
        before = await pod.describe()
        for _ in range(3):
            await continue_as_new(pod)
        after = await pod.describe()
        assert await after.memo() == await before.memo() == {names.GENERATION_MEMO: names.WARM_POD_GENERATION}
        assert after.typed_search_attributes[PHASE] == "Warming"
        assert after.typed_search_attributes[DATASET] == bench.world.dataset
        assert after.typed_search_attributes[NODE] == bench.world.nodes[0]
        assert after.typed_search_attributes[POD] == before.typed_search_attributes[POD]
        bench.world.finish_stream.set()
        result = await pod.result()
        assert (result.outcome, result.hit) == ("released", False)
        # How often the download began says nothing: the entity continues as new, too, and it then goes on.
        # Which call, not how many: a task that crosses with a signal is done again, which is harmless.
        assert {arg.number for arg in bench.world.args(names.CREATE_SEAT)} == {1}
        assert {arg.node for arg in bench.world.args(names.PATCH_GATE)} == {bench.world.nodes[0]}


@pytest.mark.parametrize(("signal", "phase"), [("cancel", "Cancelled"), ("pause", "Paused")])
async def test_a_stopped_pod_stays_stopped_and_is_told_once(early_address: str, signal: str, phase: str) -> None:
    async with workbench(early_address) as bench:
        bench.world.complete.add(DIGEST)
        bench.world.seat_binds = False
        pod = await bench.start()
        await until(lambda: bench.world.count(names.CREATE_SEAT) == 1)
        await pod.signal(signal)
        await until(lambda: phase in bench.world.phases())
        for _ in range(3):
            await continue_as_new(pod)
        assert bench.world.phases().count(phase) == 1
        bench.world.seat_binds = True
        await pod.signal("retry")
        assert (await pod.result()).outcome == "released"


async def continue_as_new(pod: WorkflowHandle[WarmPod, WarmPodResult]) -> None:
    """Send the Pod's workflow signals of the reconcile until it has continued as new."""
    before = (await pod.describe()).run_id
    for _ in range(20 * EVENTS):
        await pod.signal("resync")
        if (await pod.describe()).run_id != before:
            return
    raise AssertionError("the workflow never continued as new")


async def test_a_group_that_continued_as_new_knows_who_has_arrived(early_address: str) -> None:
    async with workbench(early_address) as bench:
        members = [await bench.start_member(), await bench.start_member()]

        async def status() -> PodGroupStatus:
            return await bench.group().query("status", result_type=PodGroupStatus)

        async def run_id() -> str:
            return (await bench.group().describe()).run_id

        await until(lambda: bench.world.count(names.JOIN_GROUP) >= 2)
        # Not by the query: one that meets a local activity spoils the history (docs/design/local-activities.md).
        await until(lambda: any("2 of 3 ready" in arg.message for arg in bench.world.args(names.REPORT_PHASE)))
        first = await run_id()
        for number in range(20 * EVENTS):
            await bench.group().signal("join", GroupMember(f"warm/ml/stranger-{number}/x", 3))
            await bench.group().signal("leave", GroupMember(f"warm/ml/stranger-{number}/x", 3))
            if await run_id() != first:
                break
        assert await run_id() != first
        assert (await status()).ready == 2
        members.append(await bench.start_member())
        assert {(await member.result()).outcome for member in members} == {"released"}


async def test_a_prefetch_forgets_neither_its_budget_nor_a_download_that_runs(early_address: str) -> None:
    async with workbench(early_address) as bench:
        for name in bench.world.nodes:
            bench.world.kube_nodes[name] = NodeFacts(name)
        handle = await bench.prefetch(copies=1, max_bytes=3000)

        async def ready() -> bool:
            return (await handle.query("status", result_type=PrefetchStatus)).phase == PrefetchPhase.READY

        async def runs() -> str:
            return (await bench.client.get_workflow_handle(handle.id).describe()).run_id

        await until(ready)
        first = await runs()

        async def continued() -> bool:
            return await runs() != first

        await until(continued)
        latest = bench.client.get_workflow_handle(handle.id)
        status = await latest.query("status", result_type=PrefetchStatus)
        assert (status.fetched_bytes, status.ready) == (3000, 1)
        # A download that runs while it continues as new is joined again, and counted once.
        bench.world.finish_stream.clear()
        bench.world.streaming.clear()
        await bench.prefetch(max_bytes=9000)
        await bench.world.streaming.wait()
        first = await runs()
        while not await continued():
            await latest.signal("dataset_ready", DatasetReady("of nobody"))
        bench.world.finish_stream.set()

        async def both() -> bool:
            status = await latest.query("status", result_type=PrefetchStatus)
            return (status.phase, status.ready) == (PrefetchPhase.READY, 2)

        await until(both)
        assert bench.world.count(names.STREAM_DATASET) == 2
        await latest.signal("cancel")
        await latest.result()
