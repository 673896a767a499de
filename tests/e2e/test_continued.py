"""`DatasetOnNode` continues as new in the middle of a download: every Pod is answered, no object is fetched twice."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from kube_cache import names
from tests.e2e.promises import MIB, released, temporal
from tools.stack import Stack
from tools.stack import temporal as server
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true

pytestmark = pytest.mark.stack
EVENTS = 60
IN_FLIGHT = 8 * MIB
"""Objects of 1 MiB on eight connections: what a stop can throw away."""


@pytest.fixture
def hasty() -> Iterator[Stack]:
    """A Temporal that suggests a new run after so many events instead of 4,096."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(server.DYNAMIC_CONFIG, "limit.historyCount.suggestContinueAsNew", EVENTS)
        with Stack(node_count=1, count_s3=True) as stack:
            yield stack


def test_a_download_that_outlives_its_entitys_history(hasty: Stack) -> None:
    bucket = Bucket(hasty.s3, "models")
    content = bucket.fill("gpt", [MIB] * 24)
    hasty.cluster.create_namespace("crowd")
    pods = Pods(hasty.api, "crowd")
    with hasty.s3_proxy.limited(4 * MIB, at_most=20 * MIB):
        pods.create_gated("first", bucket.uri("gpt"), gpus=0)
        true(lambda: hasty.s3_proxy.bytes_served("models") > 4 * MIB, "the download runs")
        crowd = [f"p{number}" for number in range(30)]
        for name in crowd:
            pods.create_gated(name, bucket.uri("gpt"), gpus=0)
        true(lambda: _runs(hasty) > 1, "its entity was continued")
    for name in ["first", *crowd]:
        released(hasty, pods, name, bucket.uri("gpt"), content)
    size = sum(map(len, content.values()))
    served = hasty.s3_proxy.bytes_served("models")
    runs = _runs(hasty)
    print(f"{runs} runs, {served - size} of {size} bytes fetched twice")
    assert size <= served <= size + (runs - 1) * IN_FLIGHT


def _runs(stack: Stack) -> int:
    query = f"WorkflowType = '{names.DATASET_ON_NODE}'"
    return len(json.loads(temporal(stack, "workflow", "list", "--query", query, "--output", "json")))
