"""A seat whose node depends on other Pods: judged once it is bound, asked for again while peers leave no node."""

from __future__ import annotations

from datetime import timedelta

from kube_cache import names
from kube_cache.contracts.warm_pod import CreateSeatResult, SeatBound, SeatUnschedulable
from tests.workflows.simulated_world import POD, SECOND, World, finish, start
from tests.workflows.simulation import START, Call, Chain, failed, refused

PEERS = "the Pod's peers leave it none of 3 nodes"
SEAT = names.seat_name(POD.uid, 1)


class Crowded(World):
    """Peers leave the Pod no node, as long as `full`; a seat is not bound at once, as long as `slow`."""

    full = slow = False

    def create_seat(self, call: Call) -> CreateSeatResult:
        super().create_seat(call)
        node = "" if self.full or self.slow else "gpu-1"
        return CreateSeatResult(SEAT, 8, node, peers=PEERS if self.full else "", depends_on_peers=True)


def asked(chain: Chain) -> list[bool]:
    return [arg["is_judged"] for arg in chain.arguments(names.CREATE_SEAT)]


def test_a_seat_that_was_bound_while_nobody_asked_is_judged_by_its_pods_peers() -> None:
    world = Crowded()
    world.complete = world.slow = True
    chain = start(world)
    chain.advance(START + 5 * SECOND)
    assert asked(chain) == [False]
    world.slow = False
    chain.run.signal("seat_bound", SeatBound(SEAT, "gpu-1"))
    assert finish(chain) == "released"
    assert asked(chain) == [False, False]


def test_a_seat_that_lost_a_race_after_it_was_bound_is_taken_again() -> None:
    world = Crowded()
    world.complete = world.slow = True
    chain = start(world)
    chain.advance(START + 5 * SECOND)
    world.slow = False
    world.errors[names.CREATE_SEAT] = [refused("PlacementRaced", "another was first")]
    chain.run.signal("seat_bound", SeatBound(SEAT, "gpu-1"))
    assert finish(chain) == "released"
    assert chain.arguments(names.CREATE_SEAT)[-1]["number"] == 2
    assert world.patches == 1


def test_a_warm_is_not_given_up_for_what_its_pods_peers_do_later() -> None:
    class Slow(Crowded):
        def join_dataset(self, call: Call) -> None:
            return None

    chain = start(Slow())
    chain.advance(START + timedelta(minutes=20))
    assert asked(chain)[0] is False
    assert len(asked(chain)) > 2, "the seat is looked at while it warms"
    assert all(asked(chain)[1:])


def test_while_peers_leave_no_node_they_are_looked_at_each_minute_and_the_pod_says_why() -> None:
    world = Crowded()
    world.complete = world.full = True
    chain = start(world)
    chain.advance(START + 5 * SECOND)
    chain.run.signal("seat_unschedulable", SeatUnschedulable(SEAT, "0/3 nodes are available"))
    chain.advance(START + timedelta(minutes=10))
    assert 7 < len(asked(chain)) < 16
    assert f"0/3 nodes are available; {PEERS}" in chain.last(names.REPORT_PHASE)["message"]
    world.full = False
    assert finish(chain) == "released"


def test_a_release_that_must_wait_for_peers_keeps_its_seat_and_says_so() -> None:
    world = Crowded()
    world.complete = True
    why = "node gpu-1 is right once peers that wait for their data are released"
    world.errors[names.PATCH_GATE] = [failed("PeersFirst", why)] * 20
    chain = start(world)
    chain.advance(START + timedelta(minutes=1))
    tries = chain.called[names.PATCH_GATE]
    assert why in chain.last(names.REPORT_PHASE)["message"]
    chain.advance(START + timedelta(minutes=3))
    assert chain.called[names.PATCH_GATE] - tries > 5, "it does not sleep long past the release of the last"
    assert finish(chain) == "released"
    assert chain.called[names.DELETE_SEAT] == 0
