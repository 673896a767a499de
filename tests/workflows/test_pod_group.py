"""Pods of a group: released together with one snapshot, whatever becomes of a member meanwhile."""

from __future__ import annotations

from temporalio.client import WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from kube_cache import names
from kube_cache.contracts.group import (
    FindGroupResult,
    GroupMember,
    GroupTold,
    JoinGroupInput,
    PodGroupInput,
    PodGroupStatus,
    Verdict,
    WaitingPod,
)
from kube_cache.contracts.warm_pod import SeatLost
from tests.workflows.fakes import DIGEST
from tests.workflows.workbench import Workbench, until, workbench

NEWER = "e" * 64


async def status(bench: Workbench) -> PodGroupStatus:
    return await bench.group().query("status", result_type=PodGroupStatus)


async def ready(bench: Workbench, count: int) -> None:
    async def counts_them() -> bool:
        try:
            return (await status(bench)).ready == count
        except RPCError as error:  # the group's workflow begins with the first member's message
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            return False

    await until(counts_them)


async def outcomes(*members: WorkflowHandle) -> set[str]:
    return {(await member.result()).outcome for member in members}


def words(bench: Workbench) -> list[str]:
    return [arg.message for arg in bench.world.args(names.REPORT_PHASE) if arg.phase == "WaitingForGroup"]


def digests_of(bench: Workbench) -> set[str]:
    return {digest for arg in bench.world.args(names.PATCH_GATE) for digest in arg.digests}


