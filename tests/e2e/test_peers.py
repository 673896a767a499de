"""Pods that must not, or must, be near each other: all are bound where the scheduler would have them, none is stuck."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.promises import MIB, condition_says, released, released_once, seats, still_gated
from tools.stack import Stack
from tools.stack import pods as kubernetes
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true

HOSTNAME = "kubernetes.io/hostname"
RACK = "peers.example/rack"
SELECTOR = {"matchLabels": {"app": "train"}}


def spread(**fields: Any) -> dict[str, Any]:
    constraint = {"maxSkew": 1, "topologyKey": HOSTNAME, "whenUnsatisfiable": "DoNotSchedule"}
    return {"topologySpreadConstraints": [{**constraint, "labelSelector": SELECTOR, **fields}]}


def required(kind: str, key: str) -> dict[str, Any]:
    terms = [{"topologyKey": key, "labelSelector": SELECTOR}]
    return {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}


def gated(name: str, uri: str, spec: dict[str, Any]) -> dict[str, Any]:
    pod = kubernetes.gated(name, uri, gpus=0, spec=spec)
    return {**pod, "metadata": {**pod["metadata"], "labels": {"app": "train"}}}


def is_pinned(pod: dict[str, Any]) -> bool:
    """Whether the release tied the Pod to the node for which its peers were judged."""
    affinity = pod["spec"]["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return all("metadata.name" in [field["key"] for field in term.get("matchFields", [])] for term in terms)


class Deployment:
    """A Deployment of gated Pods."""

    def __init__(self, stack: Stack, pods: Pods, uri: str, spec: dict[str, Any]) -> None:
        template = gated("any", uri, {"restartPolicy": "Always", **spec})
        meta = {key: template["metadata"][key] for key in ("annotations", "labels")}
        self._stack, self._pods = stack, pods
        self._path = f"/apis/apps/v1/namespaces/{pods.namespace}/deployments"
        self._api = stack.api
        self._api.request(
            "POST",
            self._path,
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "train"},
                "spec": {
                    "replicas": 0,
                    "selector": SELECTOR,
                    "template": {"metadata": meta, "spec": template["spec"]},
                },
            },
        )

    def scale(self, replicas: int) -> None:
        self._api.request(
            "PATCH",
            f"{self._path}/train",
            {"spec": {"replicas": replicas}},
            content_type="application/merge-patch+json",
        )

    def nodes(self, replicas: int) -> Counter[str]:
        """Wait until so many replicas are bound; how many each node has."""
        true(lambda: len(self._replicas()) == replicas, f"{replicas} Pods of the Deployment")
        return Counter(released_once(self._stack, self._pods, pod["metadata"]["name"]) for pod in self._replicas())

    def _replicas(self) -> list[Any]:
        return self._pods.all(labelSelector="app=train")


@pytest.fixture
def warm_node(stack: Stack, pods: Pods, bucket: Bucket) -> str:
    """A node that holds the data, which every seat prefers."""
    content = bucket.fill("gpt", [MIB])
    pods.create_gated("warm", bucket.uri("gpt"), gpus=0)
    return released(stack, pods, "warm", bucket.uri("gpt"), content)


@pytest.mark.usefixtures("warm_node")
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="as users write it"),
        # The scheduler counts other nodes even for a Pod that is pinned to one: a wrong pin is never schedulable.
        pytest.param({"nodeAffinityPolicy": "Ignore"}, id="all nodes counted"),
        # It counts fewer domains than these for a Pod that is pinned, and would refuse the node of the fourth.
        pytest.param({"minDomains": 3}, id="minDomains"),
    ],
)
def test_replicas_that_must_be_spread_do_not_crowd_onto_the_warm_node(
    stack: Stack, pods: Pods, bucket: Bucket, fields: dict[str, Any]
) -> None:
    deployment = Deployment(stack, pods, bucket.uri("gpt"), spread(**fields))
    deployment.scale(1)
    assert deployment.nodes(1).total() == 1
    deployment.scale(3)
    assert deployment.nodes(3) == dict.fromkeys(stack.nodes, 1)
    deployment.scale(6)
    assert deployment.nodes(6) == dict.fromkeys(stack.nodes, 2)
    true(lambda: not seats(stack), "no seat is left")


@pytest.mark.usefixtures("warm_node")
def test_pods_that_repel_each_other_and_are_gated_at_once_get_a_node_each(
    stack: Stack, pods: Pods, bucket: Bucket
) -> None:
    for number in range(3):
        pods.create(gated(f"worker-{number}", bucket.uri("gpt"), required("podAntiAffinity", HOSTNAME)))
    nodes = {released_once(stack, pods, f"worker-{number}") for number in range(3)}
    assert nodes == set(stack.nodes)
    assert all(is_pinned(pods.get(f"worker-{number}")) for number in range(3))
    pods.create(gated("worker-3", bucket.uri("gpt"), required("podAntiAffinity", HOSTNAME)))
    true(lambda: "anti-affinity" in kubernetes.condition(pods.get("worker-3")).get("message", ""), "says who is there")
    still_gated(pods, "worker-3")


@pytest.fixture
def racks(stack: Stack) -> Iterator[dict[str, str]]:
    """Node -> rack: the first node has one of its own."""
    racks = {node: "a" if node == stack.nodes[0] else "b" for node in stack.nodes}
    for node, rack in racks.items():
        label(stack, node, rack)
    yield racks
    for node in racks:
        label(stack, node, None)


def label(stack: Stack, node: str, rack: str | None) -> None:
    body = {"metadata": {"labels": {RACK: rack}}}
    stack.api.request("PATCH", f"/api/v1/nodes/{node}", body, content_type="application/merge-patch+json")


@pytest.mark.usefixtures("warm_node")
def test_pods_that_must_share_a_rack_and_are_gated_at_once_share_one(
    stack: Stack, pods: Pods, bucket: Bucket, racks: dict[str, str]
) -> None:
    """The first of them has nobody to follow, and its seat must be placed all the same."""
    for number in range(4):
        pods.create(gated(f"worker-{number}", bucket.uri("gpt"), required("podAffinity", RACK)))
    assert len({racks[released_once(stack, pods, f"worker-{number}")] for number in range(4)}) == 1


def test_a_pod_whose_friend_is_nowhere_says_so_and_follows_when_the_friend_comes(
    stack: Stack, pods: Pods, bucket: Bucket
) -> None:
    content = bucket.fill("gpt", [MIB])
    pod = gated("follower", bucket.uri("gpt"), required("podAffinity", HOSTNAME))
    pods.create({**pod, "metadata": {**pod["metadata"], "labels": {"app": "other"}}})
    condition_says(pods, "follower", "WaitingForCapacity", "affinity")
    still_gated(pods, "follower")
    friend = {key: value for key, value in gated("friend", "", {})["spec"].items() if key != "schedulingGates"}
    pods.create(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "friend", "labels": {"app": "train"}},
            "spec": {**friend, "volumes": [], "containers": [kubernetes.CONTAINER]},
        }
    )
    node = kubernetes.node(pods.wait_bound("friend"))
    pods.annotate("follower", action="retry")
    # A look that met a cache without the friend is followed by one a minute later.
    assert released(stack, pods, "follower", bucket.uri("gpt"), content, timeout_s=150) == node
