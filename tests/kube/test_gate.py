"""The gate protocol against the real API server and scheduler: only our gate, once, to the right node, or not at all."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_cache import names
from kube_cache.contracts.common import PodRef
from kube_cache.errors import ForeignGates, PodGone, ReleaseRefused
from kube_cache.kube import gate
from kube_cache.kube.client import KubeClient, pod_path
from tools.stack import Stack
from tools.stack.pods import Pods
from tools.stack.waiting import true as until

URI = "s3://models/gpt"
RECEIPT = {names.NODE_ANNOTATION: "gpu-2", names.SNAPSHOT_ANNOTATION: "ab" * 32}


def ref(pod: dict[str, Any]) -> PodRef:
    meta = pod["metadata"]
    return PodRef(meta["namespace"], meta["name"], meta["uid"])


def gates(pod: dict[str, Any]) -> list[str]:
    return [one["name"] for one in pod["spec"].get("schedulingGates", [])]


def test_a_released_pod_is_bound_to_the_node_with_its_receipt(operator: KubeClient, here: Pods) -> None:
    made = here.create_gated("one", URI)
    assert gate.release(operator, ref(made), "gpu-2", RECEIPT).outcome == "released"
    bound = until(lambda: (found := here.get("one"))["spec"].get("nodeName") and found, "the Pod is bound")
    assert bound["spec"]["nodeName"] == "gpu-2"
    assert bound["metadata"]["labels"][names.MANAGED_LABEL] == "true"
    assert RECEIPT.items() <= bound["metadata"]["annotations"].items()
    assert bound["spec"]["containers"] == made["spec"]["containers"]
    assert bound["spec"]["tolerations"] == made["spec"]["tolerations"]


def test_a_second_release_finds_it_done(operator: KubeClient, here: Pods) -> None:
    made = here.create_gated("one", URI)
    gate.release(operator, ref(made), "gpu-1", RECEIPT)
    until(lambda: here.get("one")["spec"].get("nodeName"), "the Pod is bound")
    again = gate.release(operator, ref(made), "gpu-3", RECEIPT)
    assert (again.outcome, again.bound_node) == ("already", "gpu-1")


def test_gates_of_others_are_named_and_left_alone(operator: KubeClient, here: Pods) -> None:
    made = here.create_gated("one", URI, gates=["a.example/first", names.GATE, "b.example/last"])
    with pytest.raises(ForeignGates, match=r"a\.example/first, b\.example/last"):
        gate.release(operator, ref(made), "gpu-1", RECEIPT)
    assert gates(here.get("one")) == ["a.example/first", names.GATE, "b.example/last"]


def test_releases_that_race_with_owners_of_other_gates_take_only_ours(operator: KubeClient, here: Pods) -> None:
    """The patch is planned on a Pod that changes under it: 409 each time, and never a gate of somebody else's."""
    others = [f"other.example/{number}" for number in range(4)]
    made = here.create_gated("one", URI, gates=[*others, names.GATE])

    def owners() -> None:
        for other in others:
            here.remove_gate("one", other)

    thread = threading.Thread(target=owners)
    thread.start()
    try:
        until(lambda: _released(operator, made), "the gates of others are gone and ours was taken")
    finally:
        thread.join()
    assert gates(here.get("one")) == []


def _released(operator: KubeClient, made: dict[str, Any]) -> bool:
    try:
        return gate.release(operator, ref(made), "gpu-1", RECEIPT).outcome == "released"
    except ForeignGates:
        return False


def test_a_stale_plan_is_refused_and_made_again(operator: KubeClient, here: Pods) -> None:
    made = here.create_gated("one", URI)
    stale = gate.plan_release(made, "gpu-1", RECEIPT)
    here.annotate("one", priority="1")
    from kube_cache.kube.client import ApiError

    with pytest.raises(ApiError) as caught:
        operator.patch(pod_path(here.namespace, "one"), stale)
    assert caught.value.status == 409
    assert gate.release(operator, ref(made), "gpu-1", RECEIPT).outcome == "released"


def test_a_pod_that_is_gone_or_another_is_not_released(operator: KubeClient, here: Pods) -> None:
    made = here.create_gated("one", URI)
    with pytest.raises(PodGone, match="replaced by another"):
        gate.release(operator, replace(ref(made), uid="00000000-0000-0000-0000-000000000000"), "gpu-1", RECEIPT)
    operator_view = ref(made)
    here.api.delete(pod_path(here.namespace, "one"))
    until(lambda: here.find("one") is None, "the Pod is gone")
    with pytest.raises(PodGone, match="was deleted"):
        gate.release(operator, operator_view, "gpu-1", RECEIPT)


def test_a_uid_that_changes_between_read_and_patch_is_gone_too(operator: KubeClient, here: Pods) -> None:
    """The server answers 422 for a foreign uid; the guard is in the patch, not only in our read."""
    made = here.create_gated("one", URI)
    other = copy.deepcopy(made)
    other["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000"
    from kube_cache.kube.client import ApiError

    with pytest.raises(ApiError) as caught:
        operator.patch(pod_path(here.namespace, "one"), gate.plan_release(other, "gpu-1", RECEIPT))
    assert caught.value.status in (409, 422)
    assert gates(here.get("one")) == [names.GATE]


def test_what_the_server_refuses_for_good_says_so(operator: KubeClient, here: Pods) -> None:
    made = here.create_gated("one", URI)
    with pytest.raises(ReleaseRefused, match="refuses to release"):
        gate.release(operator, ref(made), "not a node name!", RECEIPT)
    assert gates(here.get("one")) == [names.GATE]


def test_each_term_is_pinned_and_nothing_is_loosened(operator: KubeClient, here: Pods) -> None:
    def term(zone: str) -> dict[str, Any]:
        return {"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": [zone]}]}

    affinity = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term("x"), term("y")]},
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 7, "preference": term("z")}],
        }
    }
    made = here.create_gated("one", URI, spec={"affinity": affinity})
    gate.release(operator, ref(made), "gpu-3", RECEIPT)
    bound = until(lambda: (found := here.get("one"))["spec"].get("nodeName") and found, "the Pod is bound")
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


def test_the_operator_may_do_what_it_does_and_no_more(operator: KubeClient, kube: Stack, here: Pods) -> None:
    from kube_cache.kube.client import ApiError, resource_path

    for path, body in (
        (resource_path("pods", here.namespace), {"metadata": {"name": "x"}}),
        (resource_path("secrets", here.namespace), {"metadata": {"name": "x"}}),
    ):
        with pytest.raises(ApiError) as caught:
            operator.create(path, body)
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
