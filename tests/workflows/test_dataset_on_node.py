"""The entity and the reconcile: what is in use stays, what has vanished is noticed, what nobody has is let go."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace

import pytest
from temporalio.client import WorkflowUpdateFailedError

from kube_cache import names
from kube_cache.contracts.common import Consumer, PodRef, Snapshot
from kube_cache.contracts.node import DatasetOnNodeInput, DatasetOnNodeStatus, JoinInput, UnpinInput
from kube_cache.contracts.reconcile import Entity, ReconcileResult
from tests.workflows.fakes import DIGEST, refused
from tests.workflows.workbench import Workbench, until, workbench
from workflows.dataset_on_node import DatasetOnNode


async def warmed(bench: Workbench) -> tuple[PodRef, str]:
    """A Pod that was released with a download, and so holds the snapshot."""
    handle = await bench.start()
    assert (await handle.result()).outcome == "released"
    patch = bench.world.patch()
    return patch.pod, handle.id


async def status(bench: Workbench, disk: str = "disk-1") -> DatasetOnNodeStatus:
    return await bench.entity(disk=disk).query("status", result_type=DatasetOnNodeStatus)


READY = Entity("disk-1", DIGEST, ready=True)


async def reconcile(bench: Workbench, *pods: PodRef, nodes: int = 2) -> ReconcileResult:
    """Reconcile a cluster with the entity and these Pods, released with its snapshot, on the first node."""
    node = bench.world.nodes[0]
    bench.survey(nodes=bench.world.nodes[:nodes], entities={node: [READY]}, released={node: pods})
    return await (await bench.reconcile()).result()


async def test_what_a_pod_uses_is_not_evicted_until_it_has_ended(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        pod, workflow_id = await warmed(bench)
        with pytest.raises(WorkflowUpdateFailedError) as refused:
            await bench.entity().execute_update(DatasetOnNode.evict)
        assert f"in use by {pod.namespace}/{pod.name}" in str(refused.value.cause)
        assert bench.world.count(names.EVICT) == 0
        await bench.entity().signal("leave", Consumer(workflow_id, pod))
        await until(lambda: bench.world.count(names.UNPIN) == 1)
        assert (await bench.entity().execute_update(DatasetOnNode.evict)).freed_bytes == 3000
        await asyncio.wait_for(bench.entity().result(), 90)  # nothing on the disk, nobody asks for it


async def joined(bench: Workbench, token: str = "", **of_consumer: int) -> JoinInput:
    """A Pod without a workflow of its own waits for a download that hangs."""
    bench.world.finish_stream.clear()
    pod = PodRef("ml", "one", uuid.uuid4().hex)
    snapshot = Snapshot(bench.view().dataset, DIGEST, 3, 3000)
    dataset = DatasetOnNodeInput(bench.world.nodes[0], "disk-1", snapshot, bench.policy)
    arg = JoinInput(dataset, Consumer(names.warm_pod_id("ml", "one", pod.uid), pod, **of_consumer))
    await bench.join(arg, token=token)
    await bench.world.streaming.wait()
    return arg


async def test_a_pin_is_given_back_by_the_placement_that_made_it(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        pod, workflow_id = await warmed(bench)
        (holder,) = (await status(bench)).consumers
        for later in (0, 2, 1):
            await bench.entity().signal("leave", replace(holder, attempt=holder.attempt + later))
        await until(lambda: bench.world.count(names.UNPIN) == 3)
        attempts = {arg.attempt for arg in bench.world.args(names.UNPIN)}
        assert holder.attempt + 2 in attempts
        assert 0 not in attempts  # which would take the pin of a placement to come
        await bench.entity().signal("leave", Consumer(workflow_id, pod))  # of the reconcile: the Pod has ended
        await until(lambda: bench.world.args(names.UNPIN)[-1] == UnpinInput([DIGEST], pod, 0))


async def test_a_leave_that_comes_late_takes_nothing_from_a_later_placement(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        arg = await joined(bench, attempt=2000)
        await bench.entity().signal("leave", replace(arg.consumer, attempt=1000))
        await bench.entity().signal("join", replace(arg.consumer, attempt=1000))
        assert (await status(bench)).waiting == [arg.consumer.workflow_id]
        assert (await status(bench)).consumers == [arg.consumer]
        await bench.entity().signal("leave", arg.consumer)
        await until(lambda: bench.world.args(names.UNPIN) == [UnpinInput([DIGEST], arg.consumer.pod, 2000)])


async def test_the_pod_of_a_failed_download_gives_back_the_pin_of_its_placement(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        arg = await joined(bench, attempt=2000)
        await bench.entity().signal("cancel")
        await until(lambda: bench.world.args(names.UNPIN) == [UnpinInput([DIGEST], arg.consumer.pod, 2000)])


async def test_a_waiting_pod_that_asks_again_writes_no_history(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        arg = await joined(bench, attempt=2000)
        before = (await bench.entity().describe()).history_length
        for _ in range(10):
            await bench.join(replace(arg, again=True))
        assert (await bench.entity().describe()).history_length == before
        urgent = replace(arg.consumer, priority=5)
        await bench.join(replace(arg, consumer=urgent, again=True))
        await until(lambda: [each.priority for each in bench.world.args(names.STREAM_DATASET)] == [0, 5])


async def test_what_the_operator_grants_reaches_the_download_and_is_no_news_about_the_pod(
    temporal_address: str,
) -> None:
    async with workbench(temporal_address) as bench:
        arg = await joined(bench, token="granted")
        assert bench.world.args(names.STREAM_DATASET)[-1].consumer.peer_token == "granted"
        before = (await bench.entity().describe()).history_length
        await bench.join(replace(arg, again=True), token="granted later")
        assert (await bench.entity().describe()).history_length == before


async def test_a_waiting_pod_that_asks_again_starts_an_entity_that_was_terminated(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        arg = await joined(bench, attempt=2000)
        await bench.entity().terminate()
        await bench.join(replace(arg, again=True))
        assert (await status(bench)).waiting == [arg.consumer.workflow_id]


async def test_the_settings_of_a_join_reach_an_entity_that_was_born_with_others(temporal_address: str) -> None:
    async with workbench(temporal_address, linger_s=3600.0) as bench:
        arg = await joined(bench)
        today = replace(bench.policy, linger_s=0.1)
        await bench.join(arg, today)
        assert (await status(bench)).consumers == [arg.consumer]
        await bench.entity().signal("leave", arg.consumer)
        await asyncio.wait_for(bench.entity().result(), 90)  # it lingers no hour


async def test_a_snapshot_that_vanished_under_a_pod_is_fetched_again(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        pod, _ = await warmed(bench)
        bench.world.complete.clear()
        assert (await reconcile(bench, pod)).snapshots_lost == 1
        await until(lambda: bench.world.count(names.STREAM_DATASET) == 2)

        async def ready() -> bool:
            return (await status(bench)).phase == "Ready"

        await until(ready)


async def test_what_a_pod_runs_on_keeps_its_pin_while_it_cannot_be_mended(temporal_address: str) -> None:
    """And the next reconcile tries again."""
    async with workbench(temporal_address) as bench:
        pod, workflow_id = await warmed(bench)
        bench.world.complete.clear()
        bench.world.error[names.STREAM_DATASET] = [refused("AccessDenied")]
        await reconcile(bench, pod)

        async def gave_up() -> bool:
            return (await status(bench)).phase == "AwaitingOperator"

        await until(gave_up)
        assert [(each.workflow_id, each.pod) for each in (await status(bench)).consumers] == [(workflow_id, pod)]
        with pytest.raises(WorkflowUpdateFailedError):
            await bench.entity().execute_update(DatasetOnNode.evict)
        assert bench.world.count(names.UNPIN) == 0
        await reconcile(bench, pod)

        async def ready() -> bool:
            return (await status(bench)).phase == "Ready"

        await until(ready)
        assert bench.world.count(names.STREAM_DATASET) == 3


async def test_a_pod_whose_hit_the_entity_never_heard_of_has_it_mended_too(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        pod, workflow_id = await warmed(bench)
        await bench.entity().signal("leave", Consumer(workflow_id, pod))
        await until(lambda: bench.world.count(names.UNPIN) == 1)
        hit = PodRef("ml", "hit", uuid.uuid4().hex)
        bench.world.complete.clear()
        await reconcile(bench, hit, nodes=1)
        await until(lambda: bench.world.count(names.STREAM_DATASET) == 2)
        assert (await status(bench)).consumers[0].pod == hit
        assert bench.world.args(names.RECONCILE_DISK)[0].receipts == {hit.uid: [DIGEST]}


async def test_what_pods_run_on_is_brought_to_the_disk_that_replaced_theirs(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        pod, workflow_id = await warmed(bench)
        bench.world.cache_id = "disk-2"
        bench.world.complete.clear()
        await reconcile(bench, pod)
        assert (await asyncio.wait_for(bench.entity().result(), 90)).consumers == []
        await until(lambda: bench.world.count(names.STREAM_DATASET) == 2)
        assert bench.world.args(names.STREAM_DATASET)[1].cache_id == "disk-2"
        assert (await status(bench, "disk-2")).consumers == [Consumer(workflow_id, pod)]


async def test_an_entity_that_is_right_is_left_alone(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        pod, _ = await warmed(bench)
        assert await reconcile(bench, pod, nodes=1) == ReconcileResult(nodes_seen=1)
        assert bench.world.args(names.RECONCILE_DISK)[0].living == [pod.uid]
        assert bench.world.count(names.STREAM_DATASET) == 1


@pytest.mark.parametrize("how", ["node deleted", "disk replaced"])
async def test_an_entity_whose_disk_is_no_more_ends(temporal_address: str, how: str) -> None:
    async with workbench(temporal_address) as bench:
        await warmed(bench)
        if how == "disk replaced":
            bench.world.cache_id = "disk-2"
        assert (await reconcile(bench, nodes=2 if how == "disk replaced" else 0)).snapshots_lost == 1
        ended = await asyncio.wait_for(bench.entity().result(), 90)
        assert ended.consumers == []
