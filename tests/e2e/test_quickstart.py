"""The smallest Pod of the quickstart, as it is written there, is released where its data is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kube_cache import names
from tests.e2e.promises import MIB, released
from tools.stack import Stack
from tools.stack import pods as kubernetes
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true as until

PAGE = Path(__file__).parents[2] / "docs" / "quickstart.md"
SIZES = {"config.json": 612, "model-00001.safetensors": 3 * MIB, "model-00002.safetensors": MIB + 1}


def smallest_pod() -> dict[str, Any]:
    block = re.search(r"^```yaml\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert block, f"{PAGE} shows no Pod"
    return dict(yaml.safe_load(block[1]))


@pytest.fixture(scope="module")
def plain_node(stack: Stack) -> Iterator[str]:
    """A node without the taint of GPU nodes, which the Pod does not tolerate, as kind's only node is one."""
    node = stack.add_node()
    stack.api.request(
        "PATCH", f"/api/v1/nodes/{node}", {"spec": {"taints": None}}, content_type="application/merge-patch+json"
    )
    yield node
    stack.remove_node(node)


def await_policies(pods: Pods) -> None:
    """Wait until the policies are in effect, which is some seconds after the cluster is up."""
    path = f"/api/v1/namespaces/{pods.namespace}/pods"

    def mounts() -> object:
        made = pods.api.request("POST", path, smallest_pod(), dryRun="All")
        return made["spec"]["containers"][0].get("volumeMounts")

    until(mounts, "the mutating policy is in effect")


@pytest.fixture
def models(stack: Stack) -> Iterator[Bucket]:
    bucket = Bucket(stack.s3, "models")
    yield bucket
    stack.repair()
    bucket.delete()


def test_the_smallest_pod_is_what_was_asked_for() -> None:
    pod = smallest_pod()
    assert pod["metadata"] == {
        "name": "gpu-training-job",
        "annotations": {"x-openai/required-dataset": "s3://models/gpt-4-weights"},
    }
    (container,) = pod["spec"].pop("containers")
    assert pod["spec"] == {"schedulingGates": [{"name": names.GATE}]}
    assert container.keys() == {"name", "image", "command"}
    assert container["image"] == "nvidia/cuda:12.0-base"


def test_the_smallest_pod_is_released_and_given_its_mount_by_the_policies(
    stack: Stack, pods: Pods, models: Bucket, plain_node: str
) -> None:
    content = models.fill("gpt-4-weights", SIZES)
    await_policies(pods)
    made = pods.create(smallest_pod())
    assert kubernetes.gates(made) == [names.GATE]
    assert released(stack, pods, "gpu-training-job", models.uri("gpt-4-weights"), content) == plain_node
    (container,) = pods.get("gpu-training-job")["spec"]["containers"]
    variables = {each["name"]: each.get("value") for each in container["env"]}
    assert {each["mountPath"] for each in container["volumeMounts"]} >= {variables["KUBE_CACHE_DATASET"]}


def test_the_smallest_pod_is_released_as_it_is_where_there_are_no_policies(
    stack: Stack, exempt_pods: Pods, models: Bucket, plain_node: str
) -> None:
    content = models.fill("gpt-4-weights", SIZES)
    made = exempt_pods.create(smallest_pod())
    assert released(stack, exempt_pods, "gpu-training-job", models.uri("gpt-4-weights"), content) == plain_node
    container = exempt_pods.get("gpu-training-job")["spec"]["containers"]
    assert container == made["spec"]["containers"], "no policy added anything"
