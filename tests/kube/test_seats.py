"""The seat against the real scheduler: it goes where the Pod could go, prefers the bytes, and is as important."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from kube_cache import names
from kube_cache.kube import seats
from kube_cache.kube.client import KubeClient, pod_path
from kube_cache.kube.quantities import gpu_count
from kube_cache.kube.seat_labels import seat_selector
from tests.e2e.promises import kubectl
from tests.kube.fakes import URI
from tools.stack import Stack
from tools.stack.pods import Pods
from tools.stack.waiting import true as until

SYSTEM = names.SEATS_NAMESPACE


@pytest.fixture
def take(kube_client: KubeClient, kube: Stack) -> Iterator[Any]:
    taken: list[str] = []

    def create(
        pod: dict[str, Any],
        *,
        prefer: list[str] | None = None,
        exclude: list[str] | None = None,
        owner: dict[str, Any] | None = None,
    ) -> str:
        name = f"seat-{uuid.uuid4().hex[:8]}"
        taken.append(name)
        seat = seats.build_seat(
            pod, name=name, namespace=SYSTEM, workflow_id="warm/a/b/c", prefer_nodes=prefer or [],
            exclude_nodes=exclude or [], image="pause", owner=owner,
        )  # fmt: skip
        seats.create(kube_client, seat)
        return name

    yield create
    for name in taken:
        seats.delete(kube_client, SYSTEM, name)


def bound(kube: Stack, name: str) -> str:
    return str(until(lambda: kube.api.get(pod_path(SYSTEM, name))["spec"].get("nodeName"), f"{name} is bound"))


@pytest.mark.parametrize("node", ["gpu-1", "gpu-2", "gpu-3"])
def test_a_seat_is_bound_where_the_bytes_are(kube: Stack, kube_pods: Pods, take: Any, node: str) -> None:
    assert bound(kube, take(kube_pods.create_gated("one", URI), prefer=[node])) == node


def test_a_seat_stays_away_from_excluded_nodes(kube: Stack, kube_pods: Pods, take: Any) -> None:
    pod = kube_pods.create_gated("one", URI)
    assert bound(kube, take(pod, prefer=["gpu-1"], exclude=["gpu-1", "gpu-3"])) == "gpu-2"


def test_a_seat_obeys_the_pods_own_selector_and_is_excluded_beside_it(kube: Stack, kube_pods: Pods, take: Any) -> None:
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["gpu-2", "gpu-3"]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    pod = kube_pods.create_gated("one", URI, spec={"affinity": {"nodeAffinity": required}})
    assert bound(kube, take(pod, prefer=["gpu-1"], exclude=["gpu-2"])) == "gpu-3"


def test_creating_a_seat_twice_is_creating_it_once(
    kube_client: KubeClient, kube_pods: Pods, kube: Stack, take: Any
) -> None:
    pod = kube_pods.create_gated("one", URI)
    name = take(pod)
    node = bound(kube, name)
    same = seats.build_seat(
        pod, name=name, namespace=SYSTEM, workflow_id="w", prefer_nodes=["gpu-1"], exclude_nodes=[], image="pause"
    )
    again = seats.create(kube_client, same)
    assert again.seat["spec"]["nodeName"] == node
    seats.delete(kube_client, SYSTEM, name)
    seats.delete(kube_client, SYSTEM, name)


@pytest.fixture
def lease(kube: Stack) -> Iterator[dict[str, Any]]:
    """Reference to a Lease in the seats' namespace, as the operators' one."""
    name = f"lease-{uuid.uuid4().hex[:8]}"
    path = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases"
    body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}}
    made = kube.api.request("POST", path, body)
    yield {
        "apiVersion": made["apiVersion"],
        "kind": made["kind"],
        "name": name,
        "uid": made["metadata"]["uid"],
        "controller": True,
    }
    if kube.api.find(f"{path}/{name}"):
        kube.api.delete(f"{path}/{name}")


def test_kubectl_drain_takes_a_seat_away(kube: Stack, kube_pods: Pods, take: Any, lease: dict[str, Any]) -> None:
    pod = kube_pods.create_gated("one", URI)
    owned = bound(kube, take(pod, prefer=["gpu-1"], owner=lease))
    drain = ("drain", owned, "--dry-run=server", "--pod-selector", f"{names.SEAT_LABEL}=true")
    assert "evicting pod kube-cache-seats/seat-" in kubectl(kube, *drain)
    bound(kube, take(pod, prefer=[owned]))  # one without an owner
    with pytest.raises(subprocess.CalledProcessError) as caught:
        kubectl(kube, *drain)
    assert "Pods that declare no controller" in caught.value.stderr


def test_a_seat_goes_with_its_owner(kube: Stack, kube_pods: Pods, take: Any, lease: dict[str, Any]) -> None:
    seat = take(kube_pods.create_gated("one", URI), owner=lease)
    bound(kube, seat)
    kube.api.delete(f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/{lease['name']}")
    until(lambda: kube.api.find(pod_path(SYSTEM, seat)) is None, "the seat was collected", 60)


def test_a_seat_tells_whose_it_is_and_touches_no_secrets(kube_pods: Pods) -> None:
    pod = kube_pods.create_gated("one", URI)
    seat = seats.build_seat(
        pod, name="s", namespace=SYSTEM, workflow_id="warm/a/b/c", prefer_nodes=[], exclude_nodes=[], image="pause"
    )
    assert seat["metadata"]["annotations"][names.SEAT_WORKFLOW_ANNOTATION] == "warm/a/b/c"
    assert seat["spec"]["automountServiceAccountToken"] is False
    assert not seat["spec"].get("volumes")


def build(spec: dict[str, Any], labels: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
    """Seat of a Pod with that spec, in namespace `ml`."""
    meta = {"namespace": "ml", "name": "one", "uid": "u", "labels": labels or {}}
    pod = {"metadata": meta, "spec": {"containers": [], **spec}}
    defaults: dict[str, Any] = {"prefer_nodes": [], "exclude_nodes": [], "image": "pause"}
    return seats.build_seat(pod, name="s", namespace=SYSTEM, workflow_id="w", **{**defaults, **options})


def test_a_seat_limits_what_no_node_overcommits() -> None:
    requests = {"cpu": "1", "hugepages-2Mi": "4Mi", "rdma/hca": "1", "ephemeral-storage": "1Gi"}
    resources = build({"containers": [{"resources": {"requests": requests}}]})["spec"]["containers"][0]["resources"]
    assert resources["limits"] == {"hugepages-2Mi": str(4 << 20), "rdma/hca": "1"}
    assert resources["requests"].keys() == requests.keys()


def test_a_seat_has_no_key_of_the_pods_labels() -> None:
    """Other controllers select by them: Kueue gates, Istio injects, a ReplicaSet adopts."""
    labels = {"kueue.x-k8s.io/queue-name": "q", "sidecar.istio.io/inject": "true", "app": "train"}
    seat = build({}, labels=labels)
    assert seat["metadata"]["labels"][names.SEAT_LABEL] == "true"
    assert not labels.keys() & seat["metadata"]["labels"].keys()


def test_a_seat_asks_for_the_overhead_without_the_sandbox() -> None:
    seat = build(
        {
            "runtimeClassName": "kata",
            "overhead": {"cpu": "250m", "memory": "64Mi"},
            "containers": [{"resources": {"requests": {"cpu": "1"}}}],
        }
    )
    assert seat["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "1250m", "memory": str(64 << 20)}
    assert "runtimeClassName" not in seat["spec"]


def test_hard_constraints_among_peers_are_not_asked_of_the_seats_namespace() -> None:
    term = {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "train"}}}
    hard = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    soft = {"weight": 1, "podAffinityTerm": {**term, "matchLabelKeys": ["hash"]}}
    spread = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    seat = build(
        {
            "affinity": {
                "podAntiAffinity": {**hard, "preferredDuringSchedulingIgnoredDuringExecution": [soft]},
                "podAffinity": hard,
            },
            "topologySpreadConstraints": [spread],
        }
    )["spec"]
    of_seats = seat_selector(term["labelSelector"], ["ml"])  # type: ignore[arg-type]
    assert "topologySpreadConstraints" not in seat
    assert seat["affinity"] == {
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "podAffinityTerm": {**term, "namespaces": ["ml"]}},
                {"weight": 1, "podAffinityTerm": {**term, "labelSelector": of_seats}},
            ]
        }
    }


def test_a_seat_belongs_to_its_owner_and_ends_by_itself() -> None:
    owner = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "name": "l", "uid": "u", "controller": True}
    seat = build({}, owner=owner, deadline_s=21600)
    assert seat["metadata"]["ownerReferences"] == [owner]
    assert seat["spec"]["activeDeadlineSeconds"] == 21600
    assert "ownerReferences" not in build({})["metadata"]
    assert "activeDeadlineSeconds" not in build({})["spec"]


@pytest.mark.parametrize(
    ("limits", "gpus"),
    [
        pytest.param({"nvidia.com/gpu": "8"}, 8, id="nvidia"),
        pytest.param({"amd.com/gpu": "4"}, 4, id="amd"),
        pytest.param({"gpu.intel.com/xe": "2"}, 2, id="intel"),
        pytest.param({"nvidia.com/mig-1g.10gb": "3"}, 0, id="slices are not whole GPUs"),
        pytest.param({"nvidia.com/gpu.shared": "3"}, 0, id="shares are not whole GPUs"),
        pytest.param({"cpu": "4", "rdma/hca": "8"}, 0, id="none"),
    ],
)
def test_whole_gpus_of_every_vendor_are_counted(limits: dict[str, str], gpus: int) -> None:
    assert gpu_count({"spec": {"containers": [{"resources": {"limits": limits}}]}}) == gpus
