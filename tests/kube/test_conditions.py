"""Our condition on a Pod, as the API server has it: the only one that we write, and never the last word by mistake."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kube_cache.errors import PodGone
from kube_cache.kube import conditions, gate
from kube_cache.kube.client import KubeClient
from kube_cache.kube.pods import ref
from tests.kube.fakes import RECEIPT, URI
from tools.stack.pods import Pods, condition


def test_our_condition_leaves_the_schedulers_alone(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI)
    conditions.set_condition(kube_client, ref(pod), ready=False, reason="Warming", message="37 %")
    assert condition(kube_pods.get("one"))["message"] == "37 %"
    kinds = {item["type"]: item for item in kube_pods.get("one")["status"]["conditions"]}
    assert kinds["PodScheduled"]["reason"] == "SchedulingGated"


def test_progress_never_overwrites_the_last_word(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI)
    assert conditions.set_progress(kube_client, ref(pod), reason="Warming", message="99 %")
    gate.release(kube_client, ref(pod), "gpu-1", RECEIPT)
    conditions.set_condition(kube_client, ref(pod), ready=True, reason="Done", message="there")
    assert not conditions.set_progress(kube_client, ref(pod), reason="Warming", message="100 %")
    assert condition(kube_pods.get("one"))["message"] == "there"


def test_a_pod_that_is_gone_or_another_is_not_reported_to(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI)
    other = replace(ref(pod), uid="00000000-0000-0000-0000-000000000000")
    with pytest.raises(PodGone):
        conditions.set_condition(kube_client, other, ready=False, reason="Warming", message="x")
    with pytest.raises(PodGone):
        conditions.set_condition(
            kube_client, replace(ref(pod), name="nobody"), ready=False, reason="Warming", message="x"
        )
