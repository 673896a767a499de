"""A node that can take its Pod no longer is left, with the data kept and preferred, and the Pod says why."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from kube_cache import names
from kube_cache.contracts.warm_pod import CreateSeatResult, SeatBound, SeatLost, SeatUnschedulable
from tests.workflows.simulated_world import POD, SECOND, World, finish, phase, start
from tests.workflows.simulation import START, Call, Chain, failed, refused

WHY = "node gpu-1 is cordoned; what is on its disk is used again after: kubectl uncordon gpu-1"


def seat(number: int) -> str:
    return names.seat_name(POD.uid, number)


def events(chain: Chain) -> list[str]:
    return [report["event_reason"] for report in chain.arguments(names.REPORT_PHASE) if report["event_reason"]]


class Cluster(World):
    """The n-th seat is on node gpu-n."""

    def create_seat(self, call: Call) -> CreateSeatResult:
        super().create_seat(call)
        return CreateSeatResult("seat", 8, f"gpu-{call.arg['number']}")


class Slow(Cluster):
    """A download that does not end while its seat is the first."""

    def join_dataset(self, call: Call) -> Any:
        if not call.arg["leave"] and call.arg["dataset"]["node"] == "gpu-1":
            return None
        return super().join_dataset(call)


def test_a_warm_leaves_a_node_that_turned_unfit_and_prefers_what_it_fetched_there() -> None:
    world = Slow()
    chain = start(world)
    chain.advance(START + 30 * SECOND)
    assert chain.last(names.JOIN_DATASET)["dataset"]["node"] == "gpu-1"
    chain.run.signal("seat_lost", SeatLost(seat(1), WHY, unfit=True))
    assert finish(chain) == "released"
    second = chain.arguments(names.CREATE_SEAT)[-1]
    assert second["number"] == 2
    assert second["prefer_nodes"] == ["gpu-1"]
    assert second["exclude_nodes"] == [], "the scheduler knows of the cordon, and of its end before we do"
    assert chain.last(names.PATCH_GATE)["node"] == "gpu-2"
    (told,) = [one for one in chain.arguments(names.REPORT_PHASE) if one["event_reason"] == "NodeUnfit"]
    assert WHY in told["message"]
    assert "stays on that disk" in told["message"]
    assert world.seats == set()


@pytest.mark.parametrize("kind", ["NodeUnfit", "PlacementRaced"])
@pytest.mark.parametrize("activity", [names.PATCH_GATE, names.CREATE_SEAT])
def test_a_node_that_refuses_the_pod_right_before_its_release_is_left(activity: str, kind: str) -> None:
    world = Cluster()
    world.complete = True
    world.errors[activity] = [refused(kind, WHY)]
    chain = start(world)
    assert finish(chain) == "released"
    assert chain.last(names.PATCH_GATE)["node"] == "gpu-2"
    assert kind in events(chain)
    assert world.patches == 1


@pytest.mark.parametrize(("kind", "avoided"), [("NodeUnfit", ["gpu-1"]), ("PlacementRaced", [])])
def test_only_a_node_that_was_unfit_twice_is_avoided(kind: str, avoided: list[str]) -> None:
    """Two seats on one unfit node mean that we and the scheduler disagree; a race proves nothing against the node."""
    world = World()
    world.complete = True
    world.errors[names.PATCH_GATE] = [refused(kind, WHY), refused(kind, WHY)]
    chain = start(world)
    finish(chain)
    assert chain.arguments(names.CREATE_SEAT)[2]["exclude_nodes"] == avoided


def test_an_unfit_node_that_no_event_told_of_is_found_when_the_seat_is_looked_at() -> None:
    class Restarted(Slow):
        def create_seat(self, call: Call) -> CreateSeatResult:
            found = super().create_seat(call)
            looks = call.run.called[names.CREATE_SEAT]
            return CreateSeatResult("seat", 8, found.node, unfit=WHY if found.node == "gpu-1" and looks > 1 else "")

    chain = start(Restarted())
    assert finish(chain) == "released"
    assert chain.last(names.PATCH_GATE)["node"] == "gpu-2"
    assert "NodeUnfit" in events(chain)


def test_a_node_that_is_not_ready_for_a_moment_keeps_its_warm() -> None:
    world = Cluster()
    world.complete = True
    world.errors[names.PATCH_GATE] = [failed("NodeNotReady", "node gpu-1 is not ready: look at its kubelet")] * 3
    chain = start(world)
    assert finish(chain) == "released"
    assert chain.last(names.PATCH_GATE)["node"] == "gpu-1"
    assert "NodeNotReady" in events(chain)
    assert chain.called[names.DELETE_SEAT] == 0


def test_a_pause_before_the_next_try_ends_when_the_node_is_given_up() -> None:
    world = Cluster()
    world.complete = True
    world.errors[names.PATCH_GATE] = [failed("NodeNotReady", "node gpu-1 is not ready")] * 8
    chain = start(world)
    chain.advance(START + timedelta(minutes=4))
    assert chain.called[names.PATCH_GATE] > 3
    world.errors.clear()
    chain.run.signal("seat_lost", SeatLost(seat(1), "node gpu-1 is not ready", unfit=True))
    chain.advance(chain.run.now + 15 * SECOND)
    assert chain.last(names.PATCH_GATE)["node"] == "gpu-2"


def test_a_pod_that_fits_nowhere_waits_for_capacity_in_the_schedulers_words_and_goes_on() -> None:
    class Full(World):
        def create_seat(self, call: Call) -> CreateSeatResult:
            super().create_seat(call)
            return CreateSeatResult("seat", 8)

    world = Full()
    world.complete = True
    chain = start(world)
    chain.advance(START + 5 * SECOND)
    chain.run.signal("seat_unschedulable", SeatUnschedulable(seat(1), "0/3 nodes are available: 3 Insufficient gpu"))
    chain.advance(chain.run.now + 5 * SECOND)
    assert phase(chain) == "WaitingForCapacity"
    assert "3 Insufficient gpu" in chain.last(names.REPORT_PHASE)["message"]
    assert "NoNodeFits" in events(chain)
    chain.run.signal("seat_bound", SeatBound(seat(1), "gpu-1"))
    assert finish(chain) == "released"
