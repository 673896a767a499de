"""A Pod goes to the node that holds its data while there is room, and elsewhere at once when there is none."""

from __future__ import annotations

import json

from kube_cache import names
from tests.e2e.promises import MIB, event_reasons, released, seats, temporal
from tools.stack import Stack
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true


def known_holders(stack: Stack, uri: str) -> int:
    query = f"WorkflowType='{names.DATASET_ON_NODE}' AND ExecutionStatus='Running' AND KcPhase='Ready'"
    query += f" AND KcDataset='{uri}'"
    answer = temporal(stack, "workflow", "count", "--query", query, "--output", "json")
    return int(json.loads(answer).get("count", 0))


def test_a_pod_goes_where_its_data_is_and_elsewhere_when_that_node_is_full(
    stack: Stack, pods: Pods, bucket: Bucket
) -> None:
    content, uri = bucket.fill("gpt", [3 * MIB]), bucket.uri("gpt")
    pods.create_gated("first", uri, gpus=8)
    warm = released(stack, pods, "first", uri, content)
    true(lambda: known_holders(stack, uri) == 1, "the inventory knows the node")
    pods.create_gated("second", uri, gpus=8)
    assert released(stack, pods, "second", uri, content) != warm
    assert not {"NoNodeFits", "SeatLost"} & set(event_reasons(pods, "second"))
    pods.delete("first")
    pods.wait_gone("first")
    pods.create_gated("third", uri, gpus=8)
    assert released(stack, pods, "third", uri, content) == warm
    true(lambda: not seats(stack), "no seat is left")
