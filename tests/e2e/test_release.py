"""Released means readable: cold, warm, beside other controllers' gates, and nothing of the Pod's own is touched."""

from __future__ import annotations

import copy

from tests.e2e.promises import MIB, event_reasons, holds, released, seats, still_gated
from tools.stack import Stack
from tools.stack import pods as kubernetes
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true


def test_a_cold_pod_then_a_warm_one(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    content = bucket.fill("gpt", [9 * MIB + 7, 3 * MIB, 0, 1])
    made = copy.deepcopy(pods.create_gated("cold", bucket.uri("gpt")))
    node = released(stack, pods, "cold", bucket.uri("gpt"), content)
    served = stack.s3_proxy.bytes_served(bucket.name)
    assert served == sum(map(len, content.values()))
    after = pods.wait_reason("cold", "Done")
    assert kubernetes.condition(after)["status"] == "True"
    assert "fetched" in kubernetes.condition(after)["message"]
    for field in ("containers", "tolerations", "restartPolicy", "terminationGracePeriodSeconds"):
        assert after["spec"][field] == made["spec"][field]
    pods.create_gated("warm", bucket.uri("gpt"))
    assert released(stack, pods, "warm", bucket.uri("gpt"), content) == node
    assert stack.s3_proxy.bytes_served(bucket.name) == served
    assert "already there" in kubernetes.condition(pods.wait_reason("warm", "Done"))["message"]
    true(lambda: not seats(stack), "no seat is left")


def test_gates_of_others_stay_until_their_owners_remove_them(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    content = bucket.fill("gpt", [MIB])
    pods.create_gated("one", bucket.uri("gpt"), gates=["a.example/x", "kube-cache.openai.com/gate", "b.example/y"])
    waiting = pods.wait_reason("one", "WaitingForGates")
    assert "a.example/x, b.example/y" in kubernetes.condition(waiting)["message"]
    pods.remove_gate("one", "a.example/x")
    pods.wait("one", lambda pod: kubernetes.condition(pod)["message"].endswith(": b.example/y"), "names the last one")
    still_gated(pods, "one")
    assert "b.example/y" in kubernetes.gates(pods.get("one"))
    pods.remove_gate("one", "b.example/y")
    released(stack, pods, "one", bucket.uri("gpt"), content)
    assert "WaitingForGates" in event_reasons(pods, "one")


def test_several_datasets_in_one_annotation(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    first, second = bucket.fill("a", [MIB, 5]), bucket.fill("b/c", [2 * MIB])
    pods.create_gated("one", f"{bucket.uri('a')}, {bucket.uri('b/c')}")
    node = released(stack, pods, "one", bucket.uri("a"), first)
    holds(stack, node, bucket.uri("b/c"), second)


def test_twenty_pods_and_one_node_fetch_the_bytes_once(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    content = bucket.fill("gpt", [6 * MIB + 1, 5 * MIB])
    selector = {"nodeSelector": {"kubernetes.io/hostname": stack.nodes[1]}}
    for number in range(20):
        pods.create_gated(f"p{number}", bucket.uri("gpt"), gpus=0, spec=selector)
    for number in range(20):
        assert released(stack, pods, f"p{number}", bucket.uri("gpt"), content) == stack.nodes[1]
    assert stack.s3_proxy.bytes_served(bucket.name) == sum(map(len, content.values()))
