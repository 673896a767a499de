"""From zero: a real Karpenter adds a node for a gated Pod's seat, leaves it alone during the warm, and takes it away.

No node at the start, one kind of machine, and nobody else's Pods. kwok plays the kubelets of what Karpenter adds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from kube_cache import names
from tests.e2e.disk import reconcile
from tests.e2e.promises import (
    MIB,
    condition_says,
    event_reasons,
    released,
    seats,
    still_gated,
    temporal,
    workflow_ended,
)
from tools.stack import Stack
from tools.stack import pods as kubernetes
from tools.stack.buckets import Bucket
from tools.stack.karpenter import Karpenter
from tools.stack.pods import Pods
from tools.stack.waiting import true

pytestmark = pytest.mark.needs_server("karpenter")

CONSOLIDATE_S = 1
SIZE = 16 * MIB
QUICK, SLOW = SIZE / 4, SIZE / 100
"""Bytes per second of a download: until it is nearly as far as a test wants it, and from there on."""
MOVES = {"NodeUnfit", "SeatLost", "NodeLost"}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    short = {"KUBE_CACHE_OPERATOR__LINGER_S": "1"}
    with Stack(node_count=0, count_s3=True, operator_env=short) as made:
        yield made


@pytest.fixture(scope="module")
def running(stack: Stack) -> Iterator[Karpenter]:
    with Karpenter(stack, consolidate_after_s=CONSOLIDATE_S) as made:
        yield made


@pytest.fixture
def karpenter(running: Karpenter, pods: Pods) -> Iterator[Karpenter]:
    """With no node, before the test and after it."""
    running.ever.clear()
    assert not running.claims()
    yield running
    for pod in pods.all():
        pods.delete(pod["metadata"]["name"])
    for node in running.nodes():
        running.delete_claim(node)
    emptied(running)


def emptied(karpenter: Karpenter) -> None:
    true(lambda: not karpenter.claims() and not karpenter.nodes(), "Karpenter has removed its nodes", 60)
    true(lambda: not karpenter.agents, "their agents are gone", 30)


def seat_node(stack: Stack) -> str:
    """Wait until a seat is on a node; its name."""

    def bound() -> list[str]:
        return [seat["spec"]["nodeName"] for seat in seats(stack) if seat["spec"].get("nodeName")]

    return str(true(bound, "the seat is bound", 60)[0])


def open_entities(stack: Stack) -> list[str]:
    query = "ExecutionStatus='Running' AND WorkflowType='DatasetOnNode'"
    listed = json.loads(temporal(stack, "workflow", "list", "--query", query, "--output", "json") or "[]")
    return [workflow["execution"]["workflowId"] for workflow in listed]


def test_a_node_comes_for_the_seat_stays_while_it_is_warmed_and_goes_when_it_is_not_needed(
    stack: Stack, karpenter: Karpenter, pods: Pods, bucket: Bucket
) -> None:
    content = bucket.fill("gpt", [SIZE // 2, SIZE // 2])
    with karpenter.paused():
        pod = pods.create_gated("one", bucket.uri("gpt"))
        condition_says(pods, "one", "WaitingForCapacity", "no nodes available to schedule pods")
        (seat,) = seats(stack)
    with ExitStack() as slow:
        slow.enter_context(stack.s3_proxy.limited(QUICK))
        node = seat_node(stack)
        assert karpenter.told(seat["metadata"]["name"], "Nominated"), "the node was not added for the seat"
        since = time.monotonic()
        true(lambda: stack.s3_proxy.bytes_served(bucket.name) > SIZE // 3, "a part is fetched", 60)
        with stack.s3_proxy.held():
            # Karpenter says so when the delay is over and it looks at the node to remove it.
            words = f'Pod has "karpenter.sh/do-not-disrupt" annotation (Pod={names.SEATS_NAMESPACE}/'
            true(lambda: words in karpenter.told(node, "DisruptionBlocked"), "Karpenter wants the node back", 60)
            true(lambda: time.monotonic() > since + 5 * CONSOLIDATE_S, "the delay has passed five times")
            still_gated(pods, "one")
            assert seat_node(stack) == node
        slow.close()
        assert released(stack, pods, "one", bucket.uri("gpt"), content) == node
    assert karpenter.ever == {node}
    assert not MOVES & set(event_reasons(pods, "one"))
    assert seats(stack) == []
    pods.delete("one")
    emptied(karpenter)
    workflow_ended(stack, pod)
    reconcile(stack)
    true(lambda: not open_entities(stack), "the entity of the node's disk has ended", 60)


def delete_claim(stack: Stack, karpenter: Karpenter, node: str) -> None:
    """The node is drained: what holds a seat must let go."""
    karpenter.delete_claim(node)


def delete_node(stack: Stack, karpenter: Karpenter, node: str) -> None:
    stack.api.delete(f"/api/v1/nodes/{node}")


def vanish(stack: Stack, karpenter: Karpenter, node: str) -> None:
    """As of a spot machine: the agent is dead before the API server hears of it."""
    karpenter.kill_agent(node)
    karpenter.delete_claim(node)


@pytest.mark.parametrize(("percent", "take_away"), [(10, delete_claim), (50, delete_node), (99, vanish)])
def test_a_pod_whose_node_is_taken_away_gets_another_and_nothing_is_left_over(
    stack: Stack,
    karpenter: Karpenter,
    pods: Pods,
    bucket: Bucket,
    percent: int,
    take_away: Callable[[Stack, Karpenter, str], None],
) -> None:
    content = bucket.fill("gpt", [SIZE // 2, SIZE // 2])
    with ExitStack() as slow:
        slow.enter_context(stack.s3_proxy.limited(QUICK))
        pods.create_gated("one", bucket.uri("gpt"))
        node = seat_node(stack)
        true(lambda: stack.s3_proxy.bytes_served(bucket.name) >= SIZE * (percent - 2) / 100, "it is nearly as far", 90)
        slow.enter_context(stack.s3_proxy.limited(SLOW))
        true(lambda: stack.s3_proxy.bytes_served(bucket.name) >= SIZE * percent / 100, f"it is at {percent} %", 90)
        slow.enter_context(stack.s3_proxy.held())
        assert stack.s3_proxy.bytes_served(bucket.name) < SIZE
        take_away(stack, karpenter, node)
        true(lambda: MOVES & set(event_reasons(pods, "one")), "the Pod says that it moves", 60)
        still_gated(pods, "one")
        true(lambda: node not in karpenter.nodes(), "nothing of ours holds the node", 60)
    another = released(stack, pods, "one", bucket.uri("gpt"), content)
    assert another != node
    assert karpenter.ever == {node, another}, "one node was added for the one that was taken away"
    said = [event["note"] for event in pods.events("one") if event["reason"] in MOVES]
    assert any(node in note for note in said), said
    assert seats(stack) == []
    true(lambda: all(node not in entity for entity in open_entities(stack)), "no entity of that node is left", 60)


def test_the_agent_of_a_new_node_may_take_its_time(
    stack: Stack, karpenter: Karpenter, pods: Pods, bucket: Bucket
) -> None:
    """No second node is asked for meanwhile."""
    content = bucket.fill("gpt", [MIB])
    with karpenter.without_agents():
        pods.create_gated("one", bucket.uri("gpt"))
        node = seat_node(stack)
        assert node in condition_says(pods, "one", "Checking", "agent does not answer yet")
        still_gated(pods, "one")
    assert released(stack, pods, "one", bucket.uri("gpt"), content) == node
    assert karpenter.ever == {node}


def test_a_pod_that_repels_its_peers_gets_a_node_of_its_own(
    stack: Stack, karpenter: Karpenter, pods: Pods, bucket: Bucket
) -> None:
    """The first has room beside it, so nothing but the peers asks for a second node."""
    content = bucket.fill("gpt", [MIB])
    labels = {"app": "worker"}
    apart = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": labels}}
    spec = {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}}}
    nodes = set()
    for name in ("one", "two"):
        pod = kubernetes.gated(name, bucket.uri("gpt"), spec=spec)
        pods.create({**pod, "metadata": {**pod["metadata"], "labels": labels}})
        nodes.add(released(stack, pods, name, bucket.uri("gpt"), content))
    assert karpenter.ever == nodes
    assert len(nodes) == 2
