"""A Pod that is deleted takes everything with it: workflow, seat, download, litter."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest

from kube_cache import names
from tests.e2e.promises import MIB, seats, workflow_ended, workflow_id, workflow_started
from tools.stack import Stack
from tools.stack import pods as kubernetes
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true


def resolving(stack: Stack, pods: Pods) -> bool:
    return workflow_started(stack, pods.get("one"))


def warming(stack: Stack, pods: Pods) -> bool:
    return kubernetes.condition(pods.get("one")).get("reason") == "Warming"


def releasing(stack: Stack, pods: Pods) -> bool:
    return not kubernetes.gates(pods.get("one"))


@pytest.mark.parametrize("when", [resolving, warming, releasing], ids=lambda when: when.__name__)
def test_a_deleted_pod(stack: Stack, pods: Pods, bucket: Bucket, when: Callable[[Stack, Pods], bool]) -> None:
    bucket.fill("gpt", [24 * MIB])
    with stack.s3_proxy.limited(16 * MIB, at_most=inf if when is releasing else 16 * MIB):
        made = pods.create_gated("one", bucket.uri("gpt"))
        true(lambda: when(stack, pods), f"it is {when.__name__}")
        pods.delete("one")
        pods.wait_gone("one")
        workflow_ended(stack, made)
    true(lambda: workflow_id(made) not in str(seats(stack)), "the seat is gone")
    true(lambda: not _fetching(stack), "nothing is being fetched any more")
    for node in stack.nodes:
        litter = {path.suffix for path in (stack.cache_root(node) / "incoming").iterdir()}
        assert litter <= {".part", ".journal", ".lock"}


def _fetching(stack: Stack) -> bool:
    from tests.e2e.promises import temporal

    query = f"WorkflowType = '{names.DATASET_ON_NODE}' AND KcPhase = 'Warming' AND ExecutionStatus = 'Running'"
    return names.DATASET_ON_NODE in temporal(stack, "workflow", "list", "--query", query)
