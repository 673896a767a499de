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
from tests.workflows.workbench import Bench, bench, until
from workflows.dataset_on_node import DatasetOnNode


async def warmed(made: Bench) -> tuple[PodRef, str]:
    """A Pod that was released with a download, and so holds the snapshot."""
    handle = await made.start()
    assert (await handle.result()).outcome == "released"
    (patch,) = made.world.args(names.PATCH_GATE)
    return patch.pod, handle.id


async def status(made: Bench, disk: str = "disk-1") -> DatasetOnNodeStatus:
    return await made.entity(disk=disk).query("status", result_type=DatasetOnNodeStatus)


def entity(made: Bench, *, ready: bool = True) -> Entity:
    return Entity(made.entity().id, made.world.nodes[0], "disk-1", DIGEST, ready)


async def reconcile(made: Bench, survey: ClusterState) -> ReconcileResult:
    return await (await made.reconcile(survey)).result()


def test_what_a_pod_uses_is_not_evicted_until_it_has_ended(temporal_address: str) -> None:
    async def scenario() -> None:
        async with bench(temporal_address) as made:
            pod, workflow_id = await warmed(made)
            with pytest.raises(WorkflowUpdateFailedError) as refused:
                await made.entity().execute_update(DatasetOnNode.evict)
            assert f"in use by {pod.namespace}/{pod.name}" in str(refused.value.cause)
            assert made.world.count(names.EVICT) == 0
            await made.entity().signal("leave", Consumer(workflow_id, pod))
            await until(lambda: made.world.count(names.UNPIN) == 1)
            assert (await made.entity().execute_update(DatasetOnNode.evict)).freed_bytes == 3000
            await asyncio.wait_for(made.entity().result(), 10)  # nothing on the disk, nobody asks for it

    asyncio.run(scenario())


def test_a_snapshot_that_vanished_under_a_pod_is_fetched_again(temporal_address: str) -> None:
    async def scenario() -> None:
        async with bench(temporal_address) as made:
            pod, _ = await warmed(made)
            made.world.complete.clear()
            survey = ClusterState([entity(made)], [pod.uid], made.world.nodes)
            assert (await reconcile(made, survey)).vanished == 1
            await until(lambda: made.world.count(names.STREAM_DATASET) == 2)

            async def ready() -> bool:
                return (await status(made)).phase == "Ready"

            await until(ready)

    asyncio.run(scenario())


def test_what_a_pod_runs_on_keeps_its_pin_while_it_cannot_be_mended(temporal_address: str) -> None:
    """And the next reconcile tries again."""

    async def scenario() -> None:
        async with bench(temporal_address) as made:
            pod, workflow_id = await warmed(made)
            made.world.complete.clear()
            made.world.error[names.STREAM_DATASET] = [refused("AccessDenied")]
            await reconcile(made, ClusterState([entity(made)], [pod.uid], made.world.nodes))

            async def gave_up() -> bool:
                return (await status(made)).phase == "AwaitingOperator"

            await until(gave_up)
            assert (await status(made)).users == [workflow_id]
            with pytest.raises(WorkflowUpdateFailedError):
                await made.entity().execute_update(DatasetOnNode.evict)
            assert made.world.count(names.UNPIN) == 0
            await reconcile(made, ClusterState([entity(made)], [pod.uid], made.world.nodes))

            async def ready() -> bool:
                return (await status(made)).phase == "Ready"

            await until(ready)
            assert made.world.count(names.STREAM_DATASET) == 3

    asyncio.run(scenario())


def test_a_pod_whose_hit_the_entity_never_heard_of_has_it_mended_too(temporal_address: str) -> None:
    async def scenario() -> None:
        async with bench(temporal_address) as made:
            pod, workflow_id = await warmed(made)
            await made.entity().signal("leave", Consumer(workflow_id, pod))
            await until(lambda: made.world.count(names.UNPIN) == 1)
            hit = PodRef("ml", "hit", uuid.uuid4().hex)
            made.world.bound = [Consumer("warm/ml/hit/1", hit)]
            made.world.complete.clear()
            bound = [BoundPods(made.world.nodes[0], DIGEST, [hit.uid])]
            survey = ClusterState([entity(made)], [hit.uid], made.world.nodes[:1], bound)
            await reconcile(made, survey)
            await until(lambda: made.world.count(names.STREAM_DATASET) == 2)
            assert (await status(made)).interests[0].pod == hit
            assert made.world.args(names.RECONCILE_DISK)[0].bound == {DIGEST: [hit.uid]}

    asyncio.run(scenario())


