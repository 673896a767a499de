"""A seat goes to nodes that hold the data; where these are full it goes elsewhere at once, and nobody is told."""

from __future__ import annotations

from kube_cache import names
from kube_cache.contracts.warm_pod import CreateSeatResult, SeatBound, SeatUnschedulable
from tests.workflows.simulated_world import POD, SECOND, World, finish, phase, start
from tests.workflows.simulation import START, Call, Chain

FULL = "0/5000 nodes are available: 2 Insufficient nvidia.com/gpu, 4998 didn't match"


def asked(chain: Chain) -> list[tuple[int, str]]:
    return [(arg["number"], arg["reach"]) for arg in chain.arguments(names.CREATE_SEAT)]


class Warm(World):
    """Nodes hold the data, and have no room; gpu-2 has."""

    said = FULL

    def create_seat(self, call: Call) -> CreateSeatResult:
        super().create_seat(call)
        if call.arg["reach"] == "holders":
            return CreateSeatResult("seat", 8, reach="holders", unschedulable=self.said)
        return CreateSeatResult("seat", 8, "gpu-2", reach="near")


def test_where_no_holder_has_room_the_next_seat_goes_elsewhere_at_once() -> None:
    world = Warm()
    chain = start(world)
    assert finish(chain) == "released"
    assert asked(chain) == [(1, "holders"), (2, "near")]
    assert chain.last(names.PATCH_GATE)["node"] == "gpu-2"
    told = {report["event_reason"] for report in chain.arguments(names.REPORT_PHASE)}
    assert not told & {"NoNodeFits", "SeatLost"}
    assert world.seats == set()


def test_where_no_holder_is_known_one_seat_is_asked_for() -> None:
    chain = start(World())
    assert finish(chain) == "released"
    assert asked(chain) == [(1, "holders")]


def test_a_signal_that_the_holders_are_full_is_as_good_as_the_answer() -> None:
    world = Warm()
    world.said = ""
    chain = start(world)
    chain.advance(START + 5 * SECOND)
    chain.run.signal("seat_unschedulable", SeatUnschedulable(names.seat_name(POD.uid, 1), FULL))
    assert finish(chain) == "released"
    assert asked(chain) == [(1, "holders"), (2, "near")]


def test_a_late_word_about_the_seat_at_the_holders_is_not_taken_for_one_about_the_next() -> None:
    class Full(Warm):
        def create_seat(self, call: Call) -> CreateSeatResult:
            found = super().create_seat(call)
            return found if found.reach == "holders" else CreateSeatResult("seat", 8, reach="near")

    chain = start(Full())
    chain.advance(START + 10 * SECOND)
    chain.run.signal("seat_unschedulable", SeatUnschedulable(names.seat_name(POD.uid, 1), FULL))
    chain.run.signal("seat_bound", SeatBound(names.seat_name(POD.uid, 1), "gpu-1"))
    chain.advance(chain.run.now + 10 * SECOND)
    assert phase(chain) == "Placing"
    chain.run.signal("seat_bound", SeatBound(names.seat_name(POD.uid, 2), "gpu-3"))
    assert finish(chain) == "released"
    assert chain.last(names.PATCH_GATE)["node"] == "gpu-3"
    assert {number for number, _ in asked(chain)} == {1, 2}
