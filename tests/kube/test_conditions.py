"""What we write on a Pod, seen by the API server: one condition of ours, Events that are not doubled."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kube_cache.errors import PodGone
from kube_cache.kube import conditions as reports
from kube_cache.kube import gate
from kube_cache.kube.client import KubeClient
from kube_cache.kube.pods import ref
from tests.kube.fakes import RECEIPT, URI
from tools.stack.pods import Pods, condition


def test_our_condition_leaves_the_schedulers_alone(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI)
    reports.set_condition(kube_client, ref(pod), ready=False, reason="Warming", message="37 %")
    assert condition(kube_pods.get("one"))["message"] == "37 %"
    kinds = {item["type"]: item for item in kube_pods.get("one")["status"]["conditions"]}
    assert kinds["PodScheduled"]["reason"] == "SchedulingGated"


def test_progress_never_overwrites_the_last_word(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI)
    assert reports.set_progress(kube_client, ref(pod), reason="Warming", message="99 %")
    gate.release(kube_client, ref(pod), "gpu-1", RECEIPT)
    reports.set_condition(kube_client, ref(pod), ready=True, reason="Done", message="there")
    assert not reports.set_progress(kube_client, ref(pod), reason="Warming", message="100 %")
    assert condition(kube_pods.get("one"))["message"] == "there"


def test_the_same_event_twice_is_one(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI)
    for _ in range(3):
        reports.emit_event(kube_client, ref(pod), reason="NodeLost", note="n", action="Placing", warning=True)
    path = f"/apis/events.k8s.io/v1/namespaces/{kube_pods.namespace}/events"
    ours = [event for event in kube_pods.api.get(path)["items"] if event["reason"] == "NodeLost"]
    assert len(ours) == 1
    assert ours[0]["regarding"]["uid"] == pod["metadata"]["uid"]


def test_a_note_that_is_too_long_is_cut_not_refused(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI)
    reports.emit_event(kube_client, ref(pod), reason="Long", note="é" * 4000, action="Placing", warning=False)


def test_a_pod_that_is_gone_or_another_is_not_reported_to(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI)
    other = replace(ref(pod), uid="00000000-0000-0000-0000-000000000000")
    with pytest.raises(PodGone):
        reports.set_condition(kube_client, other, ready=False, reason="Warming", message="x")
    with pytest.raises(PodGone):
        reports.set_condition(kube_client, replace(ref(pod), name="nobody"), ready=False, reason="Warming", message="x")
