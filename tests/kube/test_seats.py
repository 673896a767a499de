"""The seat against the real scheduler: it goes where the Pod could go, prefers the bytes, and yields to real Pods."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from kube_cache import names
from kube_cache.kube import seats
from kube_cache.kube.client import KubeClient, pod_path
from kube_cache.kube.quantities import effective_requests
from tests.kube.fakes import URI
from tools.stack import Stack
from tools.stack.pods import Pods
from tools.stack.waiting import true as until

SYSTEM = "kube-cache-system"


@pytest.fixture
def take(kube_client: KubeClient, kube: Stack) -> Iterator[Any]:
    taken: list[str] = []

    def create(pod: dict[str, Any], *, prefer: list[str] | None = None, exclude: list[str] | None = None) -> str:
        name = f"seat-{uuid.uuid4().hex[:8]}"
        taken.append(name)
        seat = seats.build_seat(
            pod, name=name, namespace=SYSTEM, workflow_id="warm/a/b/c", prefer_nodes=prefer or [],
            exclude_nodes=exclude or [], image="pause",
        )  # fmt: skip
        seats.create(kube_client, seat)
        return name

    yield create
    for name in taken:
        seats.delete(kube_client, SYSTEM, name)


def bound(kube: Stack, name: str) -> str:
    return str(until(lambda: kube.api.get(pod_path(SYSTEM, name))["spec"].get("nodeName"), f"{name} is bound"))


@pytest.mark.parametrize("node", ["gpu-1", "gpu-2", "gpu-3"])
def test_a_seat_is_bound_where_the_bytes_are(kube: Stack, kube_pods: Pods, take: Any, node: str) -> None:
    assert bound(kube, take(kube_pods.create_gated("one", URI), prefer=[node])) == node


def test_a_seat_stays_away_from_excluded_nodes(kube: Stack, kube_pods: Pods, take: Any) -> None:
    pod = kube_pods.create_gated("one", URI)
    assert bound(kube, take(pod, prefer=["gpu-1"], exclude=["gpu-1", "gpu-3"])) == "gpu-2"


def test_a_seat_obeys_the_pods_own_selector_and_is_excluded_beside_it(kube: Stack, kube_pods: Pods, take: Any) -> None:
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["gpu-2", "gpu-3"]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    pod = kube_pods.create_gated("one", URI, spec={"affinity": {"nodeAffinity": required}})
    assert bound(kube, take(pod, prefer=["gpu-1"], exclude=["gpu-2"])) == "gpu-3"


def test_a_seat_yields_to_a_real_pod(kube: Stack, kube_pods: Pods, take: Any) -> None:
    seat = take(kube_pods.create_gated("one", URI, gpus=8))
    node = bound(kube, seat)
    kube_pods.create_gated("real", URI, gpus=8, gates=[], spec={"nodeSelector": {"kubernetes.io/hostname": node}})
    until(lambda: kube_pods.get("real")["spec"].get("nodeName") == node, "the real Pod has the node")
    until(lambda: kube.api.find(pod_path(SYSTEM, seat)) is None, "the seat was preempted")


def test_creating_a_seat_twice_is_creating_it_once(
    kube_client: KubeClient, kube_pods: Pods, kube: Stack, take: Any
) -> None:
    pod = kube_pods.create_gated("one", URI)
    name = take(pod)
    node = bound(kube, name)
    same = seats.build_seat(
        pod, name=name, namespace=SYSTEM, workflow_id="w", prefer_nodes=["gpu-1"], exclude_nodes=[], image="pause"
    )
    again = seats.create(kube_client, same)
    assert again["spec"]["nodeName"] == node
    seats.delete(kube_client, SYSTEM, name)
    seats.delete(kube_client, SYSTEM, name)


def test_a_seat_tells_whose_it_is_and_touches_no_secrets(kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI)
    seat = seats.build_seat(
        pod, name="s", namespace=SYSTEM, workflow_id="warm/a/b/c", prefer_nodes=[], exclude_nodes=[], image="pause"
    )
    assert seat["metadata"]["annotations"][names.SEAT_WORKFLOW_ANNOTATION] == "warm/a/b/c"
    assert seat["spec"]["priorityClassName"] == names.SEAT_PRIORITY_CLASS
    assert seat["spec"]["automountServiceAccountToken"] is False
    assert not seat["spec"].get("volumes")


@pytest.mark.parametrize(
    ("spec", "asked"),
    [
        pytest.param(
            {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "8"}}}]}, {"nvidia.com/gpu": "8"}, id="limit"
        ),
        pytest.param(
            {
                "containers": [{"resources": {"requests": {"cpu": "250m"}}}, {"resources": {"requests": {"cpu": "1"}}}],
                "initContainers": [{"resources": {"requests": {"cpu": "2"}}}],
            },
            {"cpu": "2"},
            id="init is the peak",
        ),
        pytest.param(
            {
                "containers": [{"resources": {"requests": {"memory": "1Gi"}}}],
                "initContainers": [{"restartPolicy": "Always", "resources": {"requests": {"memory": "512Mi"}}}],
            },
            {"memory": str(1536 << 20)},
            id="a sidecar adds up",
        ),
        pytest.param({"containers": [{}], "resources": {"requests": {"cpu": "3"}}}, {"cpu": "3"}, id="of the Pod"),
    ],
)
def test_the_seat_asks_for_what_the_scheduler_would_count(spec: dict[str, Any], asked: dict[str, str]) -> None:
    assert effective_requests(spec) == asked
