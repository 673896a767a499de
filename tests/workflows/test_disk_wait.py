"""A disk that refuses: another node is tried, else the Pod waits, holds nothing, says why, and goes on by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from temporalio.client import WorkflowHandle

from kube_cache import names
from kube_cache.contracts.common import ErrorInfo, Policy
from kube_cache.contracts.warm_pod import WarmPodStatus
from tests.workflows.fakes import DIGEST, failed, refused
from tests.workflows.workbench import Bench, bench, until
from workflows.warm_pod import disk_wait
from workflows.warm_pod.disk_wait import DiskRejections

ARITHMETIC = "s3://b/x (2.9 KiB) needs 2.9 KiB, but 0 B can be used: pinned by pod/1"


@asynccontextmanager
async def crowded(address: str, **limits: float) -> AsyncIterator[tuple[Bench, WorkflowHandle]]:
    """One node, whose disk refused, and a Pod that waits for it."""
    async with bench(address, living_nodes=(0,), **limits) as made:
        made.world.nodes.pop()
        made.world.disk_takes_it.clear()
        made.world.error[names.STREAM_DATASET] = [refused("InsufficientDisk", ARITHMETIC, needed=3000, inodes=6)]
        handle = await made.start()
        await until(lambda: "WaitingForDisk" in made.world.phases())
        yield made, handle


def test_a_pod_waits_for_room_and_goes_on_by_itself(temporal_address: str) -> None:
    async def scenario() -> None:
        async with crowded(temporal_address) as (made, handle):
            report = made.world.args(names.REPORT_PHASE)[-1]
            assert ARITHMETIC in report.message
            assert "goes on by itself" in report.message
            status = await handle.query("status", result_type=WarmPodStatus)
            assert (status.phase, status.message) == ("WaitingForDisk", report.message)
            await until(lambda: made.world.count(names.AWAIT_DISK) >= 2)
            asked = made.world.args(names.AWAIT_DISK)[0]
            assert (asked.needed_bytes, asked.needed_inodes) == (3000, 6)
            assert made.world.count(names.CREATE_SEAT) == made.world.count(names.DELETE_SEAT), "it holds no seat"
            await until(lambda: made.world.count(names.UNPIN) >= 1)  # nor a pin
            made.world.disk_takes_it.set()
            assert (await handle.result()).outcome == "released"

    asyncio.run(scenario())


def test_waiting_writes_no_history(temporal_address: str) -> None:
    async def scenario() -> None:
        async with crowded(temporal_address) as (made, handle):
            await until(lambda: made.world.count(names.AWAIT_DISK) == 1)
            before = (await handle.describe()).history_length
            await until(lambda: made.world.count(names.AWAIT_DISK) == 3)
            assert (await handle.describe()).history_length == before

    asyncio.run(scenario())


def test_another_node_is_tried_first(temporal_address: str) -> None:
    async def scenario() -> None:
        async with bench(temporal_address) as made:
            made.world.error[names.STREAM_DATASET] = [refused("InsufficientDisk", ARITHMETIC)]
            result = await (await made.start()).result()
            assert (result.outcome, result.node) == ("released", made.world.nodes[1])
            assert "InsufficientDisk" in [arg.event_reason for arg in made.world.args(names.REPORT_PHASE)]
            assert made.world.count(names.AWAIT_DISK) == 0

    asyncio.run(scenario())


def test_an_ill_disk_is_waited_for_too(temporal_address: str) -> None:
    async def scenario() -> None:
        async with bench(temporal_address, living_nodes=(0,)) as made:
            made.world.nodes.pop()
            made.world.complete.add(DIGEST)
            made.world.error[names.CHECK_DISK] = [failed("DiskFault", "EROFS (read-only)") for _ in range(3)]
            handle = await made.start()
            assert (await handle.result()).outcome == "released"
            waiting = next(arg for arg in made.world.args(names.REPORT_PHASE) if arg.phase == "WaitingForDisk")
            assert "DiskFault on node" in waiting.message
            assert "EROFS" in waiting.message

    asyncio.run(scenario())


def test_a_disk_that_fails_under_a_download_is_left(temporal_address: str) -> None:
    async def scenario() -> None:
        async with bench(temporal_address) as made:
            made.world.error[names.STREAM_DATASET] = [refused("PersistentDiskFault", "EIO (i/o error)")]
            result = await (await made.start()).result()
            assert (result.outcome, result.node) == ("released", made.world.nodes[1])
            reports = {arg.event_reason: arg.message for arg in made.world.args(names.REPORT_PHASE)}
            assert "EIO" in reports["PersistentDiskFault"]

    asyncio.run(scenario())


def test_the_only_disk_is_tried_again_when_it_looks_well(temporal_address: str) -> None:
    async def scenario() -> None:
        async with bench(temporal_address, living_nodes=(0,)) as made:
            made.world.nodes.pop()
            made.world.error[names.STREAM_DATASET] = [refused("PersistentDiskFault", "EIO") for _ in range(3)]
            result = await (await made.start()).result()
            assert result.outcome == "released"
            assert made.world.count(names.STREAM_DATASET) == 4
            assert made.world.phases().count("WaitingForDisk") >= 3

    asyncio.run(scenario())


def test_who_is_refused_for_ever_pauses_longer_but_not_for_ever() -> None:
    """Also after more refusals than a float has powers of two for."""
    refusals = DiskRejections(Policy())
    for _ in range(2000):
        refusals.add("full", ErrorInfo("InsufficientDisk", ""))
    refusals.add("ill", ErrorInfo("PersistentDiskFault", ""))
    assert refusals.longest_pause({"full", "ill"}, {"ill"}) == 16
    assert refusals.longest_pause({"ill"}, {"ill"}) == 0.5
    for _ in range(20):
        refusals.add("ill", ErrorInfo("PersistentDiskFault", ""))
    assert refusals.longest_pause({"ill"}, {"ill"}) == 3600


def test_room_elsewhere_ends_the_pause_before_an_ill_disk(
    temporal_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_wait, "_doubled", lambda _times: 3600.0)

    async def scenario() -> None:
        async with bench(temporal_address) as made:
            made.world.disk_takes_it.clear()
            made.world.error[names.STREAM_DATASET] = [
                refused("PersistentDiskFault"),
                refused("InsufficientDisk", ARITHMETIC, needed=3000),
            ]
            handle = await made.start()
            await until(lambda: any(not arg.needed_bytes for arg in made.world.args(names.AWAIT_DISK)))
            made.world.disk_takes_it.set()
            assert (await asyncio.wait_for(handle.result(), 20)).outcome == "released"

    asyncio.run(scenario())


def test_retry_looks_at_once_and_resolves_afresh(temporal_address: str) -> None:
    async def scenario() -> None:
        async with crowded(temporal_address) as (made, handle):
            await handle.signal("retry")
            assert (await handle.result()).outcome == "released"
            assert made.world.count(names.RESOLVE_DATASET) == 2

    asyncio.run(scenario())


def test_all_nodes_are_looked_at_again_after_a_while(temporal_address: str) -> None:
    async def scenario() -> None:
        async with crowded(temporal_address, disk_wait_s=2.0) as (made, handle):
            assert (await handle.result()).outcome == "released"
            assert not made.world.disk_takes_it.is_set()

    asyncio.run(scenario())


@pytest.mark.parametrize(("signal", "phase"), [("cancel", "Cancelled"), ("pause", "Paused")], ids=str)
def test_who_waits_can_be_stopped(temporal_address: str, signal: str, phase: str) -> None:
    async def scenario() -> None:
        async with crowded(temporal_address) as (made, handle):
            await handle.signal(signal)
            await until(lambda: phase in made.world.phases())
            await handle.signal("retry")
            assert (await handle.result()).outcome == "released"

    asyncio.run(scenario())


def test_a_deleted_pod_waits_no_longer(temporal_address: str) -> None:
    async def scenario() -> None:
        async with crowded(temporal_address) as (made, handle):
            await handle.signal("pod_gone")
            assert (await asyncio.wait_for(handle.result(), 15)).outcome == "pod_gone"
            assert made.world.count(names.PATCH_GATE) == 0

    asyncio.run(scenario())


def test_gate_time_goes_on_while_it_waits(temporal_address: str) -> None:
    async def scenario() -> None:
        async with crowded(temporal_address) as (made, handle):
            await handle.signal("pod_changed", made.view(on_timeout="release", max_gate_time="1s"))
            assert (await handle.result()).outcome in ("released", "released_cold")

    asyncio.run(scenario())
