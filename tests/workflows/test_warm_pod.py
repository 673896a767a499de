"""What a Pod's workflow does in each situation, on a real Temporal server with scripted activities."""

from __future__ import annotations

import asyncio

import pytest

from kube_cache import names
from kube_cache.contracts.common import BannedNeighbour, ErrorInfo
from kube_cache.contracts.node import DatasetOnNodeStatus
from kube_cache.contracts.warm_pod import PodBound, PodState, PodUnschedulable, SeatLost, WarmPodStatus
from tests.workflows import workbench as workbench_module
from tests.workflows.fakes import DIGEST, refused
from tests.workflows.workbench import until, workbench


@pytest.fixture(autouse=True, params=["awaited", "signalled"])
def how_events_come(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every promise holds both ways: whether an activity or a signal brings what the scheduler did."""
    if request.param == "signalled":
        monkeypatch.setattr("tests.workflows.workbench.WATCH_WAIT_S", 0.0)


async def test_a_hit_is_released_without_a_download(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.complete.add(DIGEST)
        result = await (await bench.start()).result()
        assert (result.outcome, result.hit, result.fetched_bytes, result.bytes) == ("released", True, 0, 3000)
        assert result.gpu_seconds_saved == 0
        assert result.node == bench.world.nodes[0]
        assert bench.world.count(names.STREAM_DATASET) == 0
        assert bench.world.count(names.PATCH_GATE) == 1
        assert bench.world.count(names.DELETE_SEAT) == 1
        assert bench.world.args(names.REPORT_PHASE)[-1].ready
        status = await bench.entity().query("status", result_type=DatasetOnNodeStatus)
        assert status.phase == "Ready"


async def test_a_miss_is_fetched_before_the_gate_is_removed(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        result = await (await bench.start()).result()
        assert (result.outcome, result.hit, result.fetched_bytes) == ("released", False, 3000)
        (released,) = bench.world.released
        # The metric counts what the patch is told; the result has the time of the patch as well, but not of the seat.
        assert 0 < 8 * released.fetch_s <= result.gpu_seconds_saved <= 8 * result.seconds
        order = [name for name, _ in bench.world.calls if name in (names.STREAM_DATASET, names.PATCH_GATE)]
        assert order == [names.STREAM_DATASET, names.PATCH_GATE]
        assert "neighbour" not in bench.world.args(names.REPORT_PHASE)[-1].message


async def test_pods_say_where_the_bytes_of_their_download_came_from(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.neighbour_bytes, bench.world.neighbours = 1830, 7
        bench.world.finish_stream.clear()
        handles = [await bench.start() for _ in range(2)]
        await until(lambda: bench.world.count(names.JOIN_DATASET) >= 2)
        bench.world.finish_stream.set()
        for handle in handles:
            result = await handle.result()
            assert (result.fetched_bytes, result.neighbour_bytes, result.neighbours) == (3000, 1830, 7)
        told = [arg for arg in bench.world.args(names.REPORT_PHASE) if arg.ready]
        assert len({arg.pod.uid for arg in told}) == 2
        for arg in told:
            assert arg.event_reason == "DatasetReady"
            assert arg.message.endswith(", 61 % from 7 neighbours")


async def test_twenty_pods_share_one_download(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.finish_stream.clear()
        handles = [await bench.start() for _ in range(20)]
        await until(lambda: bench.world.count(names.JOIN_DATASET) >= 20)
        bench.world.finish_stream.set()
        results = [await handle.result() for handle in handles]
        assert {result.outcome for result in results} == {"released"}
        assert bench.world.count(names.STREAM_DATASET) == 1
        # Pods, not calls: a busy worker runs a local activity again, which is harmless (tests/e2e reads the audit log).
        assert len({arg.pod.uid for arg in bench.world.args(names.PATCH_GATE)}) == 20


async def test_a_pod_names_the_neighbour_that_was_banned_and_is_released_all_the_same(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.banned = [BannedNeighbour("gpu-3", "sent other bytes than the origin's for chunk 7")]
        handles = [await bench.start() for _ in range(2)]
        for handle in handles:
            assert (await handle.result()).outcome == "released"
        told = [arg for arg in bench.world.args(names.REPORT_PHASE) if arg.event_reason == "NeighbourBanned"]
        fetched = {arg.pod.uid for arg in bench.world.args(names.REPORT_PHASE) if arg.event_reason == "Warming"}
        assert {arg.pod.uid for arg in told} == fetched
        for arg in told:
            assert (arg.phase, arg.warning, arg.ready) == ("Warming", True, False)
            assert arg.message.startswith("node gpu-3 sent other bytes than the origin's for chunk 7. Nothing more")
            assert arg.message.endswith(f"kube-cache store verify {DIGEST[:12]} --full --node gpu-3")


async def test_a_node_without_an_agent_is_left_for_another(temporal_address: str) -> None:
    async with workbench(temporal_address, living_nodes=(1,)) as bench:
        result = await (await bench.start()).result()
        assert (result.outcome, result.node) == ("released", bench.world.nodes[1])
        assert bench.world.args(names.CREATE_SEAT)[-1].exclude_nodes == [bench.world.nodes[0]]
        assert "NodeLost" in [arg.event_reason for arg in bench.world.args(names.REPORT_PHASE)]


async def test_gates_of_others_are_waited_for(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        handle = await bench.start(foreign_gates=["kueue.x-k8s.io/topology", "example.com/other"])
        await until(lambda: "WaitingForGates" in bench.world.phases())
        await handle.signal("pod_changed", bench.view(foreign_gates=["example.com/other"]))
        await until(lambda: bench.world.phases().count("WaitingForGates") == 2)
        assert bench.world.count(names.CREATE_SEAT) == 0
        await handle.signal("pod_changed", bench.view())
        assert (await handle.result()).outcome == "released"


async def test_an_error_keeps_the_gate_until_retry(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.error[names.RESOLVE_DATASET] = [refused("AccessDenied", "s3://bucket refused the credentials")]
        handle = await bench.start()
        await until(lambda: "AwaitingOperator" in bench.world.phases())
        report = bench.world.args(names.REPORT_PHASE)[-1]
        assert report.event_reason == "AccessDenied"
        assert "s3://bucket refused the credentials" in report.message
        assert "--name retry" in report.message
        status = await handle.query("status", result_type=WarmPodStatus)
        assert status.error == ErrorInfo("AccessDenied", "s3://bucket refused the credentials")
        assert bench.world.count(names.PATCH_GATE) == 0
        await handle.signal("retry")
        assert (await handle.result()).outcome == "released"


async def test_a_mended_annotation_needs_no_signal(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        handle = await bench.start(max_gate_time="soon")
        await until(lambda: "AwaitingOperator" in bench.world.phases())
        assert "'soon' is not a duration" in bench.world.args(names.REPORT_PHASE)[-1].message
        await handle.signal("pod_changed", bench.view(max_gate_time="30m"))
        assert (await handle.result()).outcome == "released"


async def test_cancel_gives_the_seat_back_and_retry_starts_again(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.finish_stream.clear()
        handle = await bench.start()
        await bench.world.streaming.wait()
        await handle.signal("cancel")
        await until(lambda: "Cancelled" in bench.world.phases())
        assert bench.world.count(names.DELETE_SEAT) == 1
        assert bench.world.count(names.PATCH_GATE) == 0
        bench.world.finish_stream.set()
        await handle.signal("retry")
        assert (await handle.result()).outcome == "released"


async def test_the_cancel_button_means_cancel_and_leaves_the_workflow_open(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.finish_stream.clear()
        handle = await bench.start()
        await bench.world.streaming.wait()
        await handle.cancel()
        await until(lambda: "Cancelled" in bench.world.phases())
        bench.world.finish_stream.set()
        await handle.signal("retry")
        assert (await handle.result()).outcome == "released"


@pytest.mark.parametrize("activity", [names.CREATE_SEAT, names.DELETE_SEAT])
async def test_the_cancel_button_is_heard_while_an_activity_runs_and_works_each_time(
    temporal_address: str, activity: str
) -> None:
    """C12. Temporal cancels a run once: the stopped workflow continues as new, so that the next press counts."""
    async with workbench(temporal_address) as bench:
        bench.world.finish_stream.clear()
        handle = await bench.start()

        async def is_in(phase: str) -> bool:
            return (await handle.query("status", result_type=WarmPodStatus)).phase == phase

        for times in (1, 2):
            before = bench.world.count(activity) if times > 1 else 0
            if activity == names.DELETE_SEAT:  # of the withdrawal that a first request begins
                await until(lambda: is_in("Warming"))
                bench.world.held[activity] = asyncio.Event()
                await handle.signal("pause")
            else:
                bench.world.held[activity] = asyncio.Event()
                if times > 1:
                    await handle.signal("retry")
            await until(lambda before=before: bench.world.count(activity) > before)
            await handle.cancel()
            bench.world.held.pop(activity).set()
            await until(lambda: is_in("Cancelled"))
            if activity == names.DELETE_SEAT and times == 1:
                await handle.signal("retry")
        bench.world.finish_stream.set()
        await handle.signal("retry")
        assert (await handle.result()).outcome == "released"
        assert bench.world.count(names.PATCH_GATE) == 1


async def test_a_paused_pod_goes_on_after_resume(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.finish_stream.clear()
        handle = await bench.start()
        await bench.world.streaming.wait()
        await handle.signal("pod_changed", bench.view(action="pause"))
        await until(lambda: "Paused" in bench.world.phases())
        bench.world.finish_stream.set()
        await handle.signal("pod_changed", bench.view(action="resume"))
        assert (await handle.result()).outcome == "released"


async def test_a_deleted_pod_ends_the_workflow_and_the_download(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.finish_stream.clear()
        handle = await bench.start()
        await bench.world.streaming.wait()
        bench.world.pods[handle.id.rsplit("/", 1)[1]] = PodState(gone=True)
        await handle.signal("pod_gone")
        result = await asyncio.wait_for(handle.result(), 90)
        assert result.outcome == "pod_gone"
        assert bench.world.count(names.DELETE_SEAT) == 1
        ended = await asyncio.wait_for(bench.entity().result(), 90)  # after the linger the entity has nothing to hold
        assert ended.consumers == []
        assert bench.world.count(names.UNPIN) == 1
        assert bench.world.count(names.PATCH_GATE) == 0


async def test_gate_time_that_is_over_keeps_the_gate_by_default(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.finish_stream.clear()
        handle = await bench.start(max_gate_time="1s")
        await until(lambda: "AwaitingOperator" in bench.world.phases())
        assert bench.world.args(names.REPORT_PHASE)[-1].event_reason == "GateTimeOver"
        assert bench.world.count(names.PATCH_GATE) == 0
        bench.world.finish_stream.set()
        await handle.signal("pod_changed", bench.view(max_gate_time="10m"))
        assert (await handle.result()).outcome == "released"


async def test_gate_time_that_is_over_releases_cold_where_the_owner_asked(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.finish_stream.clear()
        handle = await bench.start(max_gate_time="1s", on_timeout="release")
        assert (await handle.result()).outcome == "released_cold"
        patch = bench.world.patch()
        assert not patch.pin


async def test_a_lost_seat_is_taken_again(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.finish_stream.clear()
        handle = await bench.start()
        await bench.world.streaming.wait()
        first = bench.world.args(names.CREATE_SEAT)[0]
        bench.world.nodes.reverse()
        await handle.signal("seat_lost", SeatLost(names.seat_name(first.pod.uid, 1), "preempted"))
        bench.world.finish_stream.set()
        result = await handle.result()
        assert (result.outcome, result.node) == ("released", bench.world.nodes[0])
        assert [arg.number for arg in bench.world.args(names.CREATE_SEAT)] == [1, 2]


async def test_a_hit_that_the_inventory_knows_does_not_wake_the_entity(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.complete.add(DIGEST)
        bench.world.holders[DIGEST] = [bench.world.nodes[0]]
        assert (await (await bench.start()).result()).hit
        # What came late, by signal, may be older than the inventory: then the entity is told.
        assert bench.world.count(names.JOIN_DATASET) == (0 if workbench_module.WATCH_WAIT_S else 1)


async def test_a_hit_costs_sixteen_history_events(temporal_address: str) -> None:
    if not workbench_module.WATCH_WAIT_S:
        return
    async with workbench(temporal_address) as bench:
        bench.world.complete.add(DIGEST)
        bench.world.holders[DIGEST] = [bench.world.nodes[0]]
        handle = await bench.start()
        await handle.result()
        assert (await handle.describe()).history_length == 16


async def test_a_lost_signal_is_made_up_for_by_looking_again(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.complete.add(DIGEST)
        bench.world.seat_binds = False
        handle = await bench.start()
        await until(lambda: bench.world.count(names.CREATE_SEAT) == 1)
        bench.world.seat_binds = True
        await handle.signal("resync")
        assert (await handle.result()).outcome == "released"
        assert [arg.number for arg in bench.world.args(names.CREATE_SEAT)] == [1, 1]


async def test_a_long_wait_is_spoken_of(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.complete.add(DIGEST)
        bench.world.seat_binds = False
        handle = await bench.start()
        await until(lambda: "Placing" in bench.world.phases())
        bench.world.pods[handle.id.rsplit("/", 1)[1]] = PodState(gone=True)
        await handle.signal("pod_gone")
        assert (await handle.result()).outcome == "pod_gone"


async def test_a_source_that_changes_is_resolved_afresh(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.error[names.STREAM_DATASET] = [refused("SourceChanged", "another ETag")]
        result = await (await bench.start()).result()
        assert result.outcome == "released"
        assert bench.world.count(names.RESOLVE_DATASET) == 2
        assert "SourceChanged" in [arg.event_reason for arg in bench.world.args(names.REPORT_PHASE)]


async def test_a_gate_removed_by_others_ends_the_warm(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.finish_stream.clear()
        handle = await bench.start()
        await bench.world.streaming.wait()
        bench.world.pods[handle.id.rsplit("/", 1)[1]] = PodState(gone=False, view=bench.view(gated=False))
        await handle.signal("pod_changed", bench.view(gated=False))
        assert (await handle.result()).outcome == "released_elsewhere"
        assert bench.world.count(names.PATCH_GATE) == 0


async def test_a_released_pod_that_finds_no_place_says_so(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.complete.add(DIGEST)
        bench.world.bind_pod = False
        handle = await bench.start()
        await until(lambda: bench.world.count(names.PATCH_GATE) == 1)
        await handle.signal("pod_unschedulable", PodUnschedulable("0/3 nodes are available"))
        await until(lambda: "NotScheduled" in [arg.event_reason for arg in bench.world.args(names.REPORT_PHASE)])
        await handle.signal("pod_bound", PodBound(bench.world.nodes[0]))
        assert (await handle.result()).outcome == "released"


async def test_pausing_the_download_keeps_the_pods_waiting(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.finish_stream.clear()
        handle = await bench.start()
        await bench.world.streaming.wait()
        await bench.entity().signal("pause")

        async def paused() -> bool:
            return (await bench.entity().query("status", result_type=DatasetOnNodeStatus)).phase == "Paused"

        await until(paused)
        bench.world.finish_stream.set()
        await bench.entity().signal("resume")
        assert (await handle.result()).outcome == "released"
        assert bench.world.count(names.STREAM_DATASET) == 2


async def test_a_more_urgent_pod_raises_the_priority_of_a_running_download(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.finish_stream.clear()
        first = await bench.start()
        await bench.world.streaming.wait()
        second = await bench.start(priority="50")
        await until(lambda: bench.world.count(names.STREAM_DATASET) == 2)
        assert [arg.priority for arg in bench.world.args(names.STREAM_DATASET)] == [0, 50]
        bench.world.finish_stream.set()
        assert [(await handle.result()).outcome for handle in (first, second)] == ["released", "released"]


async def test_a_wait_that_was_too_short_is_made_up_for_by_the_signal(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.complete.add(DIGEST)
        bench.world.sees = False
        result = await (await bench.start()).result()
        assert (result.outcome, result.hit, result.node) == ("released", True, bench.world.nodes[0])
        assert bench.world.count(names.PATCH_GATE) == 1
        assert bench.world.count(names.DELETE_SEAT) == 1
