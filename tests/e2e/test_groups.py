"""Pods of a group are released together, on one snapshot; one that is created again does not wait for them all."""

from __future__ import annotations

from datetime import datetime

from kube_cache import names
from tests.e2e.promises import event_reasons, mounted, released, seats, still_gated, workflow_status
from tools.stack import Stack
from tools.stack import pods as kubernetes
from tools.stack.api import Document
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true

SIZE = 8
TOGETHER_S = 10
"""The releases of a group lie within this time on a busy machine; on a quiet one within a tenth of a second."""


def group(name: str, size: int) -> dict[str, str]:
    return {names.GROUP_ANNOTATION: name, names.GROUP_SIZE_ANNOTATION: str(size)}


def released_at(pod: Document) -> datetime:
    """When our last patch of the Pod's spec and metadata was made, by the API server's record."""
    times = [
        entry["time"]
        for entry in pod["metadata"]["managedFields"]
        if entry["manager"] == names.FIELD_MANAGER and "subresource" not in entry
    ]
    return datetime.fromisoformat(max(times))


def test_a_group_is_released_when_its_last_pod_has_arrived(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    content = bucket.fill("gpt", [1 << 20])
    members = [f"train-{number}" for number in range(SIZE)]
    for name in members[:-1]:
        pods.create_gated(name, bucket.uri("gpt"), annotations=group("train", SIZE))
    waits = pods.wait_reason(members[0], "WaitingForGroup")
    pods.wait(
        members[0],
        lambda pod: f"{SIZE - 1} of {SIZE} ready" in kubernetes.condition(pod).get("message", ""),
        "counts all but the last",
    )
    assert "waiting for" in kubernetes.condition(waits)["message"]
    for name in members[:-1]:
        still_gated(pods, name)
    last = pods.create_gated(members[-1], bucket.uri("gpt"), annotations=group("train", SIZE))
    for name in members:
        released(stack, pods, name, bucket.uri("gpt"), content)
    times = [released_at(pods.get(name)) for name in members]
    assert min(times) >= datetime.fromisoformat(last["metadata"]["creationTimestamp"])
    assert (max(times) - min(times)).total_seconds() <= TOGETHER_S
    assert len({pods.get(name)["metadata"]["annotations"][names.SNAPSHOT_ANNOTATION] for name in members}) == 1
    assert "WaitingForGroup" in event_reasons(pods, members[0])

    # One worker dies and its Job creates another, while the others run.
    pods.delete(members[3])
    pods.wait_gone(members[3])
    members[3] = "train-3-again"
    pods.create_gated(members[3], bucket.uri("gpt"), annotations=group("train", SIZE))
    released(stack, pods, members[3], bucket.uri("gpt"), content)
    group_ended(stack, pods, "train")

    # The Job is run again under the same name, after all have ended: it waits for all of its own.
    for name in members:
        pods.delete(name)
        pods.wait_gone(name)
    pods.create_gated("again-0", bucket.uri("gpt"), annotations=group("train", 2))
    pods.wait_reason("again-0", "WaitingForGroup")
    still_gated(pods, "again-0")
    pods.create_gated("again-1", bucket.uri("gpt"), annotations=group("train", 2))
    for name in ("again-0", "again-1"):
        released(stack, pods, name, bucket.uri("gpt"), content)


def test_of_two_groups_on_the_capacity_for_one_each_is_complete_in_turn(
    stack: Stack, pods: Pods, bucket: Bucket
) -> None:
    content = bucket.fill("gpt", [1 << 20])
    stack.operator.restart(env={"KUBE_CACHE_OPERATOR__GROUP_HOLD_S": "4"})
    nodes = {"key": "kubernetes.io/hostname", "operator": "In", "values": stack.nodes[:2]}
    required = {"nodeSelectorTerms": [{"matchExpressions": [nodes]}]}
    spec = {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}

    def create(name: str) -> None:
        annotations = group(name[0], 2)
        pods.create_gated(name, bucket.uri("gpt"), gpus=stack.gpus, annotations=annotations, spec=spec)

    for name in ("a-0", "b-0"):
        create(name)
        pods.wait_reason(name, "WaitingForGroup")  # each holds one of the two nodes
    for name in ("a-1", "b-1"):
        create(name)

    def complete() -> list[str]:
        return [name for name in "ab" if all(kubernetes.node(pods.get(f"{name}-{number}")) for number in range(2))]

    true(complete, "one group is complete")
    (first,) = complete()
    second = "b" if first == "a" else "a"
    for number in range(2):
        still_gated(pods, f"{second}-{number}")
        released(stack, pods, f"{first}-{number}", bucket.uri("gpt"), content)
    assert all(mounted(stack, node, bucket.uri("gpt")) for node in stack.nodes[:2]), "what was fetched stays"
    for number in range(2):
        pods.delete(f"{first}-{number}")
    for number in range(2):
        released(stack, pods, f"{second}-{number}", bucket.uri("gpt"), content)
    true(lambda: not seats(stack), "no seat is left")
    group_ended(stack, pods, second)


def group_ended(stack: Stack, pods: Pods, name: str) -> None:
    group_id = names.pod_group_id(pods.namespace, name)
    true(lambda: workflow_status(stack, group_id) == "COMPLETED", f"{group_id} has ended")
