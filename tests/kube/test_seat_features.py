"""An admitted Pod has an admitted seat: one Pod for each feature of PodSpec that a seat copies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kube_cache.errors import SeatForbidden, SeatRefused
from kube_cache.kube import seats
from kube_cache.kube.client import KubeClient
from tests.kube.fakes import URI
from tools.stack import Stack
from tools.stack.control_plane import SEATS_NAMESPACE
from tools.stack.pods import CONTAINER, Pods

SELECTOR = {"matchLabels": {"app": "train"}}
TERM = {"topologyKey": "kubernetes.io/hostname", "labelSelector": SELECTOR}
LABELS = {"app": "train", "hash": "1", "tenant": "a", "pod-template-hash": "5d4f"}
SPREAD = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": SELECTOR}
RUNTIME_CLASS = "test-sandbox"


def container(**fields: Any) -> list[dict[str, Any]]:
    return [{**CONTAINER, **fields}]


def resources(**limits: str) -> dict[str, Any]:
    return {"resources": {"limits": {name.replace("__", "/").replace("_", "-"): size for name, size in limits.items()}}}


def affinity(kind: str, *terms: dict[str, Any]) -> dict[str, Any]:
    return {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": list(terms)}}}


def weighted(kind: str, term: dict[str, Any]) -> dict[str, Any]:
    terms = [{"weight": 3, "podAffinityTerm": term}]
    return {"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": terms}}}


def node_terms(*terms: dict[str, Any]) -> dict[str, Any]:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    return {"affinity": {"nodeAffinity": required}}


FEATURES = [
    pytest.param({"containers": container()}, id="nothing asked for"),
    pytest.param({"containers": container(**resources(cpu="0.1", memory="1.5Gi"))}, id="fractions"),
    pytest.param({"containers": container(**resources(cpu="1", ephemeral_storage="2Gi"))}, id="ephemeral storage"),
    pytest.param({"containers": container(**resources(cpu="1", hugepages_2Mi="4Mi"))}, id="huge pages"),
    pytest.param({"containers": container(**resources(rdma__hca="1", nvidia__gpu="8"))}, id="extended resources"),
    pytest.param({"containers": container(resources={"requests": {"cpu": "2"}})}, id="requests without limits"),
    pytest.param(
        {"containers": container(), "resources": {"requests": {"cpu": "2", "memory": "1Gi"}}}, id="resources of the Pod"
    ),
    pytest.param(
        {
            "containers": container(**resources(cpu="1", memory="1Gi")),
            "resources": {"limits": {"cpu": "3", "memory": "4Gi", "hugepages-2Mi": "4Mi"}},
        },
        id="huge pages of the Pod",
    ),
    pytest.param(
        {
            "initContainers": [
                {**CONTAINER, "name": "a", "restartPolicy": "Always", **resources(cpu="1")},
                {**CONTAINER, "name": "b", **resources(cpu="2", hugepages_2Mi="2Mi")},
            ]
        },
        id="a sidecar and an init container",
    ),
    pytest.param(affinity("podAntiAffinity", {**TERM, "matchLabelKeys": ["hash"]}), id="matchLabelKeys, repelling"),
    pytest.param(affinity("podAffinity", {**TERM, "matchLabelKeys": ["hash"]}), id="matchLabelKeys, attracting"),
    pytest.param(weighted("podAffinity", {**TERM, "matchLabelKeys": ["hash"]}), id="matchLabelKeys, preferred"),
    pytest.param(
        affinity("podAntiAffinity", {**TERM, "mismatchLabelKeys": ["tenant"], "namespaceSelector": {}}),
        id="mismatchLabelKeys in all namespaces",
    ),
    pytest.param(
        affinity("podAffinity", {**TERM, "matchLabelKeys": ["absent"]}),
        id="matchLabelKeys of a label that is not there",
    ),
    pytest.param(weighted("podAntiAffinity", {**TERM, "namespaces": ["a", "b"]}), id="namespaces"),
    pytest.param(
        {"topologySpreadConstraints": [{**SPREAD, "matchLabelKeys": ["pod-template-hash"]}]},
        id="spread, matchLabelKeys",
    ),
    pytest.param(
        {
            "topologySpreadConstraints": [
                {**SPREAD, "whenUnsatisfiable": "DoNotSchedule", "minDomains": 2, "nodeTaintsPolicy": "Honor"}
            ]
        },
        id="spread, minDomains",
    ),
    pytest.param(node_terms({}), id="a term that matches nothing"),
    pytest.param(
        node_terms(
            {"matchExpressions": [{"key": "size", "operator": "Gt", "values": ["3"]}]},
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["gpu-1"]}]},
        ),
        id="several terms",
    ),
    pytest.param({"nodeSelector": {"zone": "a"}, "schedulerName": "another"}, id="another scheduler"),
    pytest.param({"runtimeClassName": RUNTIME_CLASS}, id="a runtime class"),
    pytest.param(
        {"tolerations": [{"operator": "Exists"}, {"key": "x", "effect": "NoExecute", "tolerationSeconds": 5}]},
        id="tolerations",
    ),
    pytest.param(
        {"hostNetwork": True, "containers": container(ports=[{"containerPort": 29500, "hostPort": 29500}])},
        id="host ports",
    ),
    pytest.param({"os": {"name": "linux"}, "hostUsers": False, "securityContext": {"runAsUser": 7}}, id="security"),
    pytest.param(
        {
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "e", "emptyDir": {}}],
            "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "t"}],
        },
        id="claims",
    ),
    pytest.param({"terminationGracePeriodSeconds": 600, "activeDeadlineSeconds": 60}, id="its own deadlines"),
]


@pytest.fixture(scope="module")
def runtime_class(kube: Stack) -> Iterator[None]:
    """A runtime class of which the API server merges overhead, selector and tolerations into the Pod."""
    path = "/apis/node.k8s.io/v1/runtimeclasses"
    kube.api.request(
        "POST",
        path,
        {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": RUNTIME_CLASS},
            "handler": "sandbox",
            "overhead": {"podFixed": {"cpu": "250m", "memory": "64Mi"}},
            "scheduling": {
                "nodeSelector": {"sandbox": "yes"},
                "tolerations": [{"key": "sandbox", "operator": "Exists", "effect": "NoSchedule"}],
            },
        },
    )
    yield
    kube.api.delete(f"{path}/{RUNTIME_CLASS}")


@pytest.mark.usefixtures("runtime_class")
@pytest.mark.parametrize("spec", FEATURES)
def test_an_admitted_pod_has_an_admitted_seat(kube_client: KubeClient, kube_pods: Pods, spec: dict[str, Any]) -> None:
    asked = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one", "labels": LABELS}}
    pod = kube_pods.create({**asked, "spec": {"schedulingGates": [{"name": "x/y"}], "containers": container(), **spec}})
    seat = seats.build_seat(
        pod,
        name=f"seat-{pod['metadata']['uid']}",
        namespace=SEATS_NAMESPACE,
        workflow_id="w",
        prefer_nodes=["gpu-1"],
        exclude_nodes=["gpu-2"],
        image="pause",
        deadline_s=3600,
    )
    try:
        created = seats.create(kube_client, seat)
    finally:
        seats.delete(kube_client, SEATS_NAMESPACE, seat["metadata"]["name"])
    admitted = created.seat["spec"]
    assert admitted["priority"] == pod["spec"]["priority"]
    assert admitted.get("nodeSelector") == pod["spec"].get("nodeSelector")
    assert created.differences == []
    assert created.lower_priority == ""


def seat(kube_pods: Pods, namespace: str, **changes: Any) -> dict[str, Any]:
    built = seats.build_seat(
        kube_pods.create_gated("one", URI),
        name="seat",
        namespace=namespace,
        workflow_id="w",
        prefer_nodes=[],
        exclude_nodes=[],
        image="pause",
    )
    built["spec"].update(changes)
    return built


def test_a_seat_that_the_server_refuses_is_refused_in_its_words(kube_client: KubeClient, kube_pods: Pods) -> None:
    with pytest.raises(SeatRefused, match=r"spec\.restartPolicy: Unsupported value") as caught:
        seats.create(kube_client, seat(kube_pods, SEATS_NAMESPACE, restartPolicy="Sometimes"))
    assert not caught.value.retryable


def test_a_seat_beyond_the_quota_is_forbidden_and_tried_again(
    kube: Stack, kube_client: KubeClient, kube_pods: Pods
) -> None:
    path = f"/api/v1/namespaces/{SEATS_NAMESPACE}/resourcequotas"
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"requests.nvidia.com/gpu": "0"}}}
    kube.api.request("POST", path, {"apiVersion": "v1", "kind": "ResourceQuota", **quota})
    try:
        with pytest.raises(SeatForbidden, match=r"exceeded quota|status unknown for quota") as caught:
            seats.create(kube_client, seat(kube_pods, SEATS_NAMESPACE))
        assert caught.value.retryable
    finally:
        kube.api.delete(f"{path}/none")


def test_a_seat_that_the_operator_may_not_create_is_forbidden(kube_client: KubeClient, kube_pods: Pods) -> None:
    with pytest.raises(SeatForbidden, match="cannot create resource"):
        seats.create(kube_client, seat(kube_pods, "default"))
