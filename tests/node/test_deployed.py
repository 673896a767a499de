"""All of it on a real kubelet: chart, image, and a user's Pod whose container reads what was put in the bucket."""

from __future__ import annotations

from typing import Any

from kube_cache import names
from tests.node.conftest import CUDA
from tests.node.deployed import Deployment
from tests.node.workloads import check_sums, ended
from tools.stack import pods as kubernetes
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods

MIB = 1 << 20


def smallest(datasets: str, script: str, gpus: int = 0) -> dict[str, Any]:
    """The Pod of the README's first example, to the letter, but for what its shell does."""
    limits = {"resources": {"limits": {"nvidia.com/gpu": gpus}}} if gpus else {}
    container = {"name": "train", "image": CUDA, "command": ["/bin/sh", "-ec", script], **limits}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "gpu-training-job", "annotations": {names.DATASET_ANNOTATION: datasets}},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }


def test_the_smallest_pod_reads_every_byte_that_was_put_there(deployed: Deployment, pods: Pods, bucket: Bucket) -> None:
    content = bucket.fill("gpt-4-weights", [40 * MIB, 3, 0, 5 * MIB])
    script = check_sums("$KUBE_CACHE_DATASET", content)
    made = pods.create(smallest(bucket.uri("gpt-4-weights"), script, gpus=1))
    assert kubernetes.gates(made) == [names.GATE], "the admission policy gates it"
    phase = ended(pods, "gpu-training-job")
    node, logs = deployed.node, deployed.node.logs(pods.namespace, "gpu-training-job", "train")
    assert phase == "Succeeded", logs
    assert logs.count(": OK") == len(content)
    assert kubernetes.node(pods.get("gpu-training-job")) == node.name
    assert deployed.s3.bytes_served(bucket.name) == sum(map(len, content.values()))