def test_a_pod_that_is_bound_elsewhere_may_hold_nothing_here(temporal_address: str) -> None:
    async def scenario() -> None:
        async with bench(temporal_address) as made:
            pod, _ = await warmed(made)
            bound = [BoundPods(made.world.nodes[1], DIGEST, ["elsewhere"])]
            living = [pod.uid, "elsewhere"]
            await reconcile(made, ClusterState([entity(made)], living, made.world.nodes[:1], bound))
            assert made.world.args(names.RECONCILE_DISK)[0].living == [pod.uid]

    asyncio.run(scenario())


def test_what_pods_run_on_is_brought_to_the_disk_that_replaced_theirs(temporal_address: str) -> None:
    async def scenario() -> None:
        async with bench(temporal_address) as made:
            pod, workflow_id = await warmed(made)
            made.world.cache_id = "disk-2"
            made.world.complete.clear()
            made.world.bound = [Consumer(workflow_id, pod)]
            bound = [BoundPods(made.world.nodes[0], DIGEST, [pod.uid])]
            await reconcile(made, ClusterState([entity(made)], [pod.uid], made.world.nodes, bound))
            assert (await asyncio.wait_for(made.entity().result(), 10)).users == []
            await until(lambda: made.world.count(names.STREAM_DATASET) == 2)
            assert made.world.args(names.STREAM_DATASET)[1].cache_id == "disk-2"
            assert (await status(made, "disk-2")).users == [workflow_id]

    asyncio.run(scenario())


def test_an_entity_that_is_right_is_left_alone(temporal_address: str) -> None:
    async def scenario() -> None:
        async with bench(temporal_address) as made:
            pod, _ = await warmed(made)
            result = await reconcile(made, ClusterState([entity(made)], [pod.uid], made.world.nodes[:1]))
            assert result == ReconcileResult(nodes_seen=1, unpinned=1)
            assert made.world.args(names.RECONCILE_DISK)[0].living == [pod.uid]
            assert made.world.count(names.STREAM_DATASET) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["node deleted", "disk replaced"])
def test_an_entity_whose_disk_is_no_more_ends(temporal_address: str, how: str) -> None:
    async def scenario() -> None:
        async with bench(temporal_address) as made:
            pod, _ = await warmed(made)
            if how == "disk replaced":
                made.world.cache_id = "disk-2"
            nodes = made.world.nodes if how == "disk replaced" else []
            assert (await reconcile(made, ClusterState([entity(made)], [pod.uid], nodes))).vanished == 1
            ended = await asyncio.wait_for(made.entity().result(), 10)
            assert ended.users == []

    asyncio.run(scenario())


def test_pins_that_outlived_their_entity_are_looked_at_too(temporal_address: str) -> None:
    """On any node that the cluster has; one without an agent counts as nothing."""

    async def scenario() -> None:
        async with bench(temporal_address, living_nodes=(0,)) as made:
            result = await reconcile(made, ClusterState([], ["living"], made.world.nodes))
            assert result == ReconcileResult(nodes_seen=1, unpinned=1)
            assert made.world.args(names.RECONCILE_DISK)[0].living == ["living"]

    asyncio.run(scenario())


def test_a_run_looks_at_a_bounded_number_of_idle_nodes_but_at_all_that_pods_run_on(temporal_address: str) -> None:
    async def scenario() -> None:
        async with bench(temporal_address, living_nodes=(0,)) as made:
            used = [
                BoundPods(made.world.nodes[0], DIGEST, ["one"]),
                BoundPods("removed", DIGEST, ["two"]),
            ]
            idle = [f"{made.world.nodes[0]}-idle-{number}" for number in range(300)]
            survey = ClusterState([], ["one", "two"], [*made.world.nodes[:1], *idle], used)
            handle = await made.reconcile(survey)
            await handle.result()
            asked = [
                event.activity_task_scheduled_event_attributes.task_queue.name
                async for event in handle.fetch_history_events()
                if event.HasField("activity_task_scheduled_event_attributes")
            ]
            assert made.world.count(names.RECONCILE_DISK) == 1
            assert len([queue for queue in asked if "idle" in queue]) == 100
            assert names.node_queue("removed") not in asked

    asyncio.run(scenario())


def test_a_node_that_is_silent_is_judged_another_time(temporal_address: str) -> None:
    async def scenario() -> None:
        async with bench(temporal_address, living_nodes=()) as made:
            gone = Entity("dataset/x/disk/d", made.world.nodes[0], "disk", "d", ready=True)
            result = await reconcile(made, ClusterState([gone], [], made.world.nodes))
            assert result == ReconcileResult(nodes_silent=1)

    asyncio.run(scenario())
