"""The entity and the reconcile: what is in use stays, what has vanished is noticed, what nobody has is let go."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from temporalio.client import WorkflowUpdateFailedError

from kube_cache import names
from kube_cache.contracts.common import Consumer, PodRef
from kube_cache.contracts.node import DatasetOnNodeStatus
from kube_cache.contracts.reconcile import BoundPods, ClusterState, Entity, ReconcileResult
from tests.workflows.fakes import DIGEST, refused
from tests.workflows.workbench import Workbench, until, workbench
from workflows.dataset_on_node import DatasetOnNode


async def warmed(bench: Workbench) -> tuple[PodRef, str]:
    """A Pod that was released with a download, and so holds the snapshot."""
    handle = await bench.start()
    assert (await handle.result()).outcome == "released"
    (patch,) = bench.world.args(names.PATCH_GATE)
    return patch.pod, handle.id


async def status(bench: Workbench, disk: str = "disk-1") -> DatasetOnNodeStatus:
    return await bench.entity(disk=disk).query("status", result_type=DatasetOnNodeStatus)


def entity(bench: Workbench, *, ready: bool = True) -> Entity:
    return Entity(bench.entity().id, bench.world.nodes[0], "disk-1", DIGEST, ready)


async def reconcile(bench: Workbench, cluster: ClusterState) -> ReconcileResult:
    return await (await bench.reconcile(cluster)).result()


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
        await asyncio.wait_for(bench.entity().result(), 10)  # nothing on the disk, nobody asks for it


async def test_a_snapshot_that_vanished_under_a_pod_is_fetched_again(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        pod, _ = await warmed(bench)
        bench.world.complete.clear()
        cluster = ClusterState([entity(bench)], [pod.uid], bench.world.nodes)
        assert (await reconcile(bench, cluster)).snapshots_lost == 1
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
        await reconcile(bench, ClusterState([entity(bench)], [pod.uid], bench.world.nodes))

        async def gave_up() -> bool:
            return (await status(bench)).phase == "AwaitingOperator"

        await until(gave_up)
        assert (await status(bench)).consumers == [Consumer(workflow_id, pod)]
        with pytest.raises(WorkflowUpdateFailedError):
            await bench.entity().execute_update(DatasetOnNode.evict)
        assert bench.world.count(names.UNPIN) == 0
        await reconcile(bench, ClusterState([entity(bench)], [pod.uid], bench.world.nodes))

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
        bench.world.bound = [Consumer("warm/ml/hit/1", hit)]
        bench.world.complete.clear()
        bound = [BoundPods(bench.world.nodes[0], DIGEST, [hit.uid])]
        cluster = ClusterState([entity(bench)], [hit.uid], bench.world.nodes[:1], bound)
        await reconcile(bench, cluster)
        await until(lambda: bench.world.count(names.STREAM_DATASET) == 2)
        assert (await status(bench)).consumers[0].pod == hit
        assert bench.world.args(names.RECONCILE_DISK)[0].bound == {DIGEST: [hit.uid]}


async def test_a_pod_that_is_bound_elsewhere_may_hold_nothing_here(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        pod, _ = await warmed(bench)
        bound = [BoundPods(bench.world.nodes[1], DIGEST, ["elsewhere"])]
        living = [pod.uid, "elsewhere"]
        await reconcile(bench, ClusterState([entity(bench)], living, bench.world.nodes[:1], bound))
        assert bench.world.args(names.RECONCILE_DISK)[0].living == [pod.uid]


async def test_what_pods_run_on_is_brought_to_the_disk_that_replaced_theirs(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        pod, workflow_id = await warmed(bench)
        bench.world.cache_id = "disk-2"
        bench.world.complete.clear()
        bench.world.bound = [Consumer(workflow_id, pod)]
        bound = [BoundPods(bench.world.nodes[0], DIGEST, [pod.uid])]
        await reconcile(bench, ClusterState([entity(bench)], [pod.uid], bench.world.nodes, bound))
        assert (await asyncio.wait_for(bench.entity().result(), 10)).consumers == []
        await until(lambda: bench.world.count(names.STREAM_DATASET) == 2)
        assert bench.world.args(names.STREAM_DATASET)[1].cache_id == "disk-2"
        assert (await status(bench, "disk-2")).consumers == [Consumer(workflow_id, pod)]


async def test_an_entity_that_is_right_is_left_alone(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        pod, _ = await warmed(bench)
        result = await reconcile(bench, ClusterState([entity(bench)], [pod.uid], bench.world.nodes[:1]))
        assert result == ReconcileResult(nodes_seen=1, unpinned=1)
        assert bench.world.args(names.RECONCILE_DISK)[0].living == [pod.uid]
        assert bench.world.count(names.STREAM_DATASET) == 1


@pytest.mark.parametrize("how", ["node deleted", "disk replaced"])
async def test_an_entity_whose_disk_is_no_more_ends(temporal_address: str, how: str) -> None:
    async with workbench(temporal_address) as bench:
        pod, _ = await warmed(bench)
        if how == "disk replaced":
            bench.world.cache_id = "disk-2"
        nodes = bench.world.nodes if how == "disk replaced" else []
        assert (await reconcile(bench, ClusterState([entity(bench)], [pod.uid], nodes))).snapshots_lost == 1
        ended = await asyncio.wait_for(bench.entity().result(), 10)
        assert ended.consumers == []


async def test_pins_that_outlived_their_entity_are_looked_at_too(temporal_address: str) -> None:
    """On any node that the cluster has; one without an agent counts as nothing."""
    async with workbench(temporal_address, living_nodes=(0,)) as bench:
        result = await reconcile(bench, ClusterState([], ["living"], bench.world.nodes))
        assert result == ReconcileResult(nodes_seen=1, unpinned=1)
        assert bench.world.args(names.RECONCILE_DISK)[0].living == ["living"]


async def test_a_run_looks_at_a_bounded_number_of_idle_nodes_but_at_all_that_pods_run_on(temporal_address: str) -> None:
    async with workbench(temporal_address, living_nodes=(0,)) as bench:
        used = [
            BoundPods(bench.world.nodes[0], DIGEST, ["one"]),
            BoundPods("removed", DIGEST, ["two"]),
        ]
        idle = [f"{bench.world.nodes[0]}-idle-{number}" for number in range(300)]
        cluster = ClusterState([], ["one", "two"], [*bench.world.nodes[:1], *idle], used)
        handle = await bench.reconcile(cluster)
        await handle.result()
        asked = [
            event.activity_task_scheduled_event_attributes.task_queue.name
            async for event in handle.fetch_history_events()
            if event.HasField("activity_task_scheduled_event_attributes")
        ]
        assert bench.world.count(names.RECONCILE_DISK) == 1
        assert len([queue for queue in asked if "idle" in queue]) == 100
        assert names.node_queue("removed") not in asked


async def test_a_node_that_is_silent_is_judged_another_time(temporal_address: str) -> None:
    async with workbench(temporal_address, living_nodes=()) as bench:
        gone = Entity("dataset/x/disk/d", bench.world.nodes[0], "disk", "d", ready=True)
        result = await reconcile(bench, ClusterState([gone], [], bench.world.nodes))
        assert result == ReconcileResult(nodes_silent=1)
