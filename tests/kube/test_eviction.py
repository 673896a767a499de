"""Who is evicted by the real API server, and who never."""

from __future__ import annotations

from typing import Any

import pytest

from activities.cluster.evict_pod import EvictPod
from activities.cluster.move_receipt import MoveReceipt
from kube_cache import names
from kube_cache.contracts.common import PodRef
from kube_cache.contracts.warm_pod import EvictPodInput, MoveReceiptInput
from kube_cache.errors import PodGone
from kube_cache.kube import eviction, gate, pods
from kube_cache.kube.client import KubeClient
from kube_cache.kube.mounts import DEFAULT_ROOT
from tests.kube.fakes import RECEIPT, URI
from tools.stack.pods import Pods

NOWHERE = {"nodeSelector": {"kubernetes.io/hostname": "nowhere"}}


def stuck(client: KubeClient, kube_pods: Pods, name: str, *, controller: bool, **annotations: str) -> PodRef:
    """A released Pod that fits nowhere."""
    pod = kube_pods.create_gated(name, URI, spec=NOWHERE, annotations=annotations)
    ref = pods.ref(pod)
    if controller:
        owners = f"/api/v1/namespaces/{ref.namespace}/configmaps"
        made = kube_pods.api.request("POST", owners, {"metadata": {"name": name}})  # the collector wants a real one
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": made["metadata"]["uid"]}
        owner = {"metadata": {"ownerReferences": [{**reference, "controller": True}]}}
        path = f"/api/v1/namespaces/{ref.namespace}/pods/{ref.name}"
        kube_pods.api.request("PATCH", path, owner, content_type="application/merge-patch+json")
    gate.release(client, ref, None, RECEIPT, cache_root=DEFAULT_ROOT)
    return ref


EVICT = {names.ON_STUCK_ANNOTATION: "evict"}


async def test_a_stuck_pod_of_a_controller_is_evicted_once_and_told(kube_client: KubeClient, kube_pods: Pods) -> None:
    ref = stuck(kube_client, kube_pods, "one", controller=True, **EVICT)
    activity = EvictPod(kube_client)
    assert (await activity.evict_pod(EvictPodInput(ref, "stuck"))).outcome == "evicted"
    assert kube_pods.find("one") is None
    assert (await activity.evict_pod(EvictPodInput(ref, "stuck"))).outcome == "gone"
    (event,) = [one for one in kube_pods.events("one") if one["reason"] == "EvictedStuck"]
    assert event["note"] == "stuck"


@pytest.mark.parametrize(
    ("controller", "annotations", "outcome"),
    [
        pytest.param(False, EVICT, eviction.UNCONTROLLED, id="a bare Pod"),
        pytest.param(True, {}, eviction.UNWANTED, id="nobody asked"),
        pytest.param(True, {names.ON_STUCK_ANNOTATION: "keep"}, eviction.UNWANTED, id="to be kept"),
    ],
)
def test_nobody_else_is_evicted(
    kube_client: KubeClient, kube_pods: Pods, controller: bool, annotations: dict[str, str], outcome: str
) -> None:
    ref = stuck(kube_client, kube_pods, "one", controller=controller, **annotations)
    assert eviction.evict_unbound(kube_client, ref) == outcome
    assert kube_pods.find("one") is not None


def test_a_pod_that_runs_and_a_pod_of_the_same_name_are_left_alone(kube_client: KubeClient, kube_pods: Pods) -> None:
    ref = pods.ref(kube_pods.create_gated("one", URI, gates=(), annotations=EVICT))
    kube_pods.wait_bound("one")
    assert eviction.evict_unbound(kube_client, ref) == eviction.BOUND
    with pytest.raises(PodGone):
        eviction.evict_unbound(kube_client, PodRef(ref.namespace, ref.name, "another"))


async def test_a_receipt_moves_with_its_pod_and_to_no_other(kube_client: KubeClient, kube_pods: Pods) -> None:
    made: dict[str, Any] = kube_pods.create_gated("one", URI)
    ref = pods.ref(made)
    move = MoveReceipt(kube_client)
    await move.move_receipt(MoveReceiptInput(ref, "gpu-9", "disk", ["ab" * 32]))
    assert pods.receipt(kube_pods.get("one")) == ("gpu-9", "disk", ("ab" * 32,))
    await move.move_receipt(MoveReceiptInput(PodRef(ref.namespace, "one", "another"), "gpu-8", "disk", []))
    await move.move_receipt(MoveReceiptInput(PodRef(ref.namespace, "two", "another"), "gpu-8", "disk", []))
    assert pods.receipt(kube_pods.get("one")).node == "gpu-9"
