"""A releasing patch that lands late, when its workflow has given the node up, decides where the Pod is.

The operator stalls with the patch on its way (a busy machine, a stopped process): the call counts as failed, or its
workflow task is done again with what came meanwhile. The Pod's receipt is true then, not what the workflow planned.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from kube_cache import names
from kube_cache.contracts.node import CheckDiskResult, DiskSnapshot
from kube_cache.contracts.warm_pod import CreateSeatResult, PatchGateResult, PodBound, PodState, SeatLost
from tests.workflows.simulated_world import DIGEST, POD, SECOND, VIEW, World, finish, start
from tests.workflows.simulation import Call, Chain, failed

MOUNTED = replace(VIEW, mounts_cache=True)


class Late(World):
    """The n-th seat is on gpu-n, and the first patch lands when the second is asked for."""

    def __init__(self, *, kept_on: tuple[str, ...]) -> None:
        """kept_on: nodes that hold the data."""
        super().__init__(MOUNTED)
        self.kept_on = set(kept_on)
        self.pinned: set[tuple[str, int]] = set()

    def create_seat(self, call: Call) -> CreateSeatResult:
        return replace(super().create_seat(call), node=f"gpu-{call.arg['number']}")

    def check_disk(self, call: Call) -> CheckDiskResult:
        node = call.queue.rpartition("/")[2]
        self.pinned.add((node, call.arg["attempt"]))
        return CheckDiskResult(f"disk-{node}", [DiskSnapshot(DIGEST, node in self.kept_on, 0, "full-object")])

    def join_dataset(self, call: Call) -> None:
        super().join_dataset(call)
        node, attempt = call.arg["dataset"]["node"], call.arg["consumer"]["attempt"]
        if call.arg["leave"]:
            self.pinned = {pin for pin in self.pinned if pin[0] != node or pin[1] > attempt}
        elif not call.arg["consumer"]["hit"]:
            self.kept_on.add(node)

    def patch_gate(self, call: Call) -> PatchGateResult | Exception:
        self.patches += 1
        if self.patches == 1:
            call.run.signal_later(SECOND, "seat_lost", SeatLost(names.seat_name(POD.uid, 1), "preempted"))
            return failed("Timeout", "the operator stalls, and its patch is on its way")
        self.seats.discard(names.seat_name(POD.uid, 1))
        self.pod = PodState(False, replace(MOUNTED, gated=False), receipt_node="gpu-1")
        call.run.signal_later(SECOND, "pod_bound", PodBound("gpu-1"))
        return PatchGateResult("already")


def played(world: Late) -> Chain:
    chain = start(world, MOUNTED)
    assert finish(chain) == "released"
    assert [arg["node"] for arg in chain.arguments(names.PATCH_GATE)] == ["gpu-1", "gpu-2"], "two ways were asked for"
    return chain


@pytest.mark.parametrize(
    "kept_on", [("gpu-1", "gpu-2"), ("gpu-2",), ()], ids=["on both", "lost on the first", "fetched"]
)
def test_the_pod_is_where_its_receipt_says_with_its_pin_there_and_without_a_seat(kept_on: tuple[str, ...]) -> None:
    world = Late(kept_on=kept_on)
    chain = played(world)
    assert chain.run.ended is not None
    assert chain.run.ended.payload["node"] == "gpu-1"
    assert {node for node, _ in world.pinned} == {"gpu-1"}
    assert "gpu-1" in world.kept_on
    assert world.seats == set()
    last = chain.last(names.REPORT_PHASE)
    assert (last["ready"], "gpu-1" in last["message"]) == (True, True)
