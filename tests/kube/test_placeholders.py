"""Placeholder Pods against a real API server and scheduler, with the operator's own rights: one set, and its end."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from activities.cluster.forecast.place_placeholders import PlacePlaceholders
from kube_cache import names
from kube_cache.contracts.forecast import AheadWanted
from kube_cache.kube import placeholders
from kube_cache.kube.client import ApiError, KubeClient, pod_path, resource_path
from kube_cache.kube.nodes import NodeFacts, node_facts
from kube_cache.kube.placeholder_terms import parse_tolerations
from kube_cache.kube.placeholders import Asked
from tools.stack import Stack
from tools.stack.control_plane import SEATS_NAMESPACE
from tools.stack.pods import Pods
from tools.stack.waiting import true as until
from watcher.placeholders import PlaceholderSweep

PATH = resource_path("pods", SEATS_NAMESPACE)


class Placed:
    """The activity, with what it knows of the cluster."""

    def __init__(self, kube: Stack, client: KubeClient) -> None:
        self.kube = kube
        self.uri = f"s3://models/{uuid.uuid4().hex[:8]}"
        self.used: dict[str, set[str]] = {}
        self.nodes = [node_facts(kube.api.get(f"/api/v1/nodes/{name}")) for name in kube.nodes]
        asked = Asked(
            {"nvidia.com/gpu": "8"}, parse_tolerations("nvidia.com/gpu"), {"nvidia.com/gpu.present": "true"}, "pause"
        )
        self.activity = PlacePlaceholders(
            client,
            asked,
            self.get_nodes,
            lambda: self.used,
            lambda: True,
            namespace=SEATS_NAMESPACE,
            max_placeholders=4,
        )

    def get_nodes(self) -> list[NodeFacts]:
        return self.nodes

    def want(self, copies: int, *, lives_s: int = 3600, renew_s: float = 60) -> dict[str, dict[str, Any]]:
        """Have the activity run; the placeholders by name."""
        self.activity.place([AheadWanted(self.uri, copies, lives_s)] if copies else [], renew_s)
        return self.all()

    def all(self) -> dict[str, dict[str, Any]]:
        items = self.kube.api.get(PATH, labelSelector=names.AHEAD_LABEL)["items"]
        return {pod["metadata"]["name"]: pod for pod in items}


@pytest.fixture
def placed(kube: Stack, kube_client: KubeClient) -> Iterator[Placed]:
    made = Placed(kube, kube_client)
    # The policy of this version may take a moment to be in effect.
    yield made
    placeholders.delete_all(kube_client, SEATS_NAMESPACE)
    assert made.all() == {}


def uids(pods: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: pod["metadata"]["uid"] for name, pod in pods.items()}


def unschedulable(placed: Placed, name: str) -> bool:
    conditions = placed.all()[name].get("status", {}).get("conditions", [])
    return any(each["type"] == "PodScheduled" and each.get("reason") == "Unschedulable" for each in conditions)


def test_one_placeholder_waits_for_each_copy_that_has_no_node(placed: Placed) -> None:
    made = placed.want(5)
    assert set(made) == {placeholders.name_of(placed.uri, 0), placeholders.name_of(placed.uri, 1)}
    for name, pod in made.items():
        until(lambda name=name: unschedulable(placed, name), f"{name} is demand for an autoscaler")
        spec = pod["spec"]
        assert (spec["priority"], spec["preemptionPolicy"]) == (-10, "Never")
        assert (spec["activeDeadlineSeconds"], spec["terminationGracePeriodSeconds"]) == (3600, 0)
        assert names.SEAT_LABEL not in pod["metadata"]["labels"], "it is no seat of a Pod"
    assert uids(placed.want(5)) == uids(made), "twice is once"
    assert len(placed.want(99)) == 4, "the budget"
    assert len(placed.want(4)) == 1
    assert placed.want(0) == {}


def test_one_that_stands_on_a_node_is_kept_and_a_node_without_it_counts_as_room(kube: Stack, placed: Placed) -> None:
    name = next(iter(placed.want(4)))
    node = kube.add_node(with_agent=False)
    try:
        until(lambda: placed.all()[name]["spec"].get("nodeName") == node, "it is bound to the node that came")
        placed.nodes.append(node_facts(kube.api.get(f"/api/v1/nodes/{node}")))
        (kept,) = placed.want(4).values()
        assert kept["spec"]["nodeName"] == node
        both = placed.want(5)
        assert [pod["metadata"]["uid"] for pod in placed.want(4).values()] == [kept["metadata"]["uid"]], sorted(both)
        placed.used = {node: {placed.uri}}
        assert placed.want(4) == {}, "the Pod is there"
    finally:
        kube.remove_node(node)


def test_a_real_pod_pushes_it_out_at_once(kube: Stack, kube_pods: Pods, placed: Placed) -> None:
    (name,) = placed.want(4)
    node = kube.add_node(with_agent=False, labels={"for": "the-rush"})
    try:
        until(lambda: placed.all()[name]["spec"].get("nodeName") == node, "it is bound")
        spec = {
            "nodeSelector": {"for": "the-rush"},
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "train", "image": "train", "resources": {"limits": {"nvidia.com/gpu": "8"}}}],
        }
        meta = {"name": "real", "namespace": kube_pods.namespace}
        kube_pods.create({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
        until(lambda: kube_pods.get("real")["spec"].get("nodeName") == node, "the Pod has the GPUs")
        assert placed.all() == {}
    finally:
        kube_pods.delete("real")
        kube.remove_node(node)


def test_one_near_its_end_is_made_anew(placed: Placed) -> None:
    before = placed.want(4, lives_s=600, renew_s=60)
    assert uids(placed.want(4, lives_s=600, renew_s=60)) == uids(before)
    after = placed.want(4, lives_s=600, renew_s=700)
    assert set(after) == set(before)
    assert uids(after) != uids(before)


def test_what_a_forecast_left_behind_is_deleted_when_its_time_is_over(kube_client: KubeClient, placed: Placed) -> None:
    """No run follows: the operators were away, or the schedule is gone."""
    placed.want(4, lives_s=1, renew_s=0)
    sweep = PlaceholderSweep(kube_client, SEATS_NAMESPACE, lambda: True)
    until(lambda: sweep.look() or placed.all() == {}, "the sweep has found it")


def test_a_sweep_leaves_those_of_a_plan(kube_client: KubeClient, placed: Placed) -> None:
    made = placed.want(4)
    assert [each.name for each in placeholders.delete_expired(kube_client, SEATS_NAMESPACE, time.time())] == list(made)
    assert uids(placed.all()) == uids(made)


def test_room_is_made_where_one_stands_and_nowhere_else(kube: Stack, kube_client: KubeClient, placed: Placed) -> None:
    (name,) = placed.want(4)
    assert not placeholders.make_room(kube_client, SEATS_NAMESPACE, kube.nodes)
    node = kube.add_node(with_agent=False)
    try:
        until(lambda: placed.all()[name]["spec"].get("nodeName") == node, "it is bound")
        assert placeholders.make_room(kube_client, SEATS_NAMESPACE, [node])
        assert not placeholders.make_room(kube_client, SEATS_NAMESPACE, [node])
    finally:
        kube.remove_node(node)


def test_the_operator_may_delete_no_other_pod_there(kube: Stack, kube_client: KubeClient, placed: Placed) -> None:
    """One without either label, which an admin made while the fence was down, is not ours."""
    pod = placeholders.build(
        placed.uri, 0, placed.activity._asked, namespace=SEATS_NAMESPACE, exclude_hosts=[], lives_s=60, owner=None
    )
    pod["metadata"]["labels"] = {"app": "other"}

    def refused() -> bool:
        try:
            kube_client.request("POST", PATH, pod, query={"dryRun": "All"})
        except ApiError as error:
            return "kube-cache.openai.com/ahead" in error.message
        return False

    until(refused, "a Pod without our labels is refused")
    assert kube.api.find(pod_path(SEATS_NAMESPACE, pod["metadata"]["name"])) is None
