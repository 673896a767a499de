"""A released Pod that no node takes says so, and is evicted only where its annotation asks for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from kube_cache import names
from kube_cache.contracts.common import PodView
from kube_cache.contracts.warm_pod import EvictPodResult, PatchGateResult, PodBound, PodState, PodUnschedulable
from tests.workflows.simulated_world import SECOND, VIEW, World, finish, phase, start
from tests.workflows.simulation import START, Call, Chain, failed

WORDS = "0/3 nodes are available: 1 Insufficient nvidia.com/gpu"
EVICT = replace(VIEW, on_stuck="evict")


class Stuck(World):
    """The scheduler cannot bind the released Pod."""

    outcome = "evicted"

    def __init__(self, view: PodView = VIEW) -> None:
        super().__init__(view)
        self.complete = True

    def patch_gate(self, call: Call) -> PatchGateResult:
        self.patches += 1
        self.seats.clear()
        self.pod = PodState(False, replace(self.pod.view, gated=False), receipt_node=call.arg["node"])
        call.run.signal_later(SECOND, "pod_unschedulable", PodUnschedulable(WORDS))
        return PatchGateResult("released")

    def evict_pod(self, _call: Call) -> EvictPodResult:
        if self.outcome == "evicted":
            self.pod = PodState(gone=True)
        return EvictPodResult(self.outcome)


def reports(chain: Chain, event: str) -> list[Any]:
    return [one for one in chain.arguments(names.REPORT_PHASE) if one["event_reason"] == event]


def test_a_stuck_pod_says_the_schedulers_words_and_the_remedy_and_is_left_alone() -> None:
    chain = start(Stuck())
    assert finish(chain) == ""
    (told,) = reports(chain, "NotScheduled")
    assert WORDS in told["message"]
    assert "delete the Pod" in told["message"]
    assert chain.called[names.EVICT_POD] == 0
    chain.run.signal("pod_bound", PodBound("gpu-1"))
    assert finish(chain) == "released"


def test_a_stuck_pod_is_evicted_after_the_grace_where_its_annotation_says_so() -> None:
    chain = start(Stuck(EVICT), EVICT)
    chain.advance(START + timedelta(seconds=50))
    assert chain.called[names.EVICT_POD] == 0
    assert finish(chain) == "pod_gone"
    assert chain.called[names.EVICT_POD] == 1
    assert WORDS in chain.last(names.EVICT_POD)["why"]


def test_a_stuck_member_of_a_group_is_evicted_alone_and_says_that_the_others_stay() -> None:
    """The others run: a fresh Pod finds them running and goes at once (test_pod_group)."""
    member = replace(EVICT, group="train", group_size="8")
    world = Stuck(EVICT)
    world.pod = replace(world.pod, view=member)
    chain = start(world, EVICT)
    assert finish(chain) == "pod_gone"
    assert "The other Pods of group train stay" in chain.last(names.EVICT_POD)["why"]


def test_an_annotation_that_is_written_after_the_release_counts_too() -> None:
    world = Stuck()
    chain = start(world)
    chain.advance(START + timedelta(seconds=30))
    world.pod = replace(world.pod, view=replace(world.pod.view, on_stuck="evict"))
    assert finish(chain) == "pod_gone"


def test_a_budget_that_forbids_the_eviction_is_told_and_asked_again() -> None:
    world = Stuck(EVICT)
    world.errors[names.EVICT_POD] = [failed("ApiError", "429 Cannot evict pod as it would violate the budget")] * 4
    chain = start(world, EVICT)
    assert finish(chain) == "pod_gone"
    assert any("429" in one["message"] for one in chain.arguments(names.REPORT_PHASE))


def test_a_pod_without_a_controller_stays_and_is_bound_later() -> None:
    world = Stuck(EVICT)
    world.outcome = "uncontrolled"
    chain = start(world, EVICT)
    assert finish(chain) == ""
    assert phase(chain) == "Binding"
    chain.run.signal("pod_bound", PodBound("gpu-1"))
    assert finish(chain) == "released"


def test_a_pod_that_is_not_evicted_because_it_has_no_controller_says_so_and_what_to_do() -> None:
    world = Stuck(EVICT)
    world.outcome = "uncontrolled"
    chain = start(world, EVICT)
    assert finish(chain) == ""
    (told,) = reports(chain, "NotEvicted")
    assert "no controller owns the Pod" in told["message"]
    assert "delete the Pod and create it again" in told["message"]
    assert WORDS in told["message"]
    assert chain.last(names.REPORT_PHASE)["message"] == told["message"]


def test_what_is_said_of_a_pod_without_a_controller_does_not_change_each_time_that_the_scheduler_speaks() -> None:
    world = Stuck(EVICT)
    world.outcome = "uncontrolled"
    chain = start(world, EVICT)
    assert finish(chain) == ""
    before = chain.called[names.REPORT_PHASE]
    chain.run.signal("pod_unschedulable", PodUnschedulable("0/3 nodes are available: 3 Insufficient memory"))
    assert finish(chain) == ""
    after = [one["event_reason"] for one in chain.arguments(names.REPORT_PHASE)[before:]]
    assert after == ["NotEvicted"]


def test_a_wrong_value_is_refused_with_what_may_be_written() -> None:
    view = replace(VIEW, on_stuck="delete")
    chain = start(World(view), view)
    chain.advance(START + timedelta(seconds=10))
    assert phase(chain) == "AwaitingOperator"
    message = chain.last(names.REPORT_PHASE)["message"]
    assert names.ON_STUCK_ANNOTATION in message
    assert "write keep or evict" in message
