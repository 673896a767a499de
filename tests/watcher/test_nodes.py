"""A warm hears of it when its node can take its Pod no longer, once, and a node that is back in time is forgiven."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from kube_cache.contracts.warm_pod import SeatLost
from kube_cache.errors import NodeNotReady, NodeUnfit
from kube_cache.kube.client import ApiError
from kube_cache.kube.fitness import tolerations
from kube_cache.kube.nodes import NodeFacts, Taint
from kube_cache.kube.pods import seat_facts
from tests.watcher.fakes import WARM, FakeStarter, seat
from tools.stack.waiting import true
from watcher.nodes import NodeWatcher

FIT = NodeFacts("gpu-1")
CORDONED = replace(FIT, unschedulable=True)
SILENT = replace(FIT, ready=False)


class Nodes:
    """Answers a GET of a node."""

    def __init__(self, status: int = 404, node: dict[str, Any] | None = None) -> None:
        self._status, self._node = status, node

    def request(self, method: str, path: str) -> dict[str, Any]:
        if self._node is not None:
            return self._node
        raise ApiError(self._status, "x", f"{method} {path}: {self._status}")


def watcher(starter: FakeStarter, *, grace_s: float = 60, kube: Nodes | None = None) -> NodeWatcher:
    return NodeWatcher(kube or Nodes(), starter, grace_s=grace_s)  # type: ignore[arg-type]


def sit(nodes: NodeWatcher, *, event: str = "MODIFIED", tolerated: dict[str, Any] | None = None) -> None:
    facts = seat_facts(seat(node="gpu-1"))
    assert facts is not None
    if tolerated:
        facts = replace(facts, tolerations=tolerations({"spec": {"tolerations": [tolerated]}}))
    nodes.on_seat(event, facts)


def lost(starter: FakeStarter) -> list[str]:
    assert all(said == ("seat_lost", WARM) for said in starter.said)
    assert all(isinstance(arg, SeatLost) and arg.unfit for arg in starter.args)
    return [arg.reason for arg in starter.args]


@pytest.mark.parametrize(
    ("node", "words"),
    [
        pytest.param(CORDONED, "node gpu-1 is cordoned", id="cordoned"),
        pytest.param(replace(FIT, taints=(Taint("a", "b", "NoExecute"),)), "a=b:NoExecute", id="tainted"),
        pytest.param(replace(FIT, pressures=("DiskPressure",)), "DiskPressure", id="disk pressure"),
        pytest.param(replace(FIT, deleting=True), "being deleted", id="being deleted"),
    ],
)
def test_a_node_that_turns_unfit_is_told_to_the_pods_that_are_warmed_there(node: NodeFacts, words: str) -> None:
    starter = FakeStarter()
    nodes = watcher(starter)
    nodes.on_node("ADDED", FIT)
    sit(nodes)
    nodes.on_node("MODIFIED", node)
    assert len(lost(starter)) == 1
    assert words in lost(starter)[0]


def test_a_deleted_node_is_told() -> None:
    starter = FakeStarter()
    nodes = watcher(starter)
    nodes.on_node("ADDED", FIT)
    sit(nodes)
    nodes.on_node("DELETED", FIT)
    assert lost(starter) == ["node gpu-1 was deleted"]


def test_a_seat_that_comes_to_a_node_that_is_unfit_already_is_told() -> None:
    starter = FakeStarter()
    nodes = watcher(starter)
    nodes.on_node("ADDED", CORDONED)
    sit(nodes)
    assert len(lost(starter)) == 1


def test_a_heartbeat_tells_nothing_and_a_new_leader_tells_again() -> None:
    starter = FakeStarter()
    nodes = watcher(starter)
    nodes.on_node("ADDED", CORDONED)
    sit(nodes)
    nodes.on_node("MODIFIED", replace(CORDONED))
    sit(nodes)
    assert len(lost(starter)) == 1
    nodes.tell_all()
    assert len(lost(starter)) == 2


def test_a_pod_that_tolerates_the_change_stays() -> None:
    starter = FakeStarter()
    nodes = watcher(starter)
    sit(nodes, tolerated={"key": "a", "operator": "Exists"})
    nodes.on_node("MODIFIED", replace(FIT, taints=(Taint("a", "b", "NoSchedule"),)))
    assert starter.said == []


def test_a_seat_that_is_gone_hears_nothing() -> None:
    starter = FakeStarter()
    nodes = watcher(starter)
    sit(nodes)
    sit(nodes, event="DELETED")
    nodes.on_node("MODIFIED", CORDONED)
    assert starter.said == []
    assert nodes._seats == {}


def play(scenario: Callable[[NodeWatcher], Awaitable[None]], starter: FakeStarter, grace_s: float) -> None:
    async def run() -> None:
        await scenario(watcher(starter, grace_s=grace_s))

    asyncio.run(run())


def test_a_node_that_stays_not_ready_is_told_when_its_grace_is_over() -> None:
    starter = FakeStarter()

    async def scenario(nodes: NodeWatcher) -> None:
        sit(nodes)
        nodes.on_node("MODIFIED", SILENT)
        assert starter.said == []
        await asyncio.to_thread(true, lambda: starter.said, "the grace is over")

    play(scenario, starter, 0.05)
    assert lost(starter) == ["node gpu-1 is not ready: look at its kubelet"]


def test_a_node_that_is_back_in_time_keeps_its_warms() -> None:
    starter = FakeStarter()

    async def scenario(nodes: NodeWatcher) -> None:
        sit(nodes)
        nodes.on_node("MODIFIED", SILENT)
        (timer,) = nodes._timers.values()
        nodes.on_node("MODIFIED", FIT)
        assert timer.cancelled()
        assert nodes._timers == {}

    play(scenario, starter, 60)
    assert starter.said == []


def test_a_node_is_checked_right_before_a_release() -> None:
    nodes = watcher(FakeStarter())
    pod: dict[str, Any] = {"spec": {}}
    nodes.on_node("ADDED", FIT)
    nodes.check_node("gpu-1", pod)
    nodes.on_node("MODIFIED", CORDONED)
    with pytest.raises(NodeUnfit, match="node gpu-1 is cordoned"):
        nodes.check_node("gpu-1", pod)
    nodes._nodes["gpu-1"] = SILENT
    with pytest.raises(NodeNotReady, match="not ready"):
        nodes.check_node("gpu-1", pod)


def test_a_node_that_the_watch_does_not_have_is_asked_for() -> None:
    """A node may be younger than the last event; only the API server knows that one is gone."""
    pod: dict[str, Any] = {"spec": {}}
    with pytest.raises(NodeUnfit, match="node gpu-1 was deleted"):
        watcher(FakeStarter(), kube=Nodes()).check_node("gpu-1", pod)
    with pytest.raises(ApiError):
        watcher(FakeStarter(), kube=Nodes(status=500)).check_node("gpu-1", pod)
    young = {"metadata": {"name": "gpu-1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    watcher(FakeStarter(), kube=Nodes(node=young)).check_node("gpu-1", pod)


def test_a_nodes_labels_come_from_the_watch_or_from_the_api_server() -> None:
    nodes = watcher(FakeStarter(), kube=Nodes(node={"metadata": {"name": "gpu-2", "labels": {"zone": "b"}}}))
    nodes.on_node("ADDED", replace(FIT, labels={"zone": "a"}))
    assert nodes.labels_of("gpu-1") == {"zone": "a"}
    assert nodes.labels_of("gpu-2") == {"zone": "b"}
    assert watcher(FakeStarter(), kube=Nodes()).labels_of("gpu-3") == {}, "it is gone"
    with pytest.raises(ApiError):
        watcher(FakeStarter(), kube=Nodes(status=500)).labels_of("gpu-3")
