"""A Pod that only preferred its node and was bound to another is warmed there, and its receipt names that node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kube_cache import names
from kube_cache.contracts.common import ErrorInfo
from kube_cache.contracts.node import CheckDiskResult, DiskSnapshot
from kube_cache.contracts.warm_pod import (
    CreateSeatResult,
    DatasetFailed,
    DatasetReady,
    PatchGateResult,
    PodBound,
    PodState,
    ResolveResult,
)
from tests.workflows.simulated_world import DIGEST, SECOND, VIEW, World, finish, start
from tests.workflows.simulation import Call, Chain, failed

CLAIM = "a resource claim, of which the seat has none"
NEWER = "e" * 64
MOUNTED = replace(VIEW, mounts_cache=True)


class Elsewhere(World):
    """The data is on gpu-1, and the scheduler binds the Pod to gpu-9."""

    def __init__(self, *, unreserved: tuple[str, ...] = (CLAIM,)) -> None:
        super().__init__(MOUNTED)
        self.unreserved = unreserved
        self.complete_on = {"gpu-1"}

    def create_seat(self, call: Call) -> CreateSeatResult:
        return replace(super().create_seat(call), unreserved=list(self.unreserved))

    def check_disk(self, call: Call) -> CheckDiskResult:
        node = self.checked_on(call)
        self.pins.add(call.arg["attempt"])
        return CheckDiskResult(f"disk-{node}", [DiskSnapshot(DIGEST, node in self.complete_on, 0, "full-object")])

    def checked_on(self, call: Call) -> str:
        return "gpu-9" if self.patches else "gpu-1"

    def join_dataset(self, call: Call) -> None:
        super().join_dataset(call)
        if not call.arg["leave"]:
            self.complete_on.add(call.arg["dataset"]["node"])

    def patch_gate(self, call: Call) -> PatchGateResult:
        self.patches += 1
        self.seats.clear()
        self.pod = PodState(False, replace(MOUNTED, gated=False), receipt_node="gpu-1")
        call.run.signal_later(SECOND, "pod_bound", PodBound("gpu-9"))
        return PatchGateResult("released")


def told(chain: Chain, event: str) -> str:
    (report,) = [one for one in chain.arguments(names.REPORT_PHASE) if one["event_reason"] == event]
    return str(report["message"])


def test_what_the_seat_cannot_reserve_makes_the_node_a_preference_and_is_said() -> None:
    chain = start(Elsewhere(), MOUNTED)
    assert finish(chain) == "released"
    assert chain.last(names.PATCH_GATE)["prefer"] is True
    first = next(one for one in chain.arguments(names.REPORT_PHASE) if one["event_reason"] == "DatasetReady")
    assert CLAIM in first["message"]


def test_a_pod_whose_seat_reserved_everything_is_tied_to_its_node() -> None:
    world = World()
    world.complete = True
    chain = start(world)
    assert finish(chain) == "released"
    assert chain.last(names.PATCH_GATE)["prefer"] is False


def test_a_pod_that_was_bound_elsewhere_is_warmed_there_and_its_receipt_names_that_node() -> None:
    world = Elsewhere()
    chain = start(world, MOUNTED)
    assert finish(chain) == "released"
    assert chain.run.ended is not None
    assert chain.run.ended.payload["node"] == "gpu-9"
    receipt = chain.last(names.MOVE_RECEIPT)
    assert (receipt["node"], receipt["cache_id"], receipt["digests"]) == ("gpu-9", "disk-gpu-9", [DIGEST])
    message = told(chain, "WarmingOnArrival")
    assert "gpu-9" in message
    assert CLAIM in message
    joined = [one for one in chain.arguments(names.JOIN_DATASET) if not one["leave"]]
    assert joined[-1]["dataset"]["node"] == "gpu-9"
    assert any(one["leave"] and one["dataset"]["node"] == "gpu-1" for one in chain.arguments(names.JOIN_DATASET))
    assert chain.called[names.CREATE_SEAT] == 1
    last = chain.last(names.REPORT_PHASE)
    assert (last["ready"], "gpu-9" in last["message"]) == (True, True)


def test_a_node_where_the_pod_was_bound_and_that_has_the_data_needs_no_download() -> None:
    world = Elsewhere()
    world.complete_on.add("gpu-9")
    chain = start(world, MOUNTED)
    assert finish(chain) == "released"
    assert all(one["consumer"]["hit"] or one["leave"] for one in chain.arguments(names.JOIN_DATASET))
    assert chain.last(names.MOVE_RECEIPT)["node"] == "gpu-9"


def test_a_pod_without_a_mount_of_the_cache_starts_cold_elsewhere_and_says_so() -> None:
    world = Elsewhere()
    chain = start(world, VIEW)
    assert finish(chain) == "released_elsewhere"
    assert "starts without" in told(chain, "BoundElsewhere")
    assert chain.called[names.MOVE_RECEIPT] == 0


@pytest.mark.parametrize("kind", ["DiskFault", "StalePlacement", "InsufficientDisk"])
def test_what_fails_on_arrival_is_told_and_tried_again(kind: str) -> None:
    class Failing(Elsewhere):
        failures = 4

        def check_disk(self, call: Call) -> Any:
            if self.patches and self.failures:
                self.failures -= 1
                return failed(kind, "for now")
            return super().check_disk(call)

        def answer(self, call: Call) -> Any:
            after, result = super().answer(call)
            return after, result

    chain = start(Failing(), MOUNTED)
    assert finish(chain) == "released"
    assert chain.last(names.MOVE_RECEIPT)["node"] == "gpu-9"
    assert any("delete it for a fresh one" in one["message"] for one in chain.arguments(names.REPORT_PHASE))


def test_a_pod_that_ends_while_it_is_warmed_on_arrival_gives_its_pins_back() -> None:
    class Endless(Elsewhere):
        def join_dataset(self, call: Call) -> None:
            if call.arg["leave"]:
                super().join_dataset(call)

    world = Endless()
    chain = start(world, MOUNTED)
    chain.advance(chain.run.now + 60 * SECOND)
    assert "WarmingOnArrival" in [one["event_reason"] for one in chain.arguments(names.REPORT_PHASE)]
    world.pod = PodState(gone=True)
    chain.run.signal("pod_gone")
    assert finish(chain) == "pod_gone"
    assert world.pins == set()


def test_a_pod_whose_workflow_was_terminated_on_arrival_is_warmed_there_by_the_next() -> None:
    """The next one knows nothing but the Pod: it resolves anew, tells of no second release, and moves the receipt."""
    world = Elsewhere()
    world.patches = 1
    world.pod = PodState(False, replace(MOUNTED, gated=False), "gpu-9", receipt_node="gpu-1")
    chain = start(world, world.pod.view)
    assert finish(chain) == "released"
    assert chain.last(names.MOVE_RECEIPT)["node"] == "gpu-9"
    assert chain.last(names.MOVE_RECEIPT)["digests"] == [DIGEST]
    events = [one["event_reason"] for one in chain.arguments(names.REPORT_PHASE) if one["event_reason"]]
    assert events == ["WarmingOnArrival", "DatasetReady"]
    assert chain.called[names.CREATE_SEAT] == chain.called[names.PATCH_GATE] == 0


def test_progress_is_shown_while_a_pod_is_warmed_on_arrival() -> None:
    chain = start(Elsewhere(), MOUNTED)
    assert finish(chain) == "released"
    warming = [one["warming"] for one in chain.arguments(names.REPORT_PHASE) if one["warming"]]
    assert [one["node"] for one in warming] == ["gpu-9"]
    assert chain.last(names.REPORT_PHASE)["warming"] is None


def test_a_source_that_changes_while_a_pod_is_warmed_on_arrival_is_resolved_again() -> None:
    class Changing(Elsewhere):
        digest = DIGEST

        def resolve_dataset(self, call: Call) -> ResolveResult:
            resolved = super().resolve_dataset(call).snapshots
            return ResolveResult([replace(snapshot, digest=self.digest) for snapshot in resolved])

        def check_disk(self, call: Call) -> CheckDiskResult:
            checked = super().check_disk(call)
            return replace(
                checked,
                snapshots=[replace(one, digest=call.arg["snapshots"][0]["digest"]) for one in checked.snapshots],
            )

        def join_dataset(self, call: Call) -> None:
            is_there = call.arg["dataset"]["node"] == "gpu-9" and not call.arg["leave"]
            if is_there and self.digest == DIGEST:
                self.digest = NEWER
                error = ErrorInfo("SourceChanged", "another object")
                call.run.signal_later(SECOND, "dataset_failed", DatasetFailed(DIGEST, error))
                return
            super().join_dataset(call)
            if not call.arg["leave"]:
                call.run.signal_later(SECOND, "dataset_ready", DatasetReady(self.digest))

    chain = start(Changing(), MOUNTED)
    assert finish(chain) == "released"
    assert chain.last(names.MOVE_RECEIPT)["digests"] == [NEWER]


class Endless(Elsewhere):
    """The data never comes, until somebody says that it may."""

    may_come = False

    def join_dataset(self, call: Call) -> None:
        if call.arg["leave"] or self.may_come:
            super().join_dataset(call)


def fetches_on(chain: Chain, node: str) -> list[Any]:
    joined = chain.arguments(names.JOIN_DATASET)
    return [one for one in joined if one["dataset"]["node"] == node and not one["leave"]]


def _look(chain: Chain) -> None:
    chain.advance(chain.run.now + 30 * SECOND)


@pytest.mark.parametrize(
    ("stop", "go_on", "shown"), [("pause", "resume", "Paused"), ("cancel", "retry", "Cancelled")], ids=lambda one: one
)
@pytest.mark.parametrize("how", ["signal", "annotation"])
def test_what_a_user_says_while_a_pod_is_warmed_on_arrival_is_obeyed(
    stop: str, go_on: str, shown: str, how: str
) -> None:
    def say(word: str) -> None:
        if how == "signal":
            chain.run.signal(word)
        else:
            world.pod = replace(world.pod, view=replace(world.pod.view, action=word))
            chain.run.signal("pod_changed", world.pod.view)

    world = Endless()
    chain = start(world, MOUNTED)
    _look(chain)
    assert "WarmingOnArrival" in [one["event_reason"] for one in chain.arguments(names.REPORT_PHASE)]
    assert world.pins
    say(stop)
    assert finish(chain) == ""
    last = chain.last(names.REPORT_PHASE)
    assert (last["phase"], last["ready"]) == (shown, False)
    assert f"={go_on}" in last["message"]
    assert "gpu-9" in last["message"]
    assert world.pins == set()
    tried = len(fetches_on(chain, "gpu-9"))
    assert finish(chain) == ""
    assert len(fetches_on(chain, "gpu-9")) == tried
    world.may_come = True
    say(go_on)
    assert finish(chain) == "released"
    assert chain.last(names.MOVE_RECEIPT)["node"] == "gpu-9"
    assert len(fetches_on(chain, "gpu-9")) > tried


def test_a_pause_that_comes_before_the_workflow_has_looked_at_the_pod_is_obeyed() -> None:
    """The workflow of a Pod whose last one was terminated: it believes nothing before the first look."""
    world = Endless()
    world.patches = 1
    world.pod = PodState(False, replace(MOUNTED, gated=False), "gpu-9", receipt_node="gpu-1")
    chain = start(world, world.pod.view)
    chain.run.signal("pause")
    assert finish(chain) == ""
    assert chain.last(names.REPORT_PHASE)["phase"] == "Paused"
    assert fetches_on(chain, "gpu-9") == []
    world.may_come = True
    chain.run.signal("resume")
    assert finish(chain) == "released"


def test_a_pause_that_the_pod_carries_when_its_workflow_is_started_on_arrival_is_obeyed() -> None:
    world = Endless()
    world.patches = 1
    world.pod = PodState(False, replace(MOUNTED, gated=False, action="pause"), "gpu-9", receipt_node="gpu-1")
    chain = start(world, world.pod.view)
    assert finish(chain) == ""
    assert chain.last(names.REPORT_PHASE)["phase"] == "Paused"
    assert fetches_on(chain, "gpu-9") == []


def test_a_pod_that_is_paused_on_arrival_stays_so_when_its_workflow_continues_as_new() -> None:
    world = Endless()
    chain = start(world, MOUNTED, suggested_at=200)
    _look(chain)
    chain.run.signal("pause")
    _look(chain)
    for _ in range(60):
        chain.run.signal("resync")
        chain.advance(chain.run.now + SECOND)
    chain.advance(chain.run.now + 10 * SECOND)
    assert len(chain.runs) > 1
    assert chain.last(names.REPORT_PHASE)["phase"] == "Paused"
    world.may_come = True
    chain.run.signal("resume")
    assert finish(chain) == "released"


def test_a_pod_that_ends_while_it_is_paused_on_arrival_ends_its_workflow() -> None:
    world = Endless()
    chain = start(world, MOUNTED)
    _look(chain)
    chain.run.signal("pause")
    assert finish(chain) == ""
    world.pod = PodState(gone=True)
    chain.run.signal("pod_gone")
    assert finish(chain) == "pod_gone"


def test_a_pause_that_was_taken_back_before_the_release_holds_nothing_up_on_arrival() -> None:
    chain = start(Elsewhere(), MOUNTED)
    chain.run.signal("pause")
    _look(chain)
    chain.run.signal("resume")
    assert finish(chain) == "released"
    assert chain.last(names.MOVE_RECEIPT)["node"] == "gpu-9"
