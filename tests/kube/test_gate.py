"""The gate protocol against the real API server and scheduler: only our gate, once, to the right node or not at all."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_cache import names
from kube_cache.errors import ForeignGates, PodGone, ReleaseRefused, UnsafeMount
from kube_cache.kube import gate
from kube_cache.kube.client import KubeClient, pod_path
from kube_cache.kube.mounts import DEFAULT_ROOT
from kube_cache.kube.pods import ref
from tests.kube.fakes import RECEIPT, URI, release
from tools.stack import Stack
from tools.stack.pods import CONTAINER, Pods, gates
from tools.stack.waiting import true as until


def test_a_released_pod_is_bound_to_the_node_with_its_receipt(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI)
    assert release(kube_client, ref(pod), "gpu-2").outcome == "released"
    bound = kube_pods.wait_bound("one")
    assert bound["spec"]["nodeName"] == "gpu-2"
    assert bound["metadata"]["labels"][names.MANAGED_LABEL] == "true"
    assert RECEIPT.items() <= bound["metadata"]["annotations"].items()
    assert bound["spec"]["containers"] == pod["spec"]["containers"]
    assert bound["spec"]["tolerations"] == pod["spec"]["tolerations"]


def test_a_second_release_finds_it_done(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI)
    release(kube_client, ref(pod), "gpu-1")
    until(lambda: kube_pods.get("one")["spec"].get("nodeName"), "the Pod is bound")
    again = release(kube_client, ref(pod), "gpu-3")
    assert (again.outcome, again.bound_node) == ("already", "gpu-1")


def test_gates_of_others_are_named_and_left_alone(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI, gates=["a.example/first", names.GATE, "b.example/last"])
    with pytest.raises(ForeignGates, match=r"a\.example/first, b\.example/last"):
        release(kube_client, ref(pod), "gpu-1")
    assert gates(kube_pods.get("one")) == ["a.example/first", names.GATE, "b.example/last"]


def test_releases_that_race_with_owners_of_other_gates_take_only_ours(kube_client: KubeClient, kube_pods: Pods) -> None:
    """The patch is planned on a Pod that changes under it: 409 each time, and never a gate of somebody else's."""
    others = [f"other.example/{number}" for number in range(4)]
    pod = kube_pods.create_gated("one", URI, gates=[*others, names.GATE])

    def owners() -> None:
        for other in others:
            kube_pods.remove_gate("one", other)

    thread = threading.Thread(target=owners)
    thread.start()
    try:
        until(lambda: _released(kube_client, pod), "the gates of others are gone and ours was taken")
    finally:
        thread.join()
    assert gates(kube_pods.get("one")) == []


def _released(kube_client: KubeClient, pod: dict[str, Any]) -> bool:
    try:
        return release(kube_client, ref(pod), "gpu-1").outcome == "released"
    except ForeignGates:
        return False


def test_a_stale_plan_is_refused_and_made_again(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI)
    stale = gate.plan_release(pod, "gpu-1", RECEIPT)
    kube_pods.annotate("one", priority="1")
    from kube_cache.kube.client import ApiError

    with pytest.raises(ApiError) as caught:
        kube_client.patch(pod_path(kube_pods.namespace, "one"), stale)
    assert caught.value.status == 409
    assert release(kube_client, ref(pod), "gpu-1").outcome == "released"


def test_a_pod_that_is_gone_or_another_is_not_released(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI)
    with pytest.raises(PodGone, match="replaced by another"):
        release(kube_client, replace(ref(pod), uid="00000000-0000-0000-0000-000000000000"), "gpu-1")
    operator_view = ref(pod)
    kube_pods.api.delete(pod_path(kube_pods.namespace, "one"))
    until(lambda: kube_pods.find("one") is None, "the Pod is gone")
    with pytest.raises(PodGone, match="was deleted"):
        release(kube_client, operator_view, "gpu-1")