async def test_nobody_goes_before_the_last_has_arrived(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.complete.add(DIGEST)
        members = [await bench.start_member(), await bench.start_member()]
        await ready(bench, 2)
        assert bench.world.count(names.PATCH_GATE) == 0
        members.append(await bench.start_member())
        assert await outcomes(*members) == {"released"}
        assert await bench.group().result() == PodGroupStatus(0, 0, 0, "")


async def test_a_pod_without_a_group_makes_no_call_for_one(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        await (await bench.start()).result()
        assert bench.world.count(names.JOIN_GROUP) == 0


async def test_a_waiting_member_says_who_is_waited_for(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.group = FindGroupResult(0, [WaitingPod("warm/ml/train-3/x", "train-3", "Warming")])
        await bench.start_member()
        await until(lambda: words(bench))
        assert words(bench) == ["1 of 3 ready; waiting for train-3 (Warming), 1 that do not exist yet"]


async def test_a_pod_that_is_created_again_waits_only_for_those_that_do_not_run(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.group = FindGroupResult(running=2, running_digests=[DIGEST])
        assert await outcomes(await bench.start_member()) == {"released"}
        assert "GroupSnapshotDiffers" not in [arg.event_reason for arg in bench.world.args(names.REPORT_PHASE)]


async def test_a_pod_beside_others_that_run_on_an_older_snapshot_says_so(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.world.group = FindGroupResult(running=2, running_digests=[NEWER])
        assert await outcomes(await bench.start_member()) == {"released"}
        warned = [arg for arg in bench.world.args(names.REPORT_PHASE) if arg.event_reason == "GroupSnapshotDiffers"]
        assert all(NEWER[:12] in arg.message for arg in warned)
        assert warned


async def test_the_newest_snapshot_wins_and_the_others_fetch_that(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        members = [await bench.start_member(), await bench.start_member()]
        await ready(bench, 2)
        bench.world.digest = NEWER
        members.append(await bench.start_member())
        assert await outcomes(*members) == {"released"}
        assert digests_of(bench) == {NEWER}
        assert set(bench.world.fetched) == {DIGEST, NEWER}


async def test_members_that_disagree_about_the_size_are_told_and_wait(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        members = [await bench.start_member(2), await bench.start_member(3)]
        await until(lambda: sum("group-size differs" in said for said in words(bench)) >= 2)
        assert bench.world.count(names.PATCH_GATE) == 0
        await members[1].signal("pod_changed", bench.view(group=bench.group_name, group_size="2"))
        assert await outcomes(*members) == {"released"}


async def test_a_member_that_is_paused_does_not_count(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        members = [await bench.start_member(2)]
        await ready(bench, 1)
        await members[0].signal("pause")
        await until(lambda: "Paused" in bench.world.phases())
        members.append(await bench.start_member(2))
        await ready(bench, 1)
        assert bench.world.count(names.PATCH_GATE) == 0
        await members[0].signal("resume")
        assert await outcomes(*members) == {"released"}


async def test_a_member_that_loses_its_seat_does_not_count_until_it_has_another(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        first = await bench.start_member(2)
        await ready(bench, 1)
        bench.world.seat_binds = False
        await first.signal("seat_lost", SeatLost(names.seat_name(first.id.rsplit("/", 1)[1], 1), "preempted"))
        await ready(bench, 0)
        await until(lambda: bench.world.count(names.CREATE_SEAT) >= 2)  # the first has asked for another, in vain
        bench.world.seat_binds = True
        second = await bench.start_member(2)
        await ready(bench, 1)
        assert bench.world.count(names.PATCH_GATE) == 0
        await first.signal("resync")
        assert await outcomes(first, second) == {"released"}


async def test_an_incomplete_group_gives_its_seats_back_for_a_while(temporal_address: str) -> None:
    async with workbench(temporal_address, group_hold_s=1.0) as bench:
        members = [await bench.start_member(), await bench.start_member()]
        await until(lambda: sum("given back" in said for said in words(bench)) >= 2)
        await until(lambda: bench.world.count(names.DELETE_SEAT) >= 2)
        assert bench.world.count(names.PATCH_GATE) == 0
        events = [arg.event_reason for arg in bench.world.args(names.REPORT_PHASE)]
        assert "SeatGivenBack" in events
        assert "SeatLost" not in events, "nobody took the seats"
        members.append(await bench.start_member())
        assert await outcomes(*members) == {"released"}
        assert len(bench.world.fetched) == 1, "what was fetched stays"


async def test_a_member_that_may_go_is_released_alone_when_it_lost_its_node(temporal_address: str) -> None:
    """The others run: they wait for it, not it for them."""
    async with workbench(temporal_address) as bench:
        bench.world.seat_binds = False
        member = await bench.start_member()
        await until(lambda: bench.world.count(names.CREATE_SEAT))
        await member.signal("group_told", GroupTold(bench.group_name, Verdict.GO))
        bench.world.seat_binds = True
        await member.signal("resync")
        assert await outcomes(member) == {"released"}


async def test_a_group_that_was_terminated_is_told_again(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        first = await bench.start_member(2)
        await ready(bench, 1)
        await bench.group().terminate("a test")
        await first.signal("resync")
        await until(lambda: bench.world.count(names.JOIN_GROUP) >= 2)  # what has ended answers queries, too
        await ready(bench, 1)
        assert await outcomes(first, await bench.start_member(2)) == {"released"}


async def test_a_member_that_lost_its_seat_when_it_was_told_to_go_leaves_no_group_behind(temporal_address: str) -> None:
    """Its news crosses with `go`: the group, which had forgotten it, counts it again."""
    async with workbench(temporal_address) as bench:
        bench.world.seat_binds = False
        member = await bench.start_member()
        await until(lambda: bench.world.count(names.JOIN_GROUP))
        await until(lambda: bench.world.count(names.CREATE_SEAT))
        assert (await bench.group().describe()).close_time is None
        await member.signal("group_told", GroupTold(bench.group_name, Verdict.GO))
        bench.world.seat_binds = True
        await member.signal("resync")
        assert await outcomes(member) == {"released"}
        await bench.group().result()


async def test_a_member_whose_pod_runs_is_dropped_at_the_next_look(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        ghost = "warm/ml/ghost/x"
        bench.world.group = FindGroupResult(1, gone=[ghost])
        group = JoinGroupInput(PodGroupInput("ml", bench.group_name), GroupMember(ghost, 3))
        await bench.join_group(group)
        assert (await bench.group().result()).ready == 0
