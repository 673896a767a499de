"""Events about a Pod, as the API server has them: not doubled, and never refused for their length."""

from __future__ import annotations

from kube_cache.kube import events
from kube_cache.kube.client import KubeClient
from kube_cache.kube.pods import ref
from tests.kube.fakes import URI
from tools.stack.pods import Pods


def test_the_same_event_twice_is_one(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI)
    for _ in range(3):
        events.emit(kube_client, ref(pod), reason="NodeLost", note="n", action="Placing", warning=True)
    path = f"/apis/events.k8s.io/v1/namespaces/{kube_pods.namespace}/events"
    ours = [event for event in kube_pods.api.get(path)["items"] if event["reason"] == "NodeLost"]
    assert len(ours) == 1
    assert ours[0]["regarding"]["uid"] == pod["metadata"]["uid"]


def test_a_note_that_is_too_long_is_cut_not_refused(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI)
    events.emit(kube_client, ref(pod), reason="Long", note="é" * 4000, action="Placing", warning=False)
