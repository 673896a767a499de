"""A disk that refuses: another node is tried, else the Pod waits, holds nothing, says why, and goes on by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from temporalio.client import WorkflowHandle

from kube_cache import names
from kube_cache.contracts.common import ErrorInfo, Policy
from kube_cache.contracts.warm_pod import PodState, WarmPodStatus
from kube_cache.contracts.warm_pod_state import RejectionState
from tests.workflows.fakes import DIGEST, failed, refused
from tests.workflows.workbench import Workbench, until, workbench
from workflows.warm_pod import disk_wait
from workflows.warm_pod.disk_wait import DiskRejections

ARITHMETIC = "s3://b/x (2.9 KiB) needs 2.9 KiB, but 0 B can be used: pinned by pod/1"


@asynccontextmanager
async def crowded(address: str, **limits: float) -> AsyncIterator[tuple[Workbench, WorkflowHandle]]:
    """One node, whose disk refused, and a Pod that waits for it."""
    async with workbench(address, living_nodes=(0,), **limits) as bench:
        bench.world.nodes.pop()
        bench.world.disk_takes_it.clear()
        bench.world.error[names.STREAM_DATASET] = [refused("InsufficientDisk", ARITHMETIC, needed=3000, inodes=6)]
        handle = await bench.start()
        await until(lambda: "WaitingForDisk" in bench.world.phases())
        yield bench, handle


async def test_a_pod_waits_for_room_and_goes_on_by_itself(temporal_address: str) -> None:
    async with crowded(temporal_address) as (bench, handle):
        report = bench.world.args(names.REPORT_PHASE)[-1]
        assert ARITHMETIC in report.message
        assert "goes on by itself" in report.message
        status = await handle.query("status", result_type=WarmPodStatus)
        assert (status.phase, status.message) == ("WaitingForDisk", report.message)
        await until(lambda: bench.world.count(names.AWAIT_DISK) >= 2)
        asked = bench.world.args(names.AWAIT_DISK)[0]
        assert (asked.needed_bytes, asked.needed_inodes) == (3000, 6)
        assert bench.world.count(names.CREATE_SEAT) == bench.world.count(names.DELETE_SEAT), "it holds no seat"
        await until(lambda: bench.world.count(names.UNPIN) >= 1)  # nor a pin
        bench.world.disk_takes_it.set()
        assert (await handle.result()).outcome == "released"


async def test_waiting_writes_no_history(temporal_address: str) -> None:
    async with crowded(temporal_address) as (bench, handle):
        await until(lambda: bench.world.count(names.AWAIT_DISK) == 1)
        before = (await handle.describe()).history_length
        await until(lambda: bench.world.count(names.AWAIT_DISK) == 3)
        assert (await handle.describe()).history_length == before


async def test_another_node_is_tried_first(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.error[names.STREAM_DATASET] = [refused("InsufficientDisk", ARITHMETIC)]
        result = await (await bench.start()).result()
        assert (result.outcome, result.node) == ("released", bench.world.nodes[1])
        assert "InsufficientDisk" in [arg.event_reason for arg in bench.world.args(names.REPORT_PHASE)]
        assert bench.world.count(names.AWAIT_DISK) == 0


async def test_an_ill_disk_is_waited_for_too(temporal_address: str) -> None:
    async with workbench(temporal_address, living_nodes=(0,)) as bench:
        bench.world.nodes.pop()
        bench.world.complete.add(DIGEST)
        bench.world.error[names.CHECK_DISK] = [failed("DiskFault", "EROFS (read-only)") for _ in range(3)]
        handle = await bench.start()
        assert (await handle.result()).outcome == "released"
        waiting = next(arg for arg in bench.world.args(names.REPORT_PHASE) if arg.phase == "WaitingForDisk")
        assert "DiskFault on node" in waiting.message
        assert "EROFS" in waiting.message


async def test_a_disk_that_fails_under_a_download_is_left(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.error[names.STREAM_DATASET] = [refused("PersistentDiskFault", "EIO (i/o error)")]
        result = await (await bench.start()).result()
        assert (result.outcome, result.node) == ("released", bench.world.nodes[1])
        reports = {arg.event_reason: arg.message for arg in bench.world.args(names.REPORT_PHASE)}
        assert "EIO" in reports["PersistentDiskFault"]


async def test_the_only_disk_is_tried_again_when_it_looks_well(temporal_address: str) -> None:
    async with workbench(temporal_address, living_nodes=(0,)) as bench:
        bench.world.nodes.pop()
        bench.world.error[names.STREAM_DATASET] = [refused("PersistentDiskFault", "EIO") for _ in range(3)]
        result = await (await bench.start()).result()
        assert result.outcome == "released"
        assert bench.world.count(names.STREAM_DATASET) == 4
        assert bench.world.phases().count("WaitingForDisk") >= 3


def test_who_is_refused_for_ever_pauses_longer_but_not_for_ever() -> None:
    """Also after more refusals than a float has powers of two for."""
    rejections = DiskRejections(Policy(), RejectionState())
    for _ in range(2000):
        rejections.add("full", ErrorInfo("InsufficientDisk", ""))
    rejections.add("ill", ErrorInfo("PersistentDiskFault", ""))
    assert rejections.max_pause_s({"full", "ill"}, {"ill"}) == 16
    assert rejections.max_pause_s({"ill"}, {"ill"}) == 0.5
    for _ in range(20):
        rejections.add("ill", ErrorInfo("PersistentDiskFault", ""))
    assert rejections.max_pause_s({"ill"}, {"ill"}) == 3600


async def test_room_elsewhere_ends_the_pause_before_an_ill_disk(
    temporal_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_wait, "_doubled", lambda _times: 3600.0)

    async with workbench(temporal_address) as bench:
        bench.world.disk_takes_it.clear()
        bench.world.error[names.STREAM_DATASET] = [
            refused("PersistentDiskFault"),
            refused("InsufficientDisk", ARITHMETIC, needed=3000),
        ]
        handle = await bench.start()
        await until(lambda: any(not arg.needed_bytes for arg in bench.world.args(names.AWAIT_DISK)))
        bench.world.disk_takes_it.set()
        assert (await asyncio.wait_for(handle.result(), 90)).outcome == "released"


async def test_retry_looks_at_once_and_resolves_afresh(temporal_address: str) -> None:
    async with crowded(temporal_address) as (bench, handle):
        await handle.signal("retry")
        assert (await handle.result()).outcome == "released"
        assert bench.world.count(names.RESOLVE_DATASET) == 2


async def test_all_nodes_are_looked_at_again_after_a_while(temporal_address: str) -> None:
    async with crowded(temporal_address, disk_wait_s=2.0) as (bench, handle):
        assert (await handle.result()).outcome == "released"
        assert not bench.world.disk_takes_it.is_set()


@pytest.mark.parametrize(("signal", "phase"), [("cancel", "Cancelled"), ("pause", "Paused")], ids=str)
async def test_who_waits_can_be_stopped(temporal_address: str, signal: str, phase: str) -> None:
    async with crowded(temporal_address) as (bench, handle):
        await handle.signal(signal)
        await until(lambda: phase in bench.world.phases())
        await handle.signal("retry")
        assert (await handle.result()).outcome == "released"


async def test_a_deleted_pod_waits_no_longer(temporal_address: str) -> None:
    async with crowded(temporal_address) as (bench, handle):
        bench.world.pods[handle.id.rsplit("/", 1)[1]] = PodState(gone=True)
        await handle.signal("pod_gone")
        assert (await asyncio.wait_for(handle.result(), 90)).outcome == "pod_gone"
        assert bench.world.count(names.PATCH_GATE) == 0


async def test_gate_time_goes_on_while_it_waits(temporal_address: str) -> None:
    async with crowded(temporal_address) as (bench, handle):
        await handle.signal("pod_changed", bench.view(on_timeout="release", max_gate_time="1s"))
        assert (await handle.result()).outcome in ("released", "released_cold")
