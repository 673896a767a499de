"""The namespace of the seats: who may do what there, and what its own rules do to a seat."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kube_cache.kube import seats
from kube_cache.kube.client import ApiError, KubeClient, pod_path, resource_path
from kube_cache.kube.seats import Created
from tests.kube.fakes import URI
from tools.stack import Stack
from tools.stack import api as tools_api
from tools.stack.control_plane import SEATS_NAMESPACE
from tools.stack.pods import Pods, node
from tools.stack.waiting import true as until

ON_NODE = {"nodeSelector": {"kubernetes.io/hostname": "gpu-1"}}
PATH = resource_path("pods", SEATS_NAMESPACE)


def build(pod: dict[str, Any], name: str = "") -> dict[str, Any]:
    return seats.build_seat(
        pod,
        name=name or f"seat-{uuid.uuid4().hex[:8]}",
        namespace=SEATS_NAMESPACE,
        workflow_id="w",
        prefer_nodes=[],
        exclude_nodes=[],
        image="pause",
    )


@pytest.fixture
def seat(kube_client: KubeClient) -> Iterator[Callable[[dict[str, Any]], Created]]:
    made: list[str] = []

    def create(pod: dict[str, Any]) -> Created:
        wanted = build(pod)
        made.append(wanted["metadata"]["name"])
        return seats.create(kube_client, wanted)

    yield create
    for name in made:
        seats.delete(kube_client, SEATS_NAMESPACE, name)


def test_two_pods_with_one_port_of_the_host_are_not_seated_on_one_node(
    kube: Stack, kube_pods: Pods, seat: Callable[[dict[str, Any]], Created]
) -> None:
    container = {"name": "train", "image": "train", "ports": [{"containerPort": 29500}]}
    spec = {**ON_NODE, "hostNetwork": True, "containers": [container]}
    first, second = (kube_pods.create_gated(name, URI, spec=spec) for name in ("one", "two"))
    bound = seat(first).seat["metadata"]["name"]
    until(lambda: node(kube.api.get(pod_path(SEATS_NAMESPACE, bound))) == "gpu-1", "the first seat is bound")
    refused = seat(second).seat["metadata"]["name"]

    def words() -> str:
        conditions = kube.api.get(pod_path(SEATS_NAMESPACE, refused)).get("status", {}).get("conditions", [])
        return " ".join(condition.get("message", "") for condition in conditions)

    until(lambda: "didn't have free ports" in words(), "the second seat is refused for its port")


def test_nobody_but_the_operator_creates_pods_there(kube: Stack, kube_pods: Pods) -> None:
    wanted = build(kube_pods.create_gated("one", URI))

    def refused() -> bool:
        try:
            kube.api.request("POST", PATH, wanted, dryRun="All")
        except tools_api.ApiError as error:
            return "only Kube-Cache's operator" in str(error)
        return False

    until(refused, "the policy is in effect")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"hostNetwork": True}, "no namespace of the host", id="the host's network"),
        pytest.param({"hostPID": True}, "no namespace of the host", id="the host's processes"),
        pytest.param({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "no volume", id="volume"),
        pytest.param({"securityContext": {}}, "without root", id="root"),
        pytest.param({"command": ["sh"]}, "runs its image as it is", id="command"),
        pytest.param({"privileged": True}, "without root and privileges", id="privileged"),
    ],
)
def test_the_operator_can_create_nothing_there_but_seats(
    kube: Stack, kube_client: KubeClient, kube_pods: Pods, change: dict[str, Any], words: str
) -> None:
    wanted = build(kube_pods.create_gated("one", URI))
    container = wanted["spec"]["containers"][0]
    if "command" in change:
        container |= change
    elif "privileged" in change:
        container["securityContext"] = {"privileged": True}
    else:
        wanted["spec"] |= change

    def refused() -> bool:
        try:
            kube_client.request("POST", PATH, wanted, query={"dryRun": "All"})
        except ApiError as error:
            return words in error.message
        return False

    until(refused, "the policy refuses it")


def test_a_seat_that_admission_made_larger_is_told(
    kube: Stack, kube_pods: Pods, seat: Callable[[dict[str, Any]], Created]
) -> None:
    """A LimitRange, which an admin set for all namespaces."""
    pod = kube_pods.create_gated("one", URI, spec={"containers": [{"name": "train", "image": "train"}]})
    path = f"/api/v1/namespaces/{SEATS_NAMESPACE}/limitranges"
    limits = [{"type": "Container", "defaultRequest": {"cpu": "3"}}]
    body = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "test"}, "spec": {"limits": limits}}
    kube.api.request("POST", path, body)
    try:
        until(lambda: seat(pod).differences == ["cpu 0 became 3"], "the difference is told")
    finally:
        kube.api.delete(f"{path}/test")
        until(lambda: not seat(pod).differences, "the LimitRange is out of effect")
