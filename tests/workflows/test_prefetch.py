"""A `Prefetch` keeps data on nodes while it lives, takes nothing from Pods, and leaves nothing running behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from temporalio.client import WorkflowHandle
from temporalio.exceptions import ApplicationError

from kube_cache import names
from kube_cache.contracts.common import Consumer, PodRef, Snapshot
from kube_cache.contracts.node import DatasetOnNodeInput, DatasetOnNodeStatus, JoinInput, StreamInput
from kube_cache.contracts.prefetch import PREFETCH_PRIORITY, PrefetchPhase, PrefetchStatus
from kube_cache.kube.nodes import NodeFacts
from tests.workflows.fakes import DIGEST, refused
from tests.workflows.workbench import Workbench, until, workbench


def give_nodes(bench: Workbench, numbers: Sequence[int] = (0, 1), **labels: str) -> list[str]:
    """Let these nodes be in the cluster, with labels."""
    for number in numbers:
        name = bench.world.nodes[number]
        bench.world.kube_nodes[name] = NodeFacts(name, labels)
    return [bench.world.nodes[number] for number in numbers]


async def phase_is(handle: WorkflowHandle, phase: PrefetchPhase, **fields: object) -> PrefetchStatus:
    """Wait until the prefetch is there, and its status has these values."""
    seen: list[PrefetchStatus] = []

    async def is_there() -> bool:
        status = await handle.query("status", result_type=PrefetchStatus)
        seen[:] = [status]
        return status.phase == phase and all(getattr(status, name) == value for name, value in fields.items())

    try:
        await until(is_there)
    except AssertionError as error:
        raise AssertionError(f"not {phase} with {fields}: {seen}") from error
    return seen[0]


def streams(bench: Workbench) -> list[StreamInput]:
    return bench.world.args(names.STREAM_DATASET)


def holders(bench: Workbench) -> set[str]:
    return {node for node, digests in bench.world.on_disk.items() if DIGEST in digests}


async def test_every_node_that_matches_fetches_once_and_keeps_the_data(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        nodes = give_nodes(bench)
        handle = await bench.prefetch(max_bytes_per_s=8000, expires_s=3600)
        status = await phase_is(handle, PrefetchPhase.READY, ready=2)
        assert (status.wanted, status.percent, status.fetched_bytes, status.total_bytes) == (2, 100, 6000, 6000)
        assert holders(bench) == set(nodes)
        assert len(streams(bench)) == 2
        for stream in streams(bench):
            assert (stream.priority, stream.spare, stream.max_bytes_per_s) == (PREFETCH_PRIORITY, True, 4000)
        assert set(bench.world.marks.values()) == {status.expires_at}
        entity = await bench.entity().query("status", result_type=DatasetOnNodeStatus)
        assert entity.phase == "Ready"
        assert entity.consumers == [], "it uses nothing, so that a person may evict it"


async def test_a_selector_chooses_nodes_and_a_node_that_joins_later_is_noticed(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        (first,) = give_nodes(bench, [0], pool="gpu")
        give_nodes(bench, [1], pool="cpu")
        handle = await bench.prefetch(selector="pool=gpu")
        await phase_is(handle, PrefetchPhase.READY, ready=1, matched=1)
        assert holders(bench) == {first}
        (second,) = give_nodes(bench, [1], pool="gpu")
        await phase_is(handle, PrefetchPhase.READY, ready=2)
        assert holders(bench) == {first, second}


async def test_copies_are_counted_and_a_lost_node_is_replaced(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        nodes = give_nodes(bench)
        handle = await bench.prefetch(copies=1)
        await phase_is(handle, PrefetchPhase.READY, ready=1, wanted=1, matched=2)
        (chosen,) = holders(bench)
        del bench.world.kube_nodes[chosen]
        await phase_is(handle, PrefetchPhase.READY, ready=1, matched=1)
        assert holders(bench) == set(nodes)


async def test_more_copies_than_nodes_are_told(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        give_nodes(bench)
        handle = await bench.prefetch(copies=3)
        status = await phase_is(handle, PrefetchPhase.WAITING, ready=2)
        assert "only 2 nodes match" in status.message
        assert status.percent < 100


async def test_a_wiped_disk_is_filled_again(temporal_address: str) -> None:
    """The prefetch looks at disks in turn; the entity that is wrong about its disk is put right."""
    async with workbench(temporal_address) as bench:
        (node,) = give_nodes(bench, [0])
        handle = await bench.prefetch()
        await phase_is(handle, PrefetchPhase.READY, ready=1)
        bench.world.on_disk[node].clear()
        await until(lambda: len(streams(bench)) == 2)
        await phase_is(handle, PrefetchPhase.READY, ready=1)
        assert holders(bench) == {node}


async def test_data_without_an_entity_is_found_and_not_fetched(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        (node,) = give_nodes(bench, [0])
        bench.world.on_disk[node] = {DIGEST}
        handle = await bench.prefetch()
        await phase_is(handle, PrefetchPhase.READY, ready=1, fetched_bytes=0)
        assert not streams(bench)


async def test_a_pod_for_the_same_data_joins_and_overtakes(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.finish_stream.clear()
        give_nodes(bench, [0])
        handle = await bench.prefetch()
        await bench.world.streaming.wait()
        pod = await bench.start()
        await until(lambda: len(streams(bench)) == 2)
        joined = streams(bench)[1]
        assert (joined.priority, joined.spare, joined.max_bytes_per_s) == (0, False, 0)
        assert joined.consumer is not None
        assert joined.consumer.workflow_id == pod.id
        bench.world.finish_stream.set()
        assert (await pod.result()).outcome == "released"
        await phase_is(handle, PrefetchPhase.READY, ready=1)
        assert bench.world.fetched == [DIGEST], "one download came to its end, for both"


async def test_a_download_whose_last_pod_is_gone_is_a_prefetch_again(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.finish_stream.clear()
        give_nodes(bench, [0])
        await bench.prefetch()
        await bench.world.streaming.wait()
        pod = PodRef("ml", "one", "uid-1")
        dataset = DatasetOnNodeInput(
            bench.world.nodes[0], "disk-1", Snapshot(bench.world.dataset, DIGEST, 3, 3000), bench.policy
        )
        arg = JoinInput(dataset, Consumer(names.warm_pod_id("ml", "one", "uid-1"), pod, priority=5))
        await bench.join(arg)
        await until(lambda: [stream.priority for stream in streams(bench)] == [PREFETCH_PRIORITY, 5])
        await bench.join(replace(arg, leave=True))
        await until(lambda: len(streams(bench)) == 3)
        assert (streams(bench)[2].priority, streams(bench)[2].spare) == (PREFETCH_PRIORITY, True)


async def test_a_download_that_stands_back_for_others_is_told_until_it_goes_on(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.finish_stream.clear()
        bench.world.done_bytes = 1200
        (node,) = give_nodes(bench, [0])
        handle = await bench.prefetch()
        status = await phase_is(handle, PrefetchPhase.WARMING, partial_bytes=1200, yielding=[])
        assert status.percent == 40, "also while no node holds all of it"
        agent_says = ApplicationError("a Pod waits", type="PrefetchYielded", next_retry_delay=timedelta(hours=1))
        bench.world.error[names.STREAM_DATASET] = [agent_says]
        await handle.signal("pause")
        await phase_is(handle, PrefetchPhase.PAUSED, partial_bytes=0)
        await handle.signal("resume")
        status = await phase_is(handle, PrefetchPhase.WARMING, yielding=[node])
        assert f"1 of them stand back for other downloads, {node} among them" in status.message
        await handle.signal("pause")
        await phase_is(handle, PrefetchPhase.PAUSED, yielding=[])
        bench.world.finish_stream.set()
        await handle.signal("resume")
        await phase_is(handle, PrefetchPhase.READY, yielding=[], partial_bytes=0)


async def test_pause_stops_the_download_at_once_and_resume_goes_on(temporal_address: str) -> None:
    async with workbench(temporal_address, linger_s=3600) as bench:
        bench.world.finish_stream.clear()
        give_nodes(bench, [0])
        handle = await bench.prefetch()
        await bench.world.streaming.wait()
        await handle.signal("pause")
        await phase_is(handle, PrefetchPhase.PAUSED, busy=[])
        await bench.entity().result()  # nobody asks for it any more
        bench.world.finish_stream.set()
        await handle.signal("resume")
        await phase_is(handle, PrefetchPhase.READY, ready=1)


async def test_cancelled_half_way_it_lets_everything_go(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        nodes = give_nodes(bench)
        handle = await bench.prefetch(nodes=[nodes[0]])
        await phase_is(handle, PrefetchPhase.READY, ready=1)
        bench.world.finish_stream.clear()
        bench.world.streaming.clear()
        await bench.prefetch(nodes=[])
        await bench.world.streaming.wait()
        await handle.signal("cancel")
        status = await asyncio.wait_for(handle.result(), 60)
        assert status.phase == PrefetchPhase.CANCELLED
        assert (nodes[0], DIGEST) not in bench.world.marks
        await bench.entity(1).result()
        assert holders(bench) == {nodes[0]}


async def test_what_was_ready_before_a_change_is_not_told_to_be_ready_after_it(temporal_address: str) -> None:
    """Not for a moment: who has changed it waits for the phase."""
    async with workbench(temporal_address) as bench:
        nodes = give_nodes(bench)
        handle = await bench.prefetch(nodes=[nodes[0]])
        await phase_is(handle, PrefetchPhase.READY, ready=1)
        bench.world.held[names.PLAN_PREFETCH] = asyncio.Event()
        await bench.prefetch(nodes=[])
        status = await handle.query("status", result_type=PrefetchStatus)
        assert status.spec is not None
        assert status.spec.nodes == []
        assert (status.phase, status.percent) == (PrefetchPhase.WARMING, 99)
        bench.world.held[names.PLAN_PREFETCH].set()
        await phase_is(handle, PrefetchPhase.READY, ready=2)


async def test_the_uis_cancel_button_ends_it_too(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        give_nodes(bench, [0])
        handle = await bench.prefetch()
        await phase_is(handle, PrefetchPhase.READY)
        await handle.cancel()
        assert (await asyncio.wait_for(handle.result(), 60)).phase == PrefetchPhase.CANCELLED


async def test_it_ends_when_its_time_is_over(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        give_nodes(bench, [0])
        handle = await bench.prefetch(expires_s=2)
        assert (await asyncio.wait_for(handle.result(), 60)).phase == PrefetchPhase.EXPIRED


async def test_the_same_prefetch_twice_is_one_with_a_later_end(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        give_nodes(bench)
        handle = await bench.prefetch()
        first = await phase_is(handle, PrefetchPhase.READY)
        again = await bench.prefetch()
        assert again.id == handle.id
        await until(lambda: min(bench.world.marks.values()) > first.expires_at)
        await phase_is(handle, PrefetchPhase.READY)
        assert len(streams(bench)) == 2


async def test_two_prefetches_of_the_same_data_share_the_download(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.finish_stream.clear()
        give_nodes(bench, [0])
        one, two = await bench.prefetch(), await bench.prefetch(name=f"{bench.tag}-two")

        async def both_wait() -> bool:
            status = await bench.entity().query("status", result_type=DatasetOnNodeStatus)
            return set(status.waiting) == {one.id, two.id}

        await bench.world.streaming.wait()
        await until(both_wait)
        await one.signal("cancel")
        await one.result()
        bench.world.finish_stream.set()
        await phase_is(two, PrefetchPhase.READY, ready=1)
        assert len(streams(bench)) == 1


async def test_a_node_that_cannot_take_it_rests_and_another_gets_the_copy(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        give_nodes(bench)
        bench.world.error[names.HOLD_PREFETCHED] = [refused("InsufficientDisk")]
        handle = await bench.prefetch(copies=1)
        status = await phase_is(handle, PrefetchPhase.READY, ready=1)
        ((failed, failure),) = status.failures.items()
        assert failure.error.type == "InsufficientDisk"
        assert failed not in holders(bench)
        assert failed in status.message


async def test_the_byte_budget_is_not_exceeded(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        give_nodes(bench)
        handle = await bench.prefetch(max_bytes=5000)
        status = await phase_is(handle, PrefetchPhase.WAITING, ready=1)
        assert [failure.error.type for failure in status.failures.values()] == ["BudgetExceeded"]
        assert status.fetched_bytes == 3000
        await bench.prefetch(max_bytes=6000)
        await phase_is(handle, PrefetchPhase.READY, ready=2)


async def test_a_new_revision_replaces_the_old_one_by_option(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        (node,) = give_nodes(bench, [0])
        handle = await bench.prefetch(follow=True, follow_s=1)
        await phase_is(handle, PrefetchPhase.READY)
        bench.world.digest = "e" * 64
        await until(lambda: "e" * 64 in bench.world.on_disk[node])
        await phase_is(handle, PrefetchPhase.READY, ready=1)
        assert set(bench.world.args(names.HOLD_PREFETCHED)[-1].superseded) <= {DIGEST}
        assert any(arg.superseded == [DIGEST] for arg in bench.world.args(names.HOLD_PREFETCHED))


async def test_a_source_that_changes_under_the_download_is_resolved_again(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        give_nodes(bench, [0])
        bench.world.error[names.STREAM_DATASET] = [refused("SourceChanged")]
        handle = await bench.prefetch()
        await until(lambda: bench.world.resolves >= 2)
        bench.world.digest = "e" * 64
        await handle.signal("resume")
        await until(lambda: len(streams(bench)) >= 2)
        await phase_is(handle, PrefetchPhase.READY, ready=1)


async def test_a_dataset_that_is_not_allowed_waits_for_a_person(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        give_nodes(bench, [0])
        bench.world.error[names.RESOLVE_DATASET] = [refused("DatasetNotAllowed", "ask somebody")]
        handle = await bench.prefetch()
        status = await phase_is(handle, PrefetchPhase.AWAITING_OPERATOR)
        assert "ask somebody" in status.message
        assert bench.world.args(names.RESOLVE_DATASET)[0].pod == PodRef("ml", "", ""), "with the namespace's rights"
        await handle.signal("resume")
        await phase_is(handle, PrefetchPhase.READY, ready=1)
