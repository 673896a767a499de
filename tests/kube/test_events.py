"""Events about a Pod, as the API server has them: not doubled, and never refused for their length."""

from __future__ import annotations

from typing import Any

from kube_cache.kube import events
from kube_cache.kube.client import KubeClient
from kube_cache.kube.pods import ref
from tests.kube.fakes import URI
from tools.stack.pods import Pods


def notes(pods: Pods, reason: str) -> list[str]:
    """Notes of the Events with that reason."""
    path = f"/apis/events.k8s.io/v1/namespaces/{pods.namespace}/events"
    return [event["note"] for event in pods.api.get(path)["items"] if event["reason"] == reason]


def emit(client: KubeClient, pod: dict[str, Any], note: str, topic: str = "") -> None:
    events.emit(client, ref(pod), reason="Told", note=note, action="Placing", warning=True, topic=topic)


def test_the_same_event_twice_is_one(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI)
    for _ in range(3):
        emit(kube_client, pod, "n")
    assert notes(kube_pods, "Told") == ["n"]
    path = f"/apis/events.k8s.io/v1/namespaces/{kube_pods.namespace}/events"
    ours = [event for event in kube_pods.api.get(path)["items"] if event["reason"] == "Told"]
    assert ours[0]["regarding"]["uid"] == pod["metadata"]["uid"]


def test_a_message_that_only_counts_is_one_event(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI)
    for count in (4321, 4320, 99):
        emit(kube_client, pod, f"0/5000 nodes are available: {count} Insufficient nvidia.com/gpu; for 1m{count}s")
    assert len(notes(kube_pods, "Told")) == 1


def test_another_node_is_another_event(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI)
    for node in ("gpu-1", "gpu-2", "ip-10-0-0-1.ec2.internal"):
        emit(kube_client, pod, f"node {node} has no living agent")
    assert len(notes(kube_pods, "Told")) == 3


def test_a_topic_tells_events_apart_whose_words_are_equal(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI)
    for percent in (25, 50, 51):
        emit(kube_client, pod, f"{percent} % of 4 GiB", topic=f"{percent // 25}")
    assert sorted(notes(kube_pods, "Told")) == ["25 % of 4 GiB", "50 % of 4 GiB"]


def test_a_note_that_is_too_long_is_cut_not_refused(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI)
    events.emit(kube_client, ref(pod), reason="Long", note="é" * 4000, action="Placing", warning=False)
