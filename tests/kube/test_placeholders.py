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

BUDGET = 6
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
            max_placeholders=BUDGET,
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
    yield made
    placeholders.delete_all(kube_client, SEATS_NAMESPACE)
    assert made.all() == {}


def uids(pods: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: pod["metadata"]["uid"] for name, pod in pods.items()}


def unschedulable(placed: Placed, name: str) -> bool:
    conditions = placed.all()[name].get("status", {}).get("conditions", [])
    return any(each["type"] == "PodScheduled" and each.get("reason") == "Unschedulable" for each in conditions)


def nodes_of(pods: dict[str, dict[str, Any]]) -> list[str]:
    return sorted(pod["spec"].get("nodeName") or "" for pod in pods.values())


def test_one_placeholder_waits_for_each_copy_that_has_no_node(kube: Stack, placed: Placed) -> None:
    made = placed.want(5)
    assert set(made) == {placeholders.name_of(placed.uri, index) for index in range(5)}
    for pod in made.values():
        spec = pod["spec"]
        assert (spec["priority"], spec["preemptionPolicy"]) == (-10, "Never")
        assert (spec["activeDeadlineSeconds"], spec["terminationGracePeriodSeconds"]) == (3600, 0)
        assert names.SEAT_LABEL not in pod["metadata"]["labels"], "it is no seat of a Pod"
    until(lambda: nodes_of(placed.all()) == ["", "", *sorted(kube.nodes)], "each idle node has one")
    for name in [name for name, pod in placed.all().items() if not pod["spec"].get("nodeName")]:
        until(lambda name=name: unschedulable(placed, name), f"{name} is demand for an autoscaler")
    assert uids(placed.want(5)) == uids(made), "twice is once"
    assert len(placed.want(99)) == BUDGET
    assert len(placed.want(4)) == 4
    assert placed.want(3) == {}, "three nodes are there"
    placed.want(4)
    assert placed.want(0) == {}


def test_the_one_that_a_node_came_for_is_kept_and_the_others_go(kube: Stack, placed: Placed) -> None:
    placed.want(4)
    until(lambda: nodes_of(placed.all()) == ["", *sorted(kube.nodes)], "one waits")
    node = kube.add_node(with_agent=False)
    try:
        until(lambda: node in nodes_of(placed.all()), "it is bound to the node that came")
        placed.nodes.append(node_facts(kube.api.get(f"/api/v1/nodes/{node}")))
        kept = placed.want(4)
        assert nodes_of(kept) == [node], "idle nodes are free again"
        assert uids(placed.want(4)) == uids(kept)
        anew = placed.want(4, renew_s=7200)
        assert set(anew) == set(kept)
        assert uids(anew) != uids(kept), "near its end it is made anew"
        until(lambda: nodes_of(placed.all()) == [node], "on its node")
        assert uids(placed.want(4)) == uids(anew)
        placed.used = {node: {placed.uri}}
        assert placed.want(4) == {}, "the Pod is there"
    finally:
        kube.remove_node(node)


def test_a_real_pod_pushes_it_out_at_once(kube: Stack, kube_pods: Pods, placed: Placed) -> None:
    placed.want(4)
    until(lambda: nodes_of(placed.all()) == ["", *sorted(kube.nodes)], "one waits")
    node = kube.add_node(with_agent=False, labels={"for": "the-rush"})
    try:
        until(lambda: node in nodes_of(placed.all()), "it is bound")
        spec = {
            "nodeSelector": {"for": "the-rush"},
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "train", "image": "train", "resources": {"limits": {"nvidia.com/gpu": "8"}}}],
        }
        meta = {"name": "real", "namespace": kube_pods.namespace}
        kube_pods.create({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
        until(lambda: kube_pods.get("real")["spec"].get("nodeName") == node, "the Pod has the GPUs")
        assert node not in nodes_of(placed.all())
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
    placed.want(4)
    until(lambda: nodes_of(placed.all()) == ["", *sorted(kube.nodes)], "one waits")
    node = kube.nodes[0]
    assert not placeholders.make_room(kube_client, SEATS_NAMESPACE, ["another"])
    assert placeholders.make_room(kube_client, SEATS_NAMESPACE, [node])
    assert len(placed.all()) == 3


def test_the_operator_makes_no_other_pod_there(kube: Stack, kube_client: KubeClient, placed: Placed) -> None:
    """One that is neither a seat nor a placeholder."""
    pod = placeholders.build(
        placed.uri, "ahead-x-0", placed.activity._asked, namespace=SEATS_NAMESPACE, lives_s=60, owner=None
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