def test_a_uid_that_changes_between_read_and_patch_is_gone_too(kube_client: KubeClient, kube_pods: Pods) -> None:
    """The server answers 422 for a foreign uid; the guard is in the patch, not only in our read."""
    pod = kube_pods.create_gated("one", URI)
    other = copy.deepcopy(pod)
    other["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000"
    from kube_cache.kube.client import ApiError

    with pytest.raises(ApiError) as caught:
        kube_client.patch(pod_path(kube_pods.namespace, "one"), gate.plan_release(other, "gpu-1", RECEIPT))
    assert caught.value.status in (409, 422)
    assert gates(kube_pods.get("one")) == [names.GATE]


def test_what_the_server_refuses_for_good_says_so(kube_client: KubeClient, kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI)
    with pytest.raises(ReleaseRefused, match="refuses to release"):
        release(kube_client, ref(pod), "not a node name!")
    assert gates(kube_pods.get("one")) == [names.GATE]


@pytest.mark.parametrize("node", ["gpu-1", None], ids=["onto its data", "cold"])
def test_a_pod_that_could_change_the_cache_is_not_released(
    kube_client: KubeClient, kube_pods: Pods, node: str | None
) -> None:
    volume = {"name": "cache", "hostPath": {"path": f"{DEFAULT_ROOT}/snapshots", "type": "Directory"}}
    container = {**CONTAINER, "volumeMounts": [{"name": "cache", "mountPath": "/weights"}]}
    pod = kube_pods.create_gated("one", URI, spec={"volumes": [volume], "containers": [container]})
    with pytest.raises(UnsafeMount, match=r"container 'train' mounts volume 'cache', .* not read-only"):
        release(kube_client, ref(pod), node)
    assert gates(kube_pods.get("one")) == [names.GATE]


def test_each_term_is_pinned_and_nothing_is_loosened(kube_client: KubeClient, kube_pods: Pods) -> None:
    def term(zone: str) -> dict[str, Any]:
        return {"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": [zone]}]}

    affinity = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term("x"), term("y")]},
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 7, "preference": term("z")}],
        }
    }
    pod = kube_pods.create_gated("one", URI, spec={"affinity": affinity})
    release(kube_client, ref(pod), "gpu-3")
    bound = kube_pods.wait_bound("one")
    assert bound["spec"]["nodeName"] == "gpu-3"
    node = bound["spec"]["affinity"]["nodeAffinity"]
    for before, after in zip(
        [term("x"), term("y")],
        node["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"],
        strict=True,
    ):
        assert after["matchExpressions"] == before["matchExpressions"]
        assert after["matchFields"] == [{"key": "metadata.name", "operator": "In", "values": ["gpu-3"]}]
    assert node["preferredDuringSchedulingIgnoredDuringExecution"][0]["weight"] == 7


def test_the_operator_may_do_what_it_does_and_no_more(kube_client: KubeClient, kube: Stack, kube_pods: Pods) -> None:
    from kube_cache.kube.client import ApiError, resource_path

    for path, body in (
        (resource_path("pods", kube_pods.namespace), {"metadata": {"name": "x"}}),
        (resource_path("secrets", kube_pods.namespace), {"metadata": {"name": "x"}}),
    ):
        with pytest.raises(ApiError) as caught:
            kube_client.create(path, body)
        assert caught.value.status == 403


REQUIREMENT = st.fixed_dictionaries(
    {"key": st.sampled_from("abc"), "operator": st.just("In"), "values": st.lists(st.sampled_from("xyz"), min_size=1)}
)
TERM = st.fixed_dictionaries(
    {},
    optional={"matchExpressions": st.lists(REQUIREMENT, max_size=3), "matchFields": st.lists(REQUIREMENT, max_size=2)},
)


@given(st.lists(TERM, max_size=4), st.lists(st.sampled_from(["a/x", "b/y"]), max_size=2))
def test_a_plan_only_ever_tightens(terms: list[dict[str, Any]], others: list[str]) -> None:
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}
    pod = {
        "metadata": {"uid": "u", "resourceVersion": "1"},
        "spec": {"affinity": affinity, "schedulingGates": [{"name": name} for name in [*others, names.GATE]]},
    }
    before = copy.deepcopy(pod)
    plan = gate.plan_release(pod, "n", RECEIPT)
    assert pod == before
    assert plan["spec"]["schedulingGates"] == [{"$patch": "delete", "name": names.GATE}]
    pinned = plan["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert len(pinned) == max(1, len(terms))
    for old, new in zip(terms, pinned, strict=False):
        fields = old.get("matchFields") or []
        assert (new.get("matchExpressions") or []) == (old.get("matchExpressions") or [])
        assert (new.get("matchFields") or [])[: len(fields)] == fields
        if fields or old.get("matchExpressions"):
            assert new["matchFields"][-1]["values"] == ["n"]
