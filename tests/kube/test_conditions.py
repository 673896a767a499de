"""What we write on a Pod, seen by the API server: one condition of ours, Events that are not doubled."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kube_cache import names
from kube_cache.errors import PodGone
from kube_cache.kube import conditions as reports
from kube_cache.kube import gate
from kube_cache.kube.client import KubeClient
from tests.kube.test_gate import RECEIPT, URI, ref
from tools.stack.pods import Pods


def condition(here: Pods, name: str) -> dict:
    return next(one for one in here.get(name)["status"]["conditions"] if one["type"] == names.CONDITION)


def test_our_condition_leaves_the_schedulers_alone(operator: KubeClient, here: Pods) -> None:
    made = here.create_gated("one", URI)
    reports.set_condition(operator, ref(made), ready=False, reason="Warming", message="37 %")
    assert condition(here, "one")["message"] == "37 %"
    kinds = {one["type"]: one for one in here.get("one")["status"]["conditions"]}
    assert kinds["PodScheduled"]["reason"] == "SchedulingGated"


def test_progress_never_overwrites_the_last_word(operator: KubeClient, here: Pods) -> None:
    made = here.create_gated("one", URI)
    assert reports.set_progress(operator, ref(made), reason="Warming", message="99 %")
    gate.release(operator, ref(made), "gpu-1", RECEIPT)
    reports.set_condition(operator, ref(made), ready=True, reason="Done", message="there")
    assert not reports.set_progress(operator, ref(made), reason="Warming", message="100 %")
    assert condition(here, "one")["message"] == "there"


def test_the_same_event_twice_is_one(operator: KubeClient, here: Pods) -> None:
    made = here.create_gated("one", URI)
    for _ in range(3):
        reports.emit_event(operator, ref(made), reason="NodeLost", note="n", action="Placing", warning=True)
    path = f"/apis/events.k8s.io/v1/namespaces/{here.namespace}/events"
    ours = [one for one in here.api.get(path)["items"] if one["reason"] == "NodeLost"]
    assert len(ours) == 1
    assert ours[0]["regarding"]["uid"] == made["metadata"]["uid"]


def test_a_note_that_is_too_long_is_cut_not_refused(operator: KubeClient, here: Pods) -> None:
    made = here.create_gated("one", URI)
    reports.emit_event(operator, ref(made), reason="Long", note="é" * 4000, action="Placing", warning=False)


def test_a_pod_that_is_gone_or_another_is_not_reported_to(operator: KubeClient, here: Pods) -> None:
    made = here.create_gated("one", URI)
    other = replace(ref(made), uid="00000000-0000-0000-0000-000000000000")
    with pytest.raises(PodGone):
        reports.set_condition(operator, other, ready=False, reason="Warming", message="x")
    with pytest.raises(PodGone):
        reports.set_condition(operator, replace(ref(made), name="nobody"), ready=False, reason="Warming", message="x")
