"""Pods with datasets go to nodes with an agent only, where the operator knows these by their labels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import tools.stack.pods
from tools.stack import Stack
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods

LABEL = "example.com/cache"


@pytest.fixture
def labelled(stack: Stack) -> Iterator[str]:
    """Name of the only node with the label."""
    node = stack.nodes[-1]
    label(stack, node, "nvme")
    yield node
    label(stack, node, None)


def label(stack: Stack, node: str, value: str | None) -> None:
    change = {"metadata": {"labels": {LABEL: value}}}
    stack.api.request("PATCH", f"/api/v1/nodes/{node}", change, content_type="application/merge-patch+json")


def test_a_pod_is_placed_on_a_node_with_the_label_of_the_agents_wherever_the_data_is(
    stack: Stack, pods: Pods, bucket: Bucket, labelled: str
) -> None:
    bucket.fill("weights", [100_000])
    other = stack.nodes[0]
    pods.create_gated("first", bucket.uri("weights"), spec={"nodeSelector": {"kubernetes.io/hostname": other}})
    assert tools.stack.pods.node(pods.wait_bound("first")) == other
    stack.operator.restart(env={"KUBE_CACHE_OPERATOR__NODE_SELECTOR": f"{LABEL}=nvme"})
    pods.create_gated("second", bucket.uri("weights"))
    assert tools.stack.pods.node(pods.wait_bound("second")) == labelled
