"""What must hold right before a release, and what a Pod is told when it does not; time and outside are simulated."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from temporalio.exceptions import ApplicationError

from kube_cache import names
from kube_cache.contracts.common import PodView, Policy, Snapshot
from kube_cache.contracts.node import CheckDiskResult, DiskSnapshot
from kube_cache.contracts.warm_pod import (
    CreateSeatResult,
    PatchGateResult,
    PodState,
    ResolveResult,
    SeatBound,
    SeatUnschedulable,
    WarmPodInput,
)
from tests.workflows.simulated_world import DIGEST, POD, SECOND, VIEW, World, finish, phase
from tests.workflows.simulation import START, Call, Chain, failed, refused
from workflows.warm_pod.workflow import WarmPod

NEWER = "e" * 64
HOUR = timedelta(hours=1)


def started(world: World, view: PodView = VIEW, policy: Policy | None = None) -> Chain:
    return Chain(WarmPod, WarmPodInput(POD, view, policy or Policy()), world.answer)


def last_words(chain: Chain) -> str:
    return str(chain.last(names.REPORT_PHASE)["message"])


# Fresh when it counts (C26)


class Placing(World):
    """The scheduler finds a node an hour late."""

    def __init__(self) -> None:
        super().__init__()
        self.digest = DIGEST
        self.complete = True

    def create_seat(self, call: Call) -> CreateSeatResult:
        super().create_seat(call)
        return CreateSeatResult("seat", 8, "")

    def resolve_dataset(self, call: Call) -> ResolveResult:
        return ResolveResult([Snapshot(call.arg["dataset"], self.digest, 3, 3000)])

    def check_disk(self, call: Call) -> CheckDiskResult:
        super().check_disk(call)
        return CheckDiskResult("disk", [DiskSnapshot(one["digest"], True, 0, "md5") for one in call.arg["snapshots"]])


def test_what_was_resolved_long_ago_is_resolved_again_before_the_disk_is_checked() -> None:
    world = Placing()
    chain = started(world)
    chain.advance(START + HOUR)
    world.digest = NEWER  # the source changed while the Pod waited for room
    chain.run.signal("seat_bound", SeatBound(names.seat_name(POD.uid, 1), "gpu-1"))
    assert finish(chain) == "released"
    assert chain.called[names.RESOLVE_DATASET] == 2
    assert [one["digest"] for one in chain.last(names.CHECK_DISK)["snapshots"]] == [NEWER]
    assert chain.last(names.PATCH_GATE)["digests"] == [NEWER]


def test_an_origin_that_is_away_later_does_not_hold_up_what_is_on_the_disk() -> None:
    world = Placing()
    chain = started(world)
    chain.advance(START + HOUR)
    world.errors[names.RESOLVE_DATASET] = [failed("SourceUnavailable"), failed("SourceUnavailable")]
    chain.run.signal("seat_bound", SeatBound(names.seat_name(POD.uid, 1), "gpu-1"))
    # The second failure stands for Temporal's own retries until the time for all of them is over.
    assert finish(chain) in ("released", "")
    assert chain.called[names.RESOLVE_DATASET] == 3


def test_a_disk_is_checked_again_after_a_download_and_before_a_late_patch() -> None:
    world = World()
    world.errors[names.PATCH_GATE] = [failed("ApiError", "503")] * 4
    chain = started(world)
    assert finish(chain) == "released"
    order = [name for _, name, _ in chain.run.arguments if name in (names.CHECK_DISK, names.JOIN_DATASET)]
    assert order[:3] == [names.CHECK_DISK, names.JOIN_DATASET, names.CHECK_DISK]
    assert chain.called[names.CHECK_DISK] > 2, "the patch was tried for longer than a check is fresh"


def test_a_snapshot_that_is_damaged_before_the_release_is_fetched_again_and_the_pod_says_so() -> None:
    class Damaging(World):
        times = 1

        def check_disk(self, call: Call) -> CheckDiskResult:
            if self.complete and self.times:
                self.times -= 1
                self.complete = False
            return super().check_disk(call)

    chain = started(Damaging())
    assert finish(chain) == "released"
    assert [report["warming"] is not None for report in chain.arguments(names.REPORT_PHASE)].count(True) == 2
    assert "SnapshotLost" in [report["event_reason"] for report in chain.arguments(names.REPORT_PHASE)]


# Asked for time by the API server


@pytest.mark.parametrize("name", [names.PATCH_GATE, names.CREATE_SEAT, names.JOIN_DATASET])
def test_a_server_that_asks_for_time_gets_it(name: str) -> None:
    world = World()
    asks = ApplicationError("429 too many requests", {}, type="ApiError", next_retry_delay=timedelta(seconds=40))
    world.errors[name] = [asks]
    chain = started(world)
    assert finish(chain) == "released"
    times = [at for run in chain.runs for at, called, _ in run.arguments if called == name]
    assert times[1] - times[0] >= timedelta(seconds=40)


# Refused by policy, by the mount, by the server


@pytest.mark.parametrize("how", ["policy", "annotation"])
def test_a_pod_that_requires_a_checksum_is_not_released_without_one(how: str) -> None:
    class Unproven(World):
        def check_disk(self, call: Call) -> CheckDiskResult:
            super().check_disk(call)
            return CheckDiskResult("disk", [DiskSnapshot(DIGEST, self.complete, 0, "transport-only")])

    world = Unproven()
    view = replace(VIEW, require="checksum" if how == "annotation" else "")
    world.pod = PodState(gone=False, view=view)
    chain = started(world, view, Policy(require_checksum=how == "policy"))
    assert finish(chain) == ""
    assert phase(chain) == "AwaitingOperator"
    assert "ChecksumRequired" in last_words(chain)
    assert "--checksum-algorithm" in last_words(chain), "it names the remedy"
    assert (world.patches, world.seats, world.pins) == (0, set(), set())


def test_a_pod_whose_mount_is_unsafe_is_told_before_anything_is_done_for_it() -> None:
    view = replace(VIEW, unsafe_mount="volume cache is mounted writably: set readOnly: true")
    world = World(view)
    chain = started(world, view)
    assert finish(chain) == ""
    assert "UnsafeMount: volume cache is mounted writably: set readOnly: true" in last_words(chain)
    assert chain.called[names.RESOLVE_DATASET] == chain.called[names.CREATE_SEAT] == 0


def test_a_pod_that_mounts_current_by_hand_is_told_what_a_restart_may_read() -> None:
    view = replace(VIEW, mounts_current=True)
    world = World(view)
    chain = started(world, view)
    assert finish(chain) == "released"
    assert "may read a newer snapshot" in last_words(chain)
    assert chain.last(names.CHECK_DISK)["keep_current"]


def test_a_seat_that_the_server_refuses_is_a_state_with_the_servers_words() -> None:
    """C5."""
    world = World()
    world.errors[names.CREATE_SEAT] = [refused("SeatRefused", "hugepages-2Mi: Limit must be set")]
    chain = started(world)
    assert finish(chain) == ""
    assert phase(chain) == "AwaitingOperator"
    assert "SeatRefused: hugepages-2Mi: Limit must be set" in last_words(chain)
    chain.run.signal("retry")
    assert finish(chain) == "released"


def test_a_seat_that_is_forbidden_stays_in_placing_says_so_and_goes_on_by_itself() -> None:
    """C5."""
    world = World()
    world.errors[names.CREATE_SEAT] = [failed("SeatForbidden", "exceeded quota")] * 6
    chain = started(world)
    chain.advance(START + 10 * SECOND)
    assert phase(chain) == "Placing"
    assert "exceeded quota" in last_words(chain)
    assert finish(chain) == "released"


def test_an_api_that_is_away_when_a_report_is_due_is_told_later() -> None:
    """C5: the report blocks nothing, and what it would have said is said when the server is back."""
    world = World()
    world.errors[names.RESOLVE_DATASET] = [refused("AccessDenied", "no")]
    world.errors[names.REPORT_PHASE] = [failed("ApiError", "connection refused")] * 5
    chain = started(world)
    chain.advance(START + HOUR)
    assert phase(chain) == "AwaitingOperator"
    assert chain.called[names.REPORT_PHASE] == 6
    chain.run.signal("retry")
    assert finish(chain) == "released"


# The scheduler's words (C25)


def test_the_schedulers_reason_stays_on_the_pod() -> None:
    chain = started(Placing())
    chain.advance(START + 5 * SECOND)
    words = SeatUnschedulable(names.seat_name(POD.uid, 1), "0/3 nodes are available: 3 Insufficient nvidia.com/gpu")
    chain.run.signal("seat_unschedulable", words)
    for _ in range(12):
        chain.advance(chain.run.now + timedelta(minutes=5))
        chain.run.signal("resync")
    assert "3 Insufficient nvidia.com/gpu" in last_words(chain)
    assert chain.called[names.REPORT_PHASE] == 1


# The cold release (C2)

COLD = PodView("s3://b/x", max_gate_time="10m", on_timeout="release")


def test_a_cold_release_that_is_refused_waits_and_says_so() -> None:
    world = Placing()
    world.errors[names.PATCH_GATE] = [refused("ReleaseRefused", "denied by policy")]
    chain = started(world, COLD)
    assert finish(chain) == ""
    assert phase(chain) == "AwaitingOperator"
    assert "on-timeout is release, but the release is refused: denied by policy" in last_words(chain)
    assert chain.called[names.PATCH_GATE] == 1
    assert (world.seats, world.pins) == (set(), set())
    chain.run.signal("retry")
    chain.advance(chain.run.now + timedelta(minutes=5))
    assert chain.called[names.PATCH_GATE] == 1, "a retry grants the gate time anew"
    assert finish(chain) == "released_cold"


def test_a_cold_release_before_the_gates_of_others_waits_for_their_owners_and_tries_again() -> None:
    world = Placing()
    held = replace(COLD, foreign_gates=["kueue.x-k8s.io/topology"])

    class Held(Placing):
        def patch_gate(self, call: Call) -> PatchGateResult:
            self.pod = PodState(gone=False, view=held)
            return super().patch_gate(call)

    world = Held()
    world.errors[names.PATCH_GATE] = [refused("ForeignGates", "others hold gates")]
    world.pod = PodState(gone=False, view=held)
    chain = started(world, COLD)  # the watch had not seen the gate
    assert finish(chain) == ""
    assert phase(chain) == "WaitingForGates"
    assert chain.called[names.PATCH_GATE] == 1
    world.pod = PodState(gone=False, view=COLD)
    world.__class__ = Placing
    chain.run.signal("pod_changed", COLD)
    assert finish(chain) == "released_cold"
    assert chain.called[names.PATCH_GATE] == 2


def test_a_pod_behind_the_gates_of_others_is_not_released_cold() -> None:
    held = replace(COLD, foreign_gates=["kueue.x-k8s.io/topology"])
    world = Placing()
    world.pod = PodState(gone=False, view=held)
    chain = started(world, held)
    chain.advance(START + timedelta(days=7))
    assert phase(chain) == "WaitingForGates"
    world.pod = PodState(gone=False, view=COLD)
    chain.run.signal("pod_changed", COLD)
    chain.advance(chain.run.now + timedelta(minutes=9))
    assert world.patches == 0, "the ten minutes begin when ours is the last gate"
    assert finish(chain) == "released_cold"


@pytest.mark.parametrize("request_", ["pause", "cancel"])
def test_a_pod_that_somebody_stopped_is_not_released_cold_behind_their_back(request_: str) -> None:
    world = Placing()
    world.pod = PodState(gone=False, view=COLD)
    chain = started(world, COLD)
    chain.advance(START + timedelta(minutes=5))
    chain.run.signal(request_)
    chain.advance(chain.run.now + timedelta(days=7))
    assert world.patches == 0
    assert "stands still" in last_words(chain)
    chain.run.signal("resume")
    chain.advance(chain.run.now + timedelta(minutes=4))
    assert world.patches == 0
    assert finish(chain) == "released_cold"


# Late facts


def test_a_failed_seat_is_deleted_and_losses_back_off() -> None:
    """C21: a kubelet that rejects each seat."""
    world = Placing()
    chain = started(world)
    for _ in range(200):
        chain.advance(chain.run.now + 10 * SECOND)
        if world.seats:
            chain.run.signal("seat_lost", {"seat": min(world.seats), "reason": "UnexpectedAdmissionError"})
    numbers = [arg["number"] for arg in chain.arguments(names.CREATE_SEAT)]
    deleted = [arg["name"] for arg in chain.arguments(names.DELETE_SEAT)]
    assert 5 < max(numbers) < 30, "in half an hour"
    assert deleted == [names.seat_name(POD.uid, number) for number in range(1, len(deleted) + 1)]
    events = [report for report in chain.arguments(names.REPORT_PHASE) if report["event_reason"] == "SeatLost"]
    assert len(events) <= 2


def test_a_seat_that_is_less_important_than_its_pod_is_told_once_with_the_servers_words() -> None:
    class Unimportant(Placing):
        def create_seat(self, call: Call) -> CreateSeatResult:
            return replace(super().create_seat(call), lower_priority="exceeded quota: gpu-team")

    world = Unimportant()
    chain = started(world)
    for _ in range(3):
        chain.advance(chain.run.now + 10 * SECOND)
        chain.run.signal("seat_lost", {"seat": min(world.seats), "reason": "preempted"})
        chain.advance(chain.run.now + timedelta(minutes=1))
    told = [one for one in chain.arguments(names.REPORT_PHASE) if one["event_reason"] == "SeatLessImportant"]
    assert len(told) == 1
    assert "exceeded quota: gpu-team" in told[0]["message"]
    assert "priority class" in told[0]["message"]


def test_a_seat_that_is_given_up_because_its_pod_was_tightened_is_not_called_lost() -> None:
    world = World()
    world.errors[names.PATCH_GATE] = [refused("SeatOutdated", "somebody changed what the Pod requires of its node")]
    chain = started(world)
    assert finish(chain) == "released"
    events = {one["event_reason"] for one in chain.arguments(names.REPORT_PHASE)}
    assert "SeatOutdated" in events
    assert "SeatLost" not in events


# A hit


def test_a_hit_costs_two_workflow_tasks_and_sixteen_events() -> None:
    world = World()
    world.complete = True
    held = CreateSeatResult("seat", 8, "gpu-1", [DIGEST])
    chain = Chain(
        WarmPod,
        WarmPodInput(POD, VIEW, Policy(watch_wait_s=4)),
        lambda call: (
            {
                names.CREATE_SEAT: held,
                names.PATCH_GATE: PatchGateResult("released", "gpu-1"),
            }.get(call.name)
            or world.answer(call)[1]
        ),
    )
    assert finish(chain) == "released"
    assert chain.run.events == 16
    assert chain.called == {
        names.RESOLVE_DATASET: 1,
        names.CREATE_SEAT: 1,
        names.CHECK_DISK: 1,
        names.PATCH_GATE: 1,
        names.REPORT_PHASE: 1,
    }


# A trouble that is over is not told any more


@pytest.mark.parametrize("troubles", [1, 3])
def test_a_pod_that_waits_for_a_person_says_so_again_once_an_api_server_that_was_away_is_back(troubles: int) -> None:
    world = World()
    chain = started(world)
    chain.run.signal("pause")
    chain.advance(START + HOUR)
    paused = last_words(chain)
    world.errors[names.READ_POD] = [failed("ApiError", "403: not authorized yet") for _ in range(5 * troubles)]
    chain.run.signal("resync")
    chain.advance(START + 2 * HOUR)
    told = [arg["message"] for _, name, arg in chain.run.arguments if name == names.REPORT_PHASE]
    assert any("cannot read the Pod" in message for message in told)
    assert (phase(chain), last_words(chain)) == ("Paused", paused)
