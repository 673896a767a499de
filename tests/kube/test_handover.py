"""The room of a seat goes to its Pod: no Pod that is as important and waits longer can take it in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kube_cache import names
from kube_cache.contracts.warm_pod import DeleteSeatInput
from kube_cache.errors import PlacementRaced, ReleaseRefused
from kube_cache.kube import handover, seats
from kube_cache.kube.client import ApiError, KubeClient, pod_path
from kube_cache.kube.mounts import DEFAULT_ROOT
from kube_cache.kube.pods import nominated_node, ref
from tests.kube.fakes import URI
from tools.stack import Stack
from tools.stack.control_plane import SEATS_NAMESPACE
from tools.stack.pods import Pods, gates, node
from tools.stack.priority_classes import PriorityClasses
from tools.stack.waiting import true as until

NODE = "gpu-1"
ON_NODE = {"nodeSelector": {"kubernetes.io/hostname": NODE}}


@pytest.fixture
def priority(kube: Stack) -> Iterator[Callable[..., str]]:
    """Create a PriorityClass and return its name."""
    classes = PriorityClasses(kube.api)
    yield classes.create
    classes.close()


@pytest.fixture
def seated(kube_client: KubeClient, kube_pods: Pods) -> Iterator[Callable[..., DeleteSeatInput]]:
    """Create a seat that holds a whole node for a gated Pod."""
    made: list[DeleteSeatInput] = []

    def create(pod: dict[str, Any]) -> DeleteSeatInput:
        name = f"seat-{pod['metadata']['uid']}"
        made.append(DeleteSeatInput(SEATS_NAMESPACE, name))
        wanted = seats.build_seat(
            pod, name=name, namespace=SEATS_NAMESPACE, workflow_id="w", prefer_nodes=[], exclude_nodes=[], image="pause"
        )
        seats.create(kube_client, wanted)
        until(lambda: node(kube_client.get_pod(SEATS_NAMESPACE, name)) == NODE, "the seat is bound")
        return made[-1]

    yield create
    for seat in made:
        seats.delete(kube_client, seat.namespace, seat.name)


def waits(pods: Pods, name: str) -> None:
    def refused() -> bool:
        conditions = pods.get(name).get("status", {}).get("conditions", [])
        return any(c["type"] == "PodScheduled" and c.get("reason") == "Unschedulable" for c in conditions)

    until(refused, f"{name} waits for room")


@pytest.mark.parametrize("policy", ["PreemptLowerPriority", "Never"])
def test_an_equal_that_waits_longer_cannot_take_the_room(
    kube_client: KubeClient,
    kube_pods: Pods,
    priority: Callable[..., str],
    seated: Callable[..., DeleteSeatInput],
    policy: str,
) -> None:
    mine, equal = priority(1000, policy), priority(1000)
    pod = kube_pods.create_gated("mine", URI, gpus=8, spec={**ON_NODE, "priorityClassName": mine})
    seat = seated(pod)
    for rival in ("rival-1", "rival-2", "rival-3"):
        kube_pods.create_gated(rival, URI, gpus=8, gates=[], spec={**ON_NODE, "priorityClassName": equal})
        waits(kube_pods, rival)
    released = handover.hand_over(kube_client, ref(pod), NODE, {}, seat, cache_root=DEFAULT_ROOT)
    assert released.outcome == "released"
    assert node(kube_pods.wait_bound("mine")) == NODE
    assert "FailedScheduling" not in [event["reason"] for event in kube_pods.events("mine")]
    assert not any(node(kube_pods.get(rival)) for rival in ("rival-1", "rival-2", "rival-3"))


def test_a_hand_over_that_runs_twice_releases_once(
    kube_client: KubeClient, kube_pods: Pods, seated: Callable[..., DeleteSeatInput]
) -> None:
    pod = kube_pods.create_gated("mine", URI, gpus=8, spec=ON_NODE)
    seat = seated(pod)
    first = handover.hand_over(kube_client, ref(pod), NODE, {}, seat, cache_root=DEFAULT_ROOT, seen=pod)
    kube_pods.wait_bound("mine")
    second = handover.hand_over(kube_client, ref(pod), NODE, {}, seat, cache_root=DEFAULT_ROOT, seen=pod)
    assert (first.outcome, second.outcome, second.bound_node) == ("released", "already", NODE)


def test_a_hand_over_of_a_pod_that_a_watch_has_is_three_requests_and_tells_the_pod(
    kube_client: KubeClient,
    kube_pods: Pods,
    seated: Callable[..., DeleteSeatInput],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kube_pods.create_gated("mine", URI, gpus=8, spec=ON_NODE)
    seat = seated(kube_pods.get("mine"))
    asked: list[str] = []
    request = kube_client.request

    def note(method: str, path: str, body: Any = None, **options: Any) -> dict[str, Any]:
        asked.append(f"{method} {path.rpartition('/')[2]}")
        return request(method, path, body, **options)

    monkeypatch.setattr(kube_client, "request", note)
    pod = kube_pods.get("mine")
    handover.hand_over(kube_client, ref(pod), NODE, {}, seat, cache_root=DEFAULT_ROOT, seen=pod, say="on the node")
    assert asked == ["PATCH status", f"DELETE {seat.name}", "PATCH mine"]
    stored = kube_pods.get("mine")
    (condition,) = [one for one in stored["status"]["conditions"] if one["type"] == names.CONDITION]
    assert (condition["status"], condition["reason"], condition["message"]) == ("True", "Done", "on the node")
    assert condition["lastTransitionTime"]
    assert stored["metadata"]["annotations"][names.STATUS_ANNOTATION] == "Done: on the node"


def test_a_pod_that_was_nominated_before_is_told_all_the_same(
    kube_client: KubeClient, kube_pods: Pods, seated: Callable[..., DeleteSeatInput], monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = kube_pods.create_gated("mine", URI, gpus=8, spec=ON_NODE)
    seat = seated(pod)
    patch = kube_client.patch

    def fail(path: str, body: dict[str, Any], **options: Any) -> dict[str, Any]:
        if "schedulingGates" in body.get("spec", {}):
            raise ApiError(500, "InternalError", "try again")
        return patch(path, body, **options)

    with monkeypatch.context() as context:
        context.setattr(kube_client, "patch", fail)
        with pytest.raises(ApiError, match="try again"):
            handover.hand_over(kube_client, ref(pod), NODE, {}, seat, cache_root=DEFAULT_ROOT)
    handover.hand_over(kube_client, ref(pod), NODE, {}, seat, cache_root=DEFAULT_ROOT, say="on the node")
    assert kube_pods.get("mine")["metadata"]["annotations"][names.STATUS_ANNOTATION] == "Done: on the node"


def test_a_release_that_is_refused_leaves_no_nomination(
    kube_client: KubeClient,
    kube_pods: Pods,
    seated: Callable[..., DeleteSeatInput],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pod = kube_pods.create_gated("mine", URI, gpus=8, spec=ON_NODE)
    seat = seated(pod)
    patch = kube_client.patch

    def refuse(path: str, body: dict[str, Any], **options: Any) -> dict[str, Any]:
        if "schedulingGates" in body.get("spec", {}):
            assert kube_pods.get("mine")["status"]["nominatedNodeName"] == NODE
            raise ApiError(422, "Invalid", "a policy says no")
        return patch(path, body, **options)

    monkeypatch.setattr(kube_client, "patch", refuse)
    with pytest.raises(ReleaseRefused, match="a policy says no"):
        handover.hand_over(kube_client, ref(pod), NODE, {}, seat, cache_root=DEFAULT_ROOT)
    stored = kube_pods.get("mine")
    assert names.GATE in gates(stored)
    assert nominated_node(stored) == ""


def test_a_pod_whose_seat_went_before_is_not_released(
    kube_client: KubeClient, kube_pods: Pods, seated: Callable[..., DeleteSeatInput]
) -> None:
    """An operator that stood still while another moved the Pod elsewhere, or a seat that was preempted just now."""
    pod = kube_pods.create_gated("mine", URI, gpus=8, spec=ON_NODE)
    seat = seated(pod)
    seats.delete(kube_client, seat.namespace, seat.name)
    with pytest.raises(PlacementRaced, match=f"the seat on node {NODE} is gone"):
        handover.hand_over(kube_client, ref(pod), NODE, {}, seat, cache_root=DEFAULT_ROOT)
    stored = kube_pods.get("mine")
    assert names.GATE in gates(stored)
    assert nominated_node(stored) == ""


def test_a_pod_that_only_prefers_the_node_goes_there_while_it_can(
    kube_client: KubeClient, kube_pods: Pods, seated: Callable[..., DeleteSeatInput]
) -> None:
    pod = kube_pods.create_gated("mine", URI, gpus=8)
    name = f"seat-{pod['metadata']['uid']}"
    wanted = seats.build_seat(
        pod, name=name, namespace=SEATS_NAMESPACE, workflow_id="w", prefer_nodes=[NODE], exclude_nodes=[], image="pause"
    )
    seats.create(kube_client, wanted)
    seat = DeleteSeatInput(SEATS_NAMESPACE, name)
    until(lambda: node(kube_client.get_pod(SEATS_NAMESPACE, name)) == NODE, "the seat is bound")
    handover.hand_over(kube_client, ref(pod), NODE, {}, seat, cache_root=DEFAULT_ROOT, prefer=True)
    bound = kube_pods.wait_bound("mine")
    assert node(bound) == NODE
    affinity = bound["spec"]["affinity"]["nodeAffinity"]
    assert affinity.keys() == {"preferredDuringSchedulingIgnoredDuringExecution"}
    assert affinity["preferredDuringSchedulingIgnoredDuringExecution"][-1]["weight"] == 100


def test_the_room_of_a_deleted_pod_is_free(
    kube: Stack, kube_client: KubeClient, kube_pods: Pods, seated: Callable[..., DeleteSeatInput]
) -> None:
    """A nominated Pod holds room by its name only: with the Pod the room goes to whoever waits."""
    pod = kube_pods.create_gated("mine", URI, gpus=8, spec=ON_NODE)
    seat = seated(pod)
    kube_pods.create_gated("next", URI, gpus=8, gates=[], spec=ON_NODE)
    waits(kube_pods, "next")
    kube.api.request(
        "PATCH",
        pod_path(kube_pods.namespace, "mine", "status"),
        {"status": {"nominatedNodeName": NODE}},
        content_type="application/merge-patch+json",
    )
    seats.delete(kube_client, seat.namespace, seat.name)
    kube_pods.delete("mine")
    assert node(kube_pods.wait_bound("next")) == NODE
