"""`max-gate-time` limits our gate: it counts while ours is the last, over all runs of the workflow together."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from kube_cache import names
from kube_cache.contracts.common import PodView
from kube_cache.contracts.group import GroupTold, Verdict
from kube_cache.contracts.warm_pod import CreateSeatResult
from tests.workflows.simulated_world import World, phase, start
from tests.workflows.simulation import START, Call, Chain

MINUTE = timedelta(minutes=1)
VIEW = PodView("s3://b/x", max_gate_time="10m")
QUEUED = replace(VIEW, foreign_gates=["kueue.x-k8s.io/topology"])
SUGGESTED_AT = 60
"""So few events that each state is continued as new several times."""


class NoRoom(World):
    """No node fits, so that the Pod waits for us alone."""

    def create_seat(self, call: Call) -> CreateSeatResult:
        return replace(super().create_seat(call), node="")


def view_is(chain: Chain, world: World, view: PodView) -> None:
    world.pod = replace(world.pod, view=view)
    chain.run.signal("pod_changed", view)


def let_pass(chain: Chain, time: timedelta, *, from_: timedelta, every: timedelta = MINUTE) -> None:
    """Let time pass, with the reconcile's resync so often, which fills the history."""
    for number in range(int(time / every)):
        chain.advance(START + from_ + number * every)
        chain.run.signal("resync")
    chain.advance(START + from_ + time)


def test_a_month_in_a_queue_costs_nothing_of_the_gate_time() -> None:
    world = NoRoom(QUEUED)
    chain = start(world, QUEUED, suggested_at=SUGGESTED_AT)
    month = timedelta(days=30)
    let_pass(chain, month, from_=timedelta(), every=timedelta(hours=2))
    assert phase(chain) == "WaitingForGates"
    assert len(chain.runs) > 20
    view_is(chain, world, VIEW)
    let_pass(chain, 9 * MINUTE, from_=month)
    assert "AwaitingOperator" not in phases(chain)
    chain.advance(START + month + 11 * MINUTE)
    assert phase(chain) == "AwaitingOperator"
    assert "max-gate-time is over" in chain.last(names.REPORT_PHASE)["message"]


def test_what_ours_alone_has_spent_is_remembered_over_the_gates_of_others() -> None:
    """A gate cannot come back, but a view that was late, or wrong, may say so."""
    world = NoRoom(VIEW)
    chain = start(world, VIEW, suggested_at=SUGGESTED_AT)
    let_pass(chain, 6 * MINUTE, from_=timedelta())
    view_is(chain, world, QUEUED)
    hours = timedelta(hours=5)
    let_pass(chain, hours, from_=6 * MINUTE, every=5 * MINUTE)
    assert "AwaitingOperator" not in phases(chain)
    view_is(chain, world, VIEW)
    let_pass(chain, 3 * MINUTE, from_=6 * MINUTE + hours)
    assert "AwaitingOperator" not in phases(chain)
    chain.advance(START + 6 * MINUTE + hours + 5 * MINUTE)
    assert phase(chain) == "AwaitingOperator"
    assert len(chain.runs) > 3


def test_the_gate_time_goes_on_while_the_pod_waits_for_its_group() -> None:
    grouped = replace(VIEW, group="train", group_size="8")
    world = World(grouped)
    world.complete = True
    chain = start(world, grouped, suggested_at=SUGGESTED_AT)
    chain.advance(START + MINUTE)
    chain.run.signal("group_told", GroupTold("train", Verdict.WAIT, "1 of 8 ready; waiting for 7"))
    chain.advance(START + 9 * MINUTE)
    assert phase(chain) == "WaitingForGroup"
    chain.advance(START + 11 * MINUTE)
    assert phase(chain) == "AwaitingOperator"
    assert not world.seats, "the seat is given back"
    assert chain.arguments(names.JOIN_GROUP)[-1]["leave"], "the group counts the Pod no more"


def phases(chain: Chain) -> set[str]:
    return {report["phase"] for report in chain.arguments(names.REPORT_PHASE)}
