"""The shipped admission policy: the operator's right to patch Pods serves for a release and for nothing else."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from kube_cache import names
from kube_cache.kube import conditions
from kube_cache.kube.client import ApiError, KubeClient, pod_path, resource_path
from kube_cache.kube.pods import ref
from kube_cache.kube.seats import build_seat
from kube_cache.settings import OperatorSettings
from tests.kube.fakes import URI, release
from tools.stack import Stack
from tools.stack.api import ApiError as StackApiError
from tools.stack.pods import CONTAINER, Pods, condition
from tools.stack.waiting import true as until

MANAGED = {names.MANAGED_LABEL: "true"}
FOREIGN = "a.example/first"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
RECEIPT = {names.SNAPSHOT_ANNOTATION: "ab" * 32, names.NODE_ANNOTATION: "gpu-1", names.CACHE_ID_ANNOTATION: "x"}


def _preference(zone: str) -> dict[str, Any]:
    return {"weight": 1, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}}


def refusal(client: KubeClient, pods: Pods, body: dict[str, Any], subresource: str = "") -> str:
    """The API server's words; empty if it takes the patch."""
    try:
        client.patch(pod_path(pods.namespace, "one", subresource), body)
    except ApiError as error:
        assert error.status in (403, 422)
        return error.message
    return ""


@pytest.fixture
def pods(kube_client: KubeClient, kube_pods: Pods) -> Pods:
    """With a gated Pod `one`, and the policy in effect, which it is some time after it was applied."""
    affinity = {"nodeAffinity": {PREFERRED: [_preference("a")]}}
    kube_pods.create_gated("one", URI, gates=[FOREIGN, names.GATE], spec={"affinity": affinity})
    changes = ({"metadata": {"labels": {"number": str(number)}}} for number in count())
    until(lambda: refusal(kube_client, kube_pods, next(changes)), "the policy is in effect")
    return kube_pods


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param({"spec": {"containers": [{"name": "train", "image": "evil"}]}}, "no container", id="image"),
        pytest.param({"spec": {"nodeSelector": {"zone": "a"}}}, "node affinity only", id="node selector"),
        pytest.param({"spec": {"activeDeadlineSeconds": 5}}, "node affinity only", id="deadline"),
        pytest.param({"metadata": {"finalizers": ["evil.example/x"]}}, "node affinity only", id="finalizer"),
        pytest.param(
            {"spec": {"schedulingGates": [{"$patch": "delete", "name": FOREIGN}]}}, "no gate but its own", id="gate"
        ),
        pytest.param({"metadata": {"labels": {"app": "evil"}}}, "of its own only", id="label"),
        pytest.param(
            {"metadata": {"labels": {names.SEAT_LABEL: "true"}}}, "of its own only", id="another label of ours"
        ),
        pytest.param({"metadata": {"annotations": {names.PRIORITY_ANNOTATION: "100"}}}, "of its own", id="option"),
        pytest.param({"metadata": {"annotations": {names.ACTION_ANNOTATION: "retry"}}}, "of its own", id="action"),
        pytest.param(
            {"spec": {"affinity": {"nodeAffinity": {PREFERRED: [_preference("b")]}}}},
            "takes nothing away",
            id="a preference replaced",
        ),
        pytest.param({"metadata": {"annotations": {names.DATASET_ANNOTATION: "s3://x/y"}}}, "of its own", id="request"),
        pytest.param({"metadata": {"annotations": {names.DATASET_ANNOTATION: None}}}, "of its own", id="no request"),
    ],
)
def test_the_operator_changes_nothing_that_is_not_its_own(
    kube_client: KubeClient, pods: Pods, body: dict[str, Any], words: str
) -> None:
    assert words in refusal(kube_client, pods, body)


def test_the_operator_adds_no_toleration(kube_client: KubeClient, pods: Pods) -> None:
    tolerations = [*pods.get("one")["spec"]["tolerations"], {"key": "evil", "operator": "Exists"}]
    assert "node affinity only" in refusal(kube_client, pods, {"spec": {"tolerations": tolerations}})


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({"phase": "Failed"}, id="phase"),
        pytest.param({"conditions": [{"type": "PodScheduled", "status": "True"}]}, id="a condition of others"),
    ],
)
def test_the_operator_writes_no_status_but_its_own(kube_client: KubeClient, pods: Pods, status: dict[str, Any]) -> None:
    assert "condition of its own only" in refusal(kube_client, pods, {"status": status}, "status")


