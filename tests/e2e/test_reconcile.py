"""One bad entity, agent or Pod keeps the reconcile from nobody, and the run says what it left out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from temporalio.client import Client

from kube_cache import names
from kube_cache.contracts.reconcile import ReconcileResult
from kube_cache.kube.pods import receipt_annotations
from tests.e2e.disk import DiskNode
from tests.e2e.promises import MIB, released, temporal
from tools.stack import Stack
from tools.stack.api import ApiError
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true

NOWHERE = "f" * 64


@pytest.fixture
def bad_entity(stack: Stack, disk: DiskNode) -> Iterator[str]:
    """An entity whose workflow task fails each time: nobody can read what it was started with."""
    workflow_id = names.dataset_on_node_id(disk.name, disk.cache_id, NOWHERE)
    words = ("--type", names.DATASET_ON_NODE, "--task-queue", names.OPERATOR_QUEUE, "--input", '{"node": 5}')
    temporal(stack, "workflow", "start", "--workflow-id", workflow_id, *words)
    yield workflow_id
    temporal(stack, "workflow", "terminate", "--workflow-id", workflow_id)


@contextmanager
def receipts_unguarded(stack: Stack) -> Iterator[None]:
    """A cluster without the policy that leaves receipts to the operator."""
    path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
    binding = stack.api.get(f"{path}/kube-cache-receipts")
    stack.api.delete(f"{path}/kube-cache-receipts")
    try:
        yield
    finally:
        binding["metadata"] = {"name": "kube-cache-receipts", "labels": binding["metadata"].get("labels") or {}}
        stack.api.request("POST", path, binding)


def forged(pods: Pods, name: str, node: str, digests: list[str]) -> None:
    """Create a Pod that was never gated, and claims to have been released by us."""
    annotations = {names.DATASET_ANNOTATION: "not, a, uri", **receipt_annotations(node, "disk", digests)}
    container = {"name": "main", "image": "registry.invalid/train:1"}
    meta = {"name": name, "labels": {names.MANAGED_LABEL: "true"}, "annotations": annotations}
    spec = {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}

    def is_taken() -> bool:
        try:
            pods.create(pod)
        except ApiError as error:
            if "kube-cache-receipts" in str(error):
                return False
            raise
        return True

    true(is_taken, "the policy is out of effect")


def test_a_reconcile_does_the_rest_of_its_work_and_says_what_it_left_out(
    stack: Stack, pods: Pods, exempt_pods: Pods, bucket: Bucket, disk: DiskNode, bad_entity: str
) -> None:
    """An entity that answers nobody, an agent that is away, annotations that are garbage, receipts that are forged."""
    content = bucket.fill("gpt", [MIB])
    away = stack.nodes[0]
    pods.create_gated("away", bucket.uri("gpt"), spec={"nodeSelector": {"kubernetes.io/hostname": away}})
    released(stack, pods, "away", bucket.uri("gpt"), content)
    for name in ("gone", "stays"):
        pods.create_gated(name, bucket.uri("gpt"), spec=disk.spec)
        released(stack, pods, name, bucket.uri("gpt"), content)
    gone, stays = (str(pods.get(name)["metadata"]["uid"]) for name in ("gone", "stays"))
    with receipts_unguarded(stack):
        forged(exempt_pods, "garbage", disk.name, ["../../etc/passwd"])
        forged(exempt_pods, "endless", disk.name, ["a" * 64] * 3900)
    stack.agents[away].kill()

    stack.operator.kill()  # nobody hears of the end
    pods.delete("gone")
    pods.wait_gone("gone")
    disk.age_pins()
    stack.operator.start()

    disk.unpinned(gone)
    assert any(owner == f"pod/{stays}" for _, owner in disk.pins())
    result = true(lambda: _last(stack), "a reconcile has completed")
    assert away in result.silent
    assert result.nodes_silent >= 1
    assert result.skipped >= 3
    log = stack.operator.process.output()
    for thing in (bad_entity, "garbage", "its receipt names 3900 snapshots"):
        assert any("left out of the reconcile" in line and thing in line for line in log.splitlines()), thing


def _last(stack: Stack) -> ReconcileResult | None:
    async def last() -> ReconcileResult | None:
        client = await Client.connect(stack.temporal_address, namespace=stack.temporal_namespace)
        query = f"WorkflowType = '{names.RECONCILE}' AND ExecutionStatus = 'Completed'"
        async for run in client.list_workflows(query, limit=1):
            handle: Any = client.get_workflow_handle(run.id, run_id=run.run_id, result_type=ReconcileResult)
            result: ReconcileResult = await handle.result()
            return result if result.silent else None  # one from before the agent was away
        return None

    return asyncio.run(last())
