"""A Pod behind the gate keeps its priority: it preempts, it is protected, and no equal takes its room.

Each Pod asks for a whole node, and one node is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.e2e.promises import MIB, event_reasons, released, seats, still_gated
from tools.stack import Stack
from tools.stack import pods as kubernetes
from tools.stack.api import Document
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.priority_classes import PriorityClasses
from tools.stack.waiting import true

SLOW = MIB // 2


@pytest.fixture
def priority(stack: Stack) -> Iterator[Callable[..., str]]:
    """Create a PriorityClass and return its name."""
    classes = PriorityClasses(stack.api)
    yield classes.create
    classes.close()


class Node:
    """The one node of the test's Pods, each of which fills it."""

    def __init__(self, stack: Stack, pods: Pods, bucket: Bucket) -> None:
        self._stack, self._pods, self._bucket = stack, pods, bucket
        self.name = stack.nodes[0]

    def gated(self, name: str, priority: str = "") -> None:
        self._pods.create(self._pod(name, priority))

    def plain(self, name: str, priority: str = "") -> None:
        """Create a Pod that names no dataset and has no gate."""
        pod = self._pod(name, priority)
        del pod["metadata"]["annotations"], pod["spec"]["schedulingGates"]
        self._pods.create(pod)

    def _pod(self, name: str, priority: str) -> Document:
        spec = {"nodeSelector": {"kubernetes.io/hostname": self.name}}
        if priority:
            spec["priorityClassName"] = priority  # type: ignore[assignment]
        return kubernetes.gated(name, self._bucket.uri("gpt"), gpus=8, spec=spec)

    def waits(self, name: str) -> None:
        """Wait until the scheduler has said that the Pod finds no room."""

        def refused() -> bool:
            conditions = self._pods.get(name).get("status", {}).get("conditions", [])
            return any(c["type"] == "PodScheduled" and c.get("reason") == "Unschedulable" for c in conditions)

        true(refused, f"{name} waits for room")

    def is_seated(self) -> None:
        true(lambda: any(kubernetes.node(seat) == self.name for seat in seats(self._stack)), "a seat holds the node")


@pytest.fixture
def node(stack: Stack, pods: Pods, bucket: Bucket) -> Node:
    return Node(stack, pods, bucket)


def test_a_gated_pod_preempts_what_is_less_important_and_gets_the_room(
    stack: Stack, pods: Pods, bucket: Bucket, node: Node, priority: Callable[..., str]
) -> None:
    content = bucket.fill("gpt", [MIB])
    node.plain("batch")
    pods.wait_bound("batch")
    node.gated("important", priority(1000))
    assert released(stack, pods, "important", bucket.uri("gpt"), content) == node.name
    assert pods.find("batch") is None


def test_less_important_and_equal_pods_disturb_no_warm(
    stack: Stack, pods: Pods, bucket: Bucket, node: Node, priority: Callable[..., str]
) -> None:
    content = bucket.fill("gpt", [4 * MIB])
    equal = priority(1000)
    with stack.s3_proxy.limited(SLOW, at_most=3 * MIB):
        node.gated("important", equal)
        node.is_seated()
        seated = [seat["metadata"]["name"] for seat in seats(stack)]
        for rival, its_priority in (("lower", ""), ("equal", equal)):
            node.plain(rival, its_priority)
            node.waits(rival)
        still_gated(pods, "important")
        assert [seat["metadata"]["name"] for seat in seats(stack)] == seated
    # Both have waited for longer than the Pod will, once it is released.
    assert released(stack, pods, "important", bucket.uri("gpt"), content) == node.name
    assert not kubernetes.node(pods.get("lower"))
    assert not kubernetes.node(pods.get("equal"))
    assert "FailedScheduling" not in event_reasons(pods, "important")


def test_a_preempted_pod_says_so_and_goes_on_with_what_was_fetched(
    stack: Stack, pods: Pods, bucket: Bucket, node: Node, priority: Callable[..., str]
) -> None:
    content = bucket.fill("gpt", [MIB] * 6)
    with stack.s3_proxy.limited(SLOW, at_most=5 * MIB):
        node.gated("one", priority(10))
        true(lambda: stack.s3_proxy.bytes_served(bucket.name) > MIB, "some of the data is there")
        node.plain("urgent", priority(1000))
        pods.wait_bound("urgent")
    true(lambda: "SeatLost" in event_reasons(pods, "one"), "the Pod says that its place was taken")
    still_gated(pods, "one")
    pods.delete("urgent")
    assert released(stack, pods, "one", bucket.uri("gpt"), content) == node.name
    fetched = stack.s3_proxy.bytes_served(bucket.name)
    assert fetched < 2 * sum(map(len, content.values())), "the data was fetched anew"
