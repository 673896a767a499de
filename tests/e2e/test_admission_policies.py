"""The annotation alone is enough: admission writes the rest, and what is written by hand works without admission."""

from __future__ import annotations

from typing import Any

from kube_cache import names
from kube_cache.kube.mounts import DEFAULT_ROOT, Verdict, judge
from tests.e2e.promises import MIB, link_of, released, same_bytes
from tools.stack import Stack, nodes
from tools.stack import pods as kubernetes
from tools.stack.buckets import Bucket
from tools.stack.pods import CONTAINER, Pods
from tools.stack.waiting import true as until


def annotated(dataset: str) -> dict[str, Any]:
    """Metadata and spec of a Pod as a user writes it who knows of the annotation and of nothing else."""
    container = {**CONTAINER, "resources": {"limits": {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": "1"}}}
    spec = {"tolerations": [nodes.TOLERATION], "terminationGracePeriodSeconds": 0, "containers": [container]}
    return {"metadata": {"annotations": {names.DATASET_ANNOTATION: dataset}}, "spec": spec}


def admit(pods: Pods, dataset: str) -> None:
    """Wait until the policies are in effect in the namespace."""
    probe = {"apiVersion": "v1", "kind": "Pod", **annotated(dataset)}
    probe["metadata"]["name"] = "probe"

    def gates() -> list[str]:
        path = f"/api/v1/namespaces/{pods.namespace}/pods"
        return kubernetes.gates(pods.api.request("POST", path, probe, dryRun="All"))

    until(lambda: gates() == [names.GATE], "the mutating policy is in effect")


def shows_its_snapshots(stack: Stack, pod: dict[str, Any], *contents: dict[str, bytes]) -> None:
    """Check that each container finds each dataset where its variables say."""
    node = kubernetes.node(pod)
    assert judge(pod, DEFAULT_ROOT, pod["metadata"]["annotations"][names.DATASET_ANNOTATION]) == Verdict()
    for container in pod["spec"]["containers"]:
        values = {item["name"]: item.get("value") for item in container["env"]}
        mounts = {item["mountPath"]: item for item in container["volumeMounts"]}
        for number, content in enumerate(contents):
            mount = mounts[values[f"KUBE_CACHE_DATASET_{number}"]]
            assert mount["subPathExpr"] == f"pods/$(POD_UID)/{number}"
            same_bytes(link_of(stack, node, pod, number), content)


def test_a_pod_with_the_annotation_alone_is_gated_warmed_and_released_with_its_mount(
    stack: Stack, pods: Pods, bucket: Bucket
) -> None:
    first, second = bucket.fill("a", [MIB, 5]), bucket.fill("b", [7])
    both = f"{bucket.uri('a')},{bucket.uri('b')}"
    admit(pods, both)
    item = {"apiVersion": "v1", "kind": "Pod", **annotated(both)}
    item["metadata"]["name"] = "one"
    made = pods.create(item)
    assert kubernetes.gates(made) == [names.GATE]
    released(stack, pods, "one", bucket.uri("a"), first)
    shows_its_snapshots(stack, pods.get("one"), first, second)


def test_the_replicas_of_a_deployment_with_the_annotation_alone_all_get_their_data(
    stack: Stack, pods: Pods, bucket: Bucket
) -> None:
    content = bucket.fill("gpt", [MIB])
    admit(pods, bucket.uri("gpt"))
    template = annotated(bucket.uri("gpt"))
    template["metadata"]["labels"] = {"app": "gpt"}
    stack.api.create(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "gpt", "namespace": pods.namespace},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "gpt"}}, "template": template},
        }
    )

    def bound() -> list[Any]:
        found = [pod for pod in pods.all(labelSelector="app=gpt") if kubernetes.node(pod)]
        return found if len(found) == 3 else []

    replicas = until(bound, "three replicas are bound")
    for pod in replicas:
        assert pod["metadata"]["annotations"][names.NODE_ANNOTATION] == kubernetes.node(pod)
        shows_its_snapshots(stack, pod, content)


def test_without_admission_a_pod_written_by_hand_is_served_the_same(
    stack: Stack, exempt_pods: Pods, bucket: Bucket
) -> None:
    content = bucket.fill("gpt", [MIB])
    made = exempt_pods.create_gated("one", bucket.uri("gpt"))
    released(stack, exempt_pods, "one", bucket.uri("gpt"), content)
    assert exempt_pods.get("one")["spec"]["containers"] == made["spec"]["containers"]
