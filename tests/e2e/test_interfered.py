"""Nothing strands: whatever a person does to workflows in Temporal, each Pod is released once, or says why not."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest

from kube_cache import names
from tests.e2e.promises import MIB, released, seats, still_gated, temporal, workflow_id, workflow_started
from tools.stack import Stack
from tools.stack import pods as kubernetes
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true

SEED = 20261126
WORKFLOWS = int(os.environ.get("KUBE_CACHE_TEST_WORKFLOWS", "12"))
"""50 in `make test-long`."""
BATCH = 12
"""Pods that are there at once: more would only wait for the two cores of a test machine."""
ACTS = ("terminate", "cancel", "reset")


def terminate(stack: Stack, workflow: str) -> None:
    temporal(stack, "workflow", "terminate", "--workflow-id", workflow, "--reason", "an experiment")


def cancel(stack: Stack, workflow: str) -> None:
    temporal(stack, "workflow", "cancel", "--workflow-id", workflow)


def reset(stack: Stack, workflow: str) -> None:
    words = ("--type", "FirstWorkflowTask", "--reason", "an experiment")
    temporal(stack, "workflow", "reset", "--workflow-id", workflow, *words)


def is_open(stack: Stack, pod: Mapping[str, Any]) -> bool:
    query = f"WorkflowId = '{workflow_id(pod)}' AND ExecutionStatus = 'Running'"
    return workflow_id(pod) in temporal(stack, "workflow", "list", "--query", query)


def test_workflows_terminated_cancelled_or_reset_at_random_moments(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    """A Pod whose workflow was cancelled says so and stays gated until its owner asks for a retry."""
    chance = random.Random(SEED)
    content = {k: bucket.fill(f"set-{k}", [2 * MIB, MIB + k], seed=k) for k in range(5)}
    outcomes: dict[str, int] = {}
    for first in range(0, WORKFLOWS, BATCH):
        batch = range(first, min(first + BATCH, WORKFLOWS))
        made = {k: pods.create_gated(f"pod-{k}", bucket.uri(f"set-{k % 5}"), gpus=0) for k in batch}
        for k in chance.sample(list(batch), len(batch)):
            # Not a wait for a condition but the experiment itself: the moment must not depend on the product.
            time.sleep(chance.uniform(0, 0.3))
            act = min(ACTS, key=lambda act: outcomes.get(act, 0))  # so that each occurs, however late the moments are
            try:
                {"terminate": terminate, "cancel": cancel, "reset": reset}[act](stack, workflow_id(made[k]))
                outcomes[act] = outcomes.get(act, 0) + 1
            except subprocess.CalledProcessError:  # it was not started yet, or is over: as random as the moment
                outcomes["too early or late"] = outcomes.get("too early or late", 0) + 1
        for k in batch:
            _bound_or_cancelled(pods, f"pod-{k}")
            released(stack, pods, f"pod-{k}", bucket.uri(f"set-{k % 5}"), content[k % 5])
    print(outcomes)
    assert {act for act in ACTS if outcomes.get(act)} == set(ACTS), outcomes
    true(lambda: not seats(stack), "no seat is left")


def _bound_or_cancelled(pods: Pods, name: str) -> None:
    """Wait until the Pod is bound, or says that it was cancelled and what makes it go; then do that."""

    def settled(pod: Mapping[str, Any]) -> bool:
        return bool(kubernetes.node(dict(pod))) or kubernetes.condition(dict(pod)).get("reason") == "Cancelled"

    pod = pods.wait(name, settled, "is bound, or says that it was cancelled")
    if not kubernetes.node(pod):
        assert "retry" in kubernetes.condition(pod)["message"]
        assert names.GATE in kubernetes.gates(pod)
        pods.annotate(name, action="retry")


def _resolving(stack: Stack, bucket: Bucket) -> Iterator[None]:
    stack.s3.stop()
    yield
    stack.s3.start()


def _awaiting(stack: Stack, bucket: Bucket) -> Iterator[None]:
    stack.s3.revoke(bucket.name)
    yield
    stack.s3.grant(bucket.name)


def _warming(stack: Stack, bucket: Bucket) -> Iterator[None]:
    assert stack.s3_proxy is not None
    with stack.s3_proxy.limited(MIB // 64, at_most=MIB // 2):
        yield


def _placing(stack: Stack, bucket: Bucket) -> Iterator[None]:
    cordon(stack, cordoned=True)
    yield
    cordon(stack, cordoned=False)


def cordon(stack: Stack, *, cordoned: bool) -> None:
    for node in stack.nodes:
        patch = {"spec": {"unschedulable": cordoned}}
        stack.api.request("PATCH", f"/api/v1/nodes/{node}", patch, content_type="application/merge-patch+json")


STATES: dict[str, Callable[[Stack, Bucket], Iterator[None]]] = {
    "Resolving": _resolving,
    "AwaitingOperator": _awaiting,
    "WaitingForCapacity": _placing,
    "Warming": _warming,
}


@contextmanager
def _kept_in(state: str, stack: Stack, bucket: Bucket) -> Iterator[None]:
    if state in STATES:
        with contextmanager(STATES[state])(stack, bucket):
            yield
    else:
        with nullcontext():
            yield


def _reach(state: str, stack: Stack, pods: Pods, bucket: Bucket) -> dict[str, Any]:
    """Create the Pod and wait until its workflow is in the state."""
    gates = (names.GATE, "example.com/queue") if state == "WaitingForGates" else (names.GATE,)
    annotations = {f"{names.DOMAIN}/action": "pause"} if state == "Paused" else {}
    made = pods.create_gated("one", bucket.uri("gpt"), gpus=0, gates=gates, annotations=annotations)
    if state == "Resolving":
        true(lambda: workflow_started(stack, made), "its workflow has begun")
    else:
        pods.wait_reason("one", state)
    return made


@pytest.mark.parametrize("act", [terminate, cancel], ids=lambda act: act.__name__)
@pytest.mark.parametrize(
    "state", ["Resolving", "WaitingForGates", "WaitingForCapacity", "Warming", "AwaitingOperator", "Paused"]
)
def test_a_workflow_ended_by_a_person_in_each_state(
    stack: Stack, pods: Pods, bucket: Bucket, state: str, act: Callable[[Stack, str], None]
) -> None:
    """A terminated one is started again within a minute; a cancelled one stays open and waits for `retry`."""
    content = bucket.fill("gpt", [2 * MIB])
    with _kept_in(state, stack, bucket):
        made = _reach(state, stack, pods, bucket)
        act(stack, workflow_id(made))
        if act is cancel:
            pods.wait_reason("one", "Cancelled")
            assert is_open(stack, made)
        else:
            true(lambda: is_open(stack, made), "the Pod has an open workflow again")
        still_gated(pods, "one")
    if state == "WaitingForGates":
        pods.remove_gate("one", "example.com/queue")
    if state == "Paused":
        pods.annotate("one", action="resume")
    if act is cancel or state == "AwaitingOperator":
        pods.annotate("one", action="retry")
    released(stack, pods, "one", bucket.uri("gpt"), content)
    true(lambda: workflow_id(made) not in str(seats(stack)), "no seat is left")
