"""A node that came for the Pod pulls its agent's image first: the Pod waits for that, and asks for no other node."""

from __future__ import annotations

from datetime import timedelta

import pytest

from kube_cache import names
from kube_cache.contracts.common import Policy
from kube_cache.contracts.warm_pod import CreateSeatResult, SeatLost
from kube_cache.errors import NodeUnfit
from tests.workflows.simulated_world import POD, SECOND, World, finish, start
from tests.workflows.simulation import START, Call, Chain, refused

NEW = timedelta(seconds=Policy().new_node_s)
ANSWERS_NOT = [refused("AgentLost") for _ in range(10_000)]


class Scaled(World):
    """The n-th seat is on node gpu-n, which came into the cluster when the first seat was taken."""

    def create_seat(self, call: Call) -> CreateSeatResult:
        super().create_seat(call)
        return CreateSeatResult("seat", 8, f"gpu-{call.arg['number']}", node_created_at=START.timestamp())


def events(chain: Chain) -> list[str]:
    return [report["event_reason"] for report in chain.arguments(names.REPORT_PHASE) if report["event_reason"]]


@pytest.fixture
def world() -> Scaled:
    world = Scaled()
    world.complete = True
    return world


def test_the_agent_of_a_new_node_is_waited_for_on_one_seat(world: Scaled) -> None:
    world.errors[names.CHECK_DISK] = ANSWERS_NOT[:20]
    chain = start(world)
    assert finish(chain) == "released"
    assert {arg["number"] for arg in chain.arguments(names.CREATE_SEAT)} == {1}
    assert chain.last(names.PATCH_GATE)["node"] == "gpu-1"
    assert events(chain).count("AwaitingAgent") == 1
    assert "NodeLost" not in events(chain)


def test_an_agent_that_does_not_come_is_given_up_when_its_node_is_new_no_more(world: Scaled) -> None:
    world.errors[names.CHECK_DISK] = ANSWERS_NOT[:]
    chain = start(world)
    chain.advance(START + NEW - 10 * SECOND)
    assert "NodeLost" not in events(chain)
    chain.advance(START + NEW + 10 * SECOND)
    assert "NodeLost" in events(chain)
    second = next(arg for arg in chain.arguments(names.CREATE_SEAT) if arg["number"] == 2)
    assert second["exclude_nodes"] == ["gpu-1"]


def test_a_new_node_that_vanishes_before_its_agent_came_is_left_at_once_and_not_avoided(world: Scaled) -> None:
    world.errors[names.CHECK_DISK] = ANSWERS_NOT[:]
    chain = start(world)
    chain.advance(START + 20 * SECOND)
    chain.run.signal("seat_lost", SeatLost(names.seat_name(POD.uid, 1), "node gpu-1 was deleted", unfit=True))
    world.errors[names.CHECK_DISK] = []
    assert finish(chain) == "released"
    assert chain.last(names.PATCH_GATE)["node"] == "gpu-2"
    assert NodeUnfit.__name__ in events(chain)
    assert all(arg["exclude_nodes"] == [] for arg in chain.arguments(names.CREATE_SEAT))


class Full(Scaled):
    """After the first node, whose agent never comes, the scheduler finds none."""

    def create_seat(self, call: Call) -> CreateSeatResult:
        number = call.arg["number"]
        if number == 1:
            return super().create_seat(call)
        World.create_seat(self, call)
        words = "0/4 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
        return CreateSeatResult("seat", 8, unschedulable=words, avoids=call.arg["exclude_nodes"])


def test_a_pod_that_waits_for_room_says_which_node_it_keeps_away_from_and_until_when() -> None:
    world = Full()
    world.errors[names.CHECK_DISK] = ANSWERS_NOT[:]
    chain = start(world)
    chain.advance(START + NEW + 60 * SECOND)
    (told,) = [one for one in chain.arguments(names.REPORT_PHASE) if one["event_reason"] == "NoNodeFits"]
    assert told["phase"] == "WaitingForCapacity"
    assert "0/4 nodes are available" in told["message"]
    assert "keeps away from gpu-1" in told["message"]
    left = next(
        at for run in chain.runs for at, name, arg in run.arguments if name == names.CREATE_SEAT and arg["number"] == 2
    )
    until = left + timedelta(seconds=Policy().node_exclusion_s)
    assert any(f"until {until - n * SECOND:%H:%M:%S} UTC" in told["message"] for n in range(10))


def test_a_pod_that_keeps_away_from_no_node_says_the_schedulers_words_alone() -> None:
    class Crowded(World):
        def create_seat(self, call: Call) -> CreateSeatResult:
            return CreateSeatResult("seat", 8, unschedulable="0/4 nodes are available", avoids=[])

    chain = start(Crowded())
    chain.advance(START + 60 * SECOND)
    assert chain.last(names.REPORT_PHASE)["message"] == "no node fits yet: 0/4 nodes are available"
