"""Re-planned: a Pod leaves a node that can take it no longer, keeps what was fetched, and says why it moved.

Real API server, scheduler and controller manager; kwok plays the kubelets.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from kube_cache import names
from tests.e2e.promises import MIB, condition_says, event_reasons, link_of, released, seats, still_gated
from tools.stack import Stack
from tools.stack import pods as kubernetes
from tools.stack.api import MERGE
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true

SIZE = 24 * MIB
SLOW = 4 * MIB
"""Bytes per second of a download that a test interrupts."""
SHORT = {"KUBE_CACHE_OPERATOR__NODE_GRACE_S": "1", "KUBE_CACHE_OPERATOR__BIND_GRACE_S": "1"}


def make_impatient(stack: Stack) -> None:
    """Shorten the graces of the operator, until the stack is repaired."""
    stack.operator.restart(kill=False, env=SHORT)


def patch_node(stack: Stack, node: str, patch: dict[str, Any], subresource: str = "") -> None:
    stack.api.request("PATCH", f"/api/v1/nodes/{node}{subresource}", patch, content_type=MERGE)


@contextmanager
def cordoned(stack: Stack, *nodes: str) -> Iterator[None]:
    for node in nodes:
        patch_node(stack, node, {"spec": {"unschedulable": True}})
    try:
        yield
    finally:
        for node in nodes:
            patch_node(stack, node, {"spec": {"unschedulable": None}})


@contextmanager
def tainted(stack: Stack, node: str, effect: str) -> Iterator[None]:
    taints = stack.api.get(f"/api/v1/nodes/{node}")["spec"].get("taints") or []
    patch_node(stack, node, {"spec": {"taints": [*taints, {"key": "team", "value": "a", "effect": effect}]}})
    try:
        yield
    finally:
        patch_node(stack, node, {"spec": {"taints": taints}})


@contextmanager
def with_condition(stack: Stack, node: str, kind: str, status: str) -> Iterator[None]:
    """Kwok leaves a node that lacks its annotation alone, but for what was under way, and repairs one that has it."""
    path = f"/api/v1/nodes/{node}"
    patch_node(stack, node, {"metadata": {"annotations": {"kwok.x-k8s.io/node": None}}})
    before = stack.api.get(path)["status"]["conditions"]
    changed = [{**one, "status": status} if one["type"] == kind else one for one in before]
    over = threading.Event()

    def keep() -> None:
        while not over.wait(0.05):
            found = {one["type"]: one["status"] for one in stack.api.get(path)["status"]["conditions"]}
            if found[kind] != status:
                patch_node(stack, node, {"status": {"conditions": changed}}, "/status")

    patch_node(stack, node, {"status": {"conditions": changed}}, "/status")
    keeper = threading.Thread(target=keep, name="node condition")
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()
        patch_node(stack, node, {"status": {"conditions": before}}, "/status")
        patch_node(stack, node, {"metadata": {"annotations": {"kwok.x-k8s.io/node": "fake"}}})


@contextmanager
def deleted(stack: Stack, node: str) -> Iterator[None]:
    stack.remove_node(node)
    try:
        yield
    finally:
        stack.repair()


Disruption = Callable[[Stack, str], Any]
DISRUPTIONS: dict[str, tuple[Disruption, str]] = {
    "cordoned": (cordoned, "kubectl uncordon"),
    "tainted NoSchedule": (lambda stack, node: tainted(stack, node, "NoSchedule"), "team=a:NoSchedule"),
    "tainted NoExecute": (lambda stack, node: tainted(stack, node, "NoExecute"), "team=a:NoExecute"),
    "not ready": (lambda stack, node: with_condition(stack, node, "Ready", "False"), "is not ready"),
    "disk pressure": (lambda stack, node: with_condition(stack, node, "DiskPressure", "True"), "DiskPressure"),
    "deleted": (deleted, "deleted"),
}
# The taint eviction and the garbage collector delete the seat, too, and the agent dies with its node.
MOVES = {"NodeUnfit", "SeatLost", "NodeLost"}


def warming_on(stack: Stack, bucket: Bucket) -> str:
    """Wait until a download is half done; the node."""
    true(lambda: stack.s3_proxy.bytes_served(bucket.name) > SIZE // 3, "a part is fetched")
    (seat,) = seats(stack)
    return str(seat["spec"]["nodeName"])


@pytest.mark.parametrize("how", DISRUPTIONS)
def test_a_pod_whose_node_turns_unfit_while_it_is_warmed_moves_and_says_why(
    stack: Stack, pods: Pods, bucket: Bucket, how: str
) -> None:
    disrupt, words = DISRUPTIONS[how]
    if how == "not ready":
        make_impatient(stack)
    content = bucket.fill("gpt", [SIZE // 2, SIZE // 2])
    with ExitStack() as slow:
        slow.enter_context(stack.s3_proxy.limited(SLOW, at_most=SIZE - 4 * MIB))
        pods.create_gated("one", bucket.uri("gpt"))
        node = warming_on(stack, bucket)
        still_gated(pods, "one")
        with disrupt(stack, node):
            true(lambda: MOVES & set(event_reasons(pods, "one")), "the Pod says that it moves")
            slow.close()
            assert released(stack, pods, "one", bucket.uri("gpt"), content) != node
    said = [event["note"] for event in pods.events("one") if event["reason"] in MOVES]
    assert any(node in note for note in said), said
    if how not in ("tainted NoExecute", "deleted"):
        assert any(words in note for note in said), said


def test_a_pod_that_fits_nowhere_else_waits_with_the_true_reason_and_goes_on_where_it_was(
    stack: Stack, pods: Pods, bucket: Bucket
) -> None:
    """What was fetched before the cordon is not fetched again."""
    content = bucket.fill("gpt", [SIZE // 2, SIZE // 2])
    with ExitStack() as slow:
        slow.enter_context(stack.s3_proxy.limited(SLOW, at_most=SIZE - 4 * MIB))
        pods.create_gated("one", bucket.uri("gpt"))
        node = warming_on(stack, bucket)
        with cordoned(stack, *(other for other in stack.nodes if other != node)):
            with cordoned(stack, node):
                message = condition_says(pods, "one", "WaitingForCapacity", "unschedulable")
                assert "nodes are available" in message
                still_gated(pods, "one")
            slow.close()
            assert released(stack, pods, "one", bucket.uri("gpt"), content) == node
    assert {"NodeUnfit", "NoNodeFits"} <= set(event_reasons(pods, "one"))
    assert stack.s3_proxy.bytes_served(bucket.name, "gpt") < SIZE + SIZE // 3, "most of what was fetched is kept"


def test_a_node_that_is_back_in_time_keeps_its_warm_and_what_vanished_meanwhile_is_fetched_again(
    stack: Stack, pods: Pods, bucket: Bucket
) -> None:
    """The check before the release is older than 10 s by then: it is made again."""
    content = bucket.fill("gpt", [MIB, MIB])
    with ExitStack() as slow:
        slow.enter_context(stack.s3_proxy.limited(MIB, at_most=MIB + MIB // 2))
        pods.create_gated("one", bucket.uri("gpt"))
        true(lambda: stack.s3_proxy.bytes_served(bucket.name) > MIB // 3, "a part is fetched")
        (seat,) = seats(stack)
        node = seat["spec"]["nodeName"]
        with with_condition(stack, node, "Ready", "False"):
            slow.close()
            condition_says(pods, "one", "Releasing", "NodeNotReady")
            still_gated(pods, "one")
            for path in link_of(stack, node, pods.get("one")).iterdir():
                path.unlink()
            true(lambda: "SnapshotLost" in event_reasons(pods, "one"), "it is checked again")
            still_gated(pods, "one")
    assert released(stack, pods, "one", bucket.uri("gpt"), content) == node
    assert "NodeUnfit" not in event_reasons(pods, "one")


@contextmanager
def without_scheduler(stack: Stack) -> Iterator[None]:
    """Until it starts again, which it does with what is true then.

    A paused one would go on with what it has heard so far: of a Pod's release, perhaps, before the cordon of its node.
    """
    stack.cluster.control_plane.scheduler.kill()
    try:
        yield
    finally:
        stack.cluster.control_plane.start_scheduler()


def test_a_stuck_pod_of_a_deployment_is_evicted_where_it_asks_for_it_and_a_bare_pod_never(
    stack: Stack, pods: Pods, bucket: Bucket
) -> None:
    bucket.fill("gpt", [MIB])
    content = bucket.fill("next", [MIB])
    evict = {names.ON_STUCK_ANNOTATION: "evict"}
    bare = kubernetes.gated("bare", bucket.uri("gpt"), annotations=evict)
    template = kubernetes.gated("ignored", bucket.uri("next"), annotations=evict)
    labels = {"app": "served"}
    pod_template = {
        "metadata": {"annotations": template["metadata"]["annotations"], "labels": labels},
        "spec": {**template["spec"], "restartPolicy": "Always"},
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "served"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod_template},
    }
    make_impatient(stack)
    with ExitStack() as slow:
        slow.enter_context(stack.s3_proxy.limited(MIB // 2, at_most=MIB - 1))  # none of the two ends
        pods.create(bare)
        stack.api.request("POST", f"/apis/apps/v1/namespaces/{pods.namespace}/deployments", deployment)
        true(lambda: len([seat for seat in seats(stack) if seat["spec"].get("nodeName")]) == 2, "both are warmed")
        (first,) = pods.all(labelSelector="app=served")
        with ExitStack() as closed:
            with without_scheduler(stack):
                slow.close()
                for name in ("bare", first["metadata"]["name"]):
                    pods.wait(name, lambda pod: not kubernetes.gates(pod), "is released")
                closed.enter_context(cordoned(stack, *stack.nodes))
            true(lambda: pods.find(first["metadata"]["name"]) is None, "the Deployment's Pod is evicted")
            true(lambda: "NotScheduled" in event_reasons(pods, "bare"), "the bare Pod says that it is stuck")
            (second,) = true(lambda: pods.all(labelSelector="app=served"), "the Deployment has another Pod")
            assert names.GATE in kubernetes.gates(second), "the fresh Pod is behind the gate"
    assert "EvictedStuck" in event_reasons(pods, first["metadata"]["name"])
    released(stack, pods, second["metadata"]["name"], bucket.uri("next"), content)
    pods.wait_bound("bare")
    assert "EvictedStuck" not in event_reasons(pods, "bare")


def test_a_pod_that_is_not_tied_to_its_node_and_is_bound_elsewhere_gets_its_data_there(
    stack: Stack, pods: Pods, bucket: Bucket
) -> None:
    """No seat can hold a volume that is for one Pod on a node: the Pod only prefers the node of its seat."""
    content = bucket.fill("gpt", [2 * MIB])
    disk = {"name": "disk", "iscsi": {"targetPortal": "10.0.0.1", "iqn": "iqn.2026-01.example:disk", "lun": 0}}
    with ExitStack() as slow:
        slow.enter_context(stack.s3_proxy.limited(MIB, at_most=MIB + MIB // 2))
        pods.create_gated("one", bucket.uri("gpt"), spec={"volumes": [kubernetes.VOLUME, disk]})
        true(lambda: stack.s3_proxy.bytes_served(bucket.name) > MIB // 3, "a part is fetched")
        (seat,) = seats(stack)
        node = seat["spec"]["nodeName"]
        elsewhere = next(other for other in stack.nodes if other != node)
        with without_scheduler(stack):
            slow.close()
            pods.wait("one", lambda pod: not kubernetes.gates(pod), "is released")
            pods.bind("one", elsewhere)
        pods.wait_bound("one")
    receipt = names.NODE_ANNOTATION
    pods.wait("one", lambda pod: pod["metadata"]["annotations"][receipt] == elsewhere, "has a receipt of its node")
    assert released(stack, pods, "one", bucket.uri("gpt"), content) == elsewhere
    (note,) = [event["note"] for event in pods.events("one") if event["reason"] == "WarmingOnArrival"]
    assert node in note
    assert elsewhere in note
    assert "volume disk" in note
    true(lambda: not link_of(stack, node, pods.get("one")).is_symlink(), "nothing is held on the other node")
