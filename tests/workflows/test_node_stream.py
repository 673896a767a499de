"""A busy agent is not taken for dead; one that is away is waited for as its disk is worth; an old one is served."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import uuid

import pytest
from temporalio.client import WorkflowHandle, WorkflowHistory
from temporalio.worker import Replayer

from kube_cache import names
from kube_cache.contracts.common import Consumer, PodRef, Policy, Snapshot
from kube_cache.contracts.node import DatasetOnNodeInput, DatasetOnNodeStatus, JoinInput
from kube_cache.contracts.warm_pod import PodState
from tests.workflows.fakes import DIGEST
from tests.workflows.record import HISTORIES
from tests.workflows.workbench import Workbench, until, workbench
from workflows.dataset_on_node import DatasetOnNode
from workflows.node_stream import patience_s

AGENT_LOST_BEFORE_PING = HISTORIES / "generation-1" / "agent_lost.entity.json"
DOWNLOADS = 20
DOWNLOAD_SLOTS = 4


def pending(description: object) -> list[str]:
    return [each.activity_type.name for each in description.raw_description.pending_activities]  # type: ignore[attr-defined]


async def phase(entity: WorkflowHandle) -> str:
    status: DatasetOnNodeStatus = await entity.query("status", result_type=DatasetOnNodeStatus)
    return status.phase


async def join(bench: Workbench, digest: str) -> WorkflowHandle:
    """Have a Pod that has no workflow join an entity of the first node."""
    pod = PodRef("ml", f"pod-{digest[:6]}", uuid.uuid4().hex)
    snapshot = Snapshot(f"s3://bucket/{digest[:6]}", digest, 3, 3000)
    dataset = DatasetOnNodeInput(bench.world.nodes[0], "disk-1", snapshot, bench.policy)
    consumer = Consumer(names.warm_pod_id("ml", pod.name, pod.uid), pod)
    await bench.join(JoinInput(dataset, consumer))
    return bench.entity(digest=digest)


async def test_more_hanging_downloads_than_slots_do_not_make_an_agent_look_dead(temporal_address: str) -> None:
    """Those that find no slot wait for one, and what is short is answered meanwhile: check, unpin, reconcile."""
    # The agent is asked after 8 s without a slot and after 16 more, and has 4 s to answer, on a busy machine, too.
    limits = {"stream_heartbeat_s": 60.0, "check_schedule_to_start_s": 60.0, "stream_schedule_to_start_s": 12.0}
    async with workbench(temporal_address, living_nodes=(), **limits) as bench:
        bench.world.finish_stream.clear()
        digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(DOWNLOADS)]
        async with bench.agent(download_slots=DOWNLOAD_SLOTS):
            entities = await asyncio.gather(*(join(bench, digest) for digest in digests))
            # Each of those without a slot is asked about at least twice.
            await until(lambda: bench.world.count(names.PING) >= 2 * (DOWNLOADS - DOWNLOAD_SLOTS), seconds=150)
            assert {await phase(entity) for entity in entities} == {"Warming"}

            bench.world.complete.add(DIGEST)
            pod = await bench.start()
            assert (await asyncio.wait_for(pod.result(), 90)).outcome == "released"
            patch = bench.world.patch()
            assert patch.node == bench.world.nodes[0]
            await bench.entity().signal("leave", Consumer(pod.id, patch.pod))
            await until(lambda: bench.world.count(names.UNPIN) == 1)
            bench.survey(nodes=bench.world.nodes[:1])
            run = await bench.reconcile()
            assert (await run.result()).nodes_seen == 1

            bench.world.finish_stream.set()

            async def all_ready() -> bool:
                return {await phase(entity) for entity in entities} == {"Ready"}

            await until(all_ready, seconds=90)


async def test_an_agent_that_is_away_for_long_loses_no_download(temporal_address: str) -> None:
    """Its disk holds 20 s worth of bytes, and it comes back after the queue gave up."""
    async with workbench(temporal_address, living_nodes=(1,), refetch_bytes_per_s=1.0) as bench:
        bench.world.done_bytes = 2000
        bench.world.finish_stream.clear()
        async with bench.agent():
            pod = await bench.start()
            await bench.world.streaming.wait()

            async def heard_of() -> bool:
                activities = (await bench.entity().describe()).raw_description.pending_activities
                return any(each.heartbeat_details.payloads for each in activities)

            await until(heard_of)

        async def waits_for_the_agent() -> bool:
            return pending(await bench.entity().describe()) == [names.PING]

        await until(waits_for_the_agent)
        bench.world.finish_stream.set()
        async with bench.agent():
            assert (await asyncio.wait_for(pod.result(), 90)).node == bench.world.nodes[0]
        assert [arg.done_bytes for arg in bench.world.args(names.STREAM_DATASET)] == [0, 2000]
        assert bench.world.count(names.CREATE_SEAT) == 1


async def test_an_agent_that_is_away_while_its_disk_holds_nothing_is_left_at_once(temporal_address: str) -> None:
    async with workbench(temporal_address, living_nodes=(1,), refetch_bytes_per_s=1.0) as bench:
        bench.world.done_bytes = 0
        bench.world.finish_stream.clear()
        async with bench.agent():
            pod = await bench.start()
            await bench.world.streaming.wait()
        bench.world.finish_stream.set()
        assert (await asyncio.wait_for(pod.result(), 90)).node == bench.world.nodes[1]


async def test_a_download_that_waits_for_its_agent_ends_with_the_last_pod_that_wants_it(temporal_address: str) -> None:
    async with workbench(temporal_address, living_nodes=(), refetch_bytes_per_s=0.1) as bench:
        bench.world.done_bytes = 2000
        bench.world.finish_stream.clear()
        async with bench.agent():
            pod = await bench.start()
            await bench.world.streaming.wait()

            async def heard_of() -> bool:
                activities = (await bench.entity().describe()).raw_description.pending_activities
                return any(each.heartbeat_details.payloads for each in activities)

            await until(heard_of)

        async def waits_for_the_agent() -> bool:
            return pending(await bench.entity().describe()) == [names.PING]

        await until(waits_for_the_agent)
        bench.world.pods[pod.id.rsplit("/", 1)[1]] = PodState(gone=True)
        await pod.signal("pod_gone")
        await asyncio.wait_for(bench.entity().result(), 90)


async def test_an_agent_of_yesterday_downloads_for_an_operator_of_today(temporal_address: str) -> None:
    """It serves one queue and knows no ping, which is how it is recognized."""
    async with workbench(temporal_address, living_nodes=()) as bench:
        async with bench.agent(old=True):
            pod = await bench.start()
            assert (await asyncio.wait_for(pod.result(), 90)).node == bench.world.nodes[0]
        assert bench.world.count(names.STREAM_DATASET) == 1
        assert bench.world.count(names.CREATE_SEAT) == 1


def test_a_download_that_failed_before_there_was_a_ping_replays() -> None:
    """Recorded at e9a9ce0: the agent never came back, and the entity gave up without a ping."""
    history = WorkflowHistory.from_json("agent-lost", AGENT_LOST_BEFORE_PING.read_text())
    asyncio.run(Replayer(workflows=[DatasetOnNode], debug_mode=True).replay_workflow(history))


def test_the_patience_with_an_agent_grows_with_what_its_disk_holds_up_to_ten_minutes() -> None:
    policy = Policy(stream_schedule_to_start_s=30, refetch_bytes_per_s=1e9)
    waits = [20 + patience_s(policy, done) for done in (0, 60 * 10**9, 396 * 10**9, 10**15)]
    assert waits == pytest.approx([30, 90, 426, 630])
    slow = dataclasses.replace(policy, refetch_bytes_per_s=1e6)
    assert patience_s(slow, 60 * 10**6) == pytest.approx(70)