def test_the_operator_does_under_the_policy_all_that_it_does(kube_client: KubeClient, pods: Pods) -> None:
    pods.annotate("one", action="retry")
    pods.remove_gate("one", FOREIGN)
    pod = ref(pods.get("one"))
    conditions.set_condition(kube_client, pod, ready=False, reason="Placing", message="x")
    assert conditions.set_while_gated(kube_client, pod, reason="Warming", message="37 %")
    conditions.clear_action(kube_client, pod, "retry")
    assert release(kube_client, pod, "gpu-1").outcome == "released"
    pods.wait_bound("one")
    conditions.set_condition(kube_client, pod, ready=True, reason="Done", message="there")
    assert condition(pods.get("one"))["status"] == "True"


def test_the_operator_adds_preferences_to_those_of_the_user(kube_client: KubeClient, pods: Pods) -> None:
    preferences = [_preference("a"), _preference("b")]
    assert not refusal(kube_client, pods, {"spec": {"affinity": {"nodeAffinity": {PREFERRED: preferences}}}})


@pytest.mark.parametrize(
    "written", [{"annotations": {key: value}} for key, value in RECEIPT.items()] + [{"labels": MANAGED}]
)
def test_nobody_but_the_operator_writes_what_a_release_writes(
    kube: Stack, kube_client: KubeClient, pods: Pods, written: dict[str, Any]
) -> None:
    words = "written by Kube-Cache's operator"
    with pytest.raises(StackApiError, match=words):
        pods.create(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "two", **written},
                "spec": {"containers": [CONTAINER]},
            }
        )
    path, merge = f"/api/v1/namespaces/{pods.namespace}/pods/one", "application/merge-patch+json"
    with pytest.raises(StackApiError, match=words):
        kube.api.request("PATCH", path, {"metadata": written}, content_type=merge)
    pods.remove_gate("one", FOREIGN)
    assert release(kube_client, ref(pods.get("one")), "gpu-1").outcome == "released"
    ((kind, entries),) = written.items()
    (key,) = entries
    held = pods.get("one")["metadata"][kind]
    for value in ("changed", None) if key in held else ("changed",):
        with pytest.raises(StackApiError, match=words):
            kube.api.request("PATCH", path, {"metadata": {kind: {key: value}}}, content_type=merge)
    kube.api.request("PATCH", path, {"metadata": {"labels": {"mine": "yes"}}}, content_type=merge)


def seat(**changes: Any) -> dict[str, Any]:
    """The seat of a gated Pod, with other fields in its spec."""
    gated = {"metadata": {"name": "one", "namespace": "ml", "uid": "1"}, "spec": {"containers": [CONTAINER]}}
    made = build_seat(
        gated,
        name="seat-1-0",
        namespace=names.SEATS_NAMESPACE,
        workflow_id="warm/ml/one/1",
        prefer_nodes=[],
        exclude_nodes=[],
        image=OperatorSettings().seat_image,
    )
    return {**made, "spec": {**made["spec"], **changes}}


def answer(client: KubeClient, item: dict[str, Any]) -> str:
    """The API server's words to the creation; empty if it takes the Pod, which is deleted then."""
    try:
        client.create(resource_path("pods", item["metadata"]["namespace"]), item)
    except ApiError as error:
        return error.message
    client.delete(pod_path(item["metadata"]["namespace"], item["metadata"]["name"]), {"gracePeriodSeconds": 0})
    return ""


@pytest.mark.parametrize(
    ("item", "words"),
    [
        pytest.param(seat(), "", id="a seat"),
        pytest.param(seat(volumes=[{"name": "x", "emptyDir": {}}]), "no volume", id="volume"),
        pytest.param(seat(hostNetwork=True), "namespace of the host", id="host network"),
        pytest.param(seat(hostPID=True), "namespace of the host", id="host processes"),
        pytest.param(seat(automountServiceAccountToken=True), "no token", id="token"),
        pytest.param(
            seat(containers=[{**seat()["spec"]["containers"][0], "image": "evil"}]),
            "seatImages of the ConfigMap",
            id="another image",
        ),
        pytest.param(
            {**seat(), "metadata": {**seat()["metadata"], "labels": {}}}, "has the label", id="no label of a seat"
        ),
    ],
)
def test_the_operator_creates_seats_and_no_other_pods(
    kube: Stack, kube_client: KubeClient, pods: Pods, item: dict[str, Any], words: str
) -> None:
    until(lambda: answer(kube_client, seat(hostNetwork=True)), "the policies are in effect")
    said = answer(kube_client, item)
    assert words in said
    assert bool(said) == bool(words)


def test_nobody_else_creates_pods_where_the_seats_are(kube: Stack) -> None:
    with pytest.raises(StackApiError, match="only Kube-Cache's operator creates Pods"):
        kube.api.create(seat())
