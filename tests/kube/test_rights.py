"""What the operator reads and writes beside Pods is granted to its account, on a real API server.

The table in `tools/rbac/table.py` names these tests: `make rbac` takes a right away and has its test fail.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from kube_cache import names
from kube_cache.errors import NodeUnfit
from kube_cache.kube import seat_priority, seats
from kube_cache.kube.allowed_datasets import AllowedDatasets
from kube_cache.kube.claims import Claims
from kube_cache.kube.client import KubeClient
from kube_cache.kube.lease import Lease
from kube_cache.kube.placement.listing import Listing
from kube_cache.kube.placement.selectors import parse
from kube_cache.kube.reflector import Reflector
from tools.rbac import page, roles
from tools.rbac.table import LINES, PEERS
from tools.stack import Stack, manifest
from tools.stack.pods import Pods
from tools.stack.waiting import until
from watcher.nodes import NodeWatcher

STORAGE = "/apis/storage.k8s.io/v1"


def test_every_right_that_is_shipped_has_its_line_and_every_line_its_right() -> None:
    shipped = roles.rights(manifest.rules(), "kube-cache-operator")
    assert sorted(line.right for line in LINES if line.right.role != PEERS) == sorted(shipped)
    assert len(set(shipped)) == len(shipped), "a right is granted twice"


def test_nobody_else_of_ours_has_a_right_in_the_cluster() -> None:
    """Agents have none. A Prometheus, which is no part of Kube-Cache, may find the Pods that it scrapes."""
    assert roles.rights(manifest.rules(), "kube-cache-agent") == []
    pods = {(right.namespace, right.resource, right.verb) for right in roles.rights(manifest.rules(), "prometheus")}
    assert pods == {("kube-cache-system", "pods", verb) for verb in ("get", "list", "watch")}


def test_the_page_of_rights_is_current() -> None:
    assert page.PATH.read_text() == page.render(), "run make rbac"


def test_pods_are_listed(kube_client: KubeClient, kube_pods: Pods) -> None:
    """As the reconcile and the judgement of a Pod's peers do."""
    kube_pods.create_gated("one", "s3://models/a")
    listed = kube_client.list_items("pods", namespace=kube_pods.namespace)
    assert [pod["metadata"]["name"] for pod in listed] == ["one"]


def test_nodes_are_listed(kube_client: KubeClient, kube: Stack) -> None:
    assert set(kube.nodes) <= set(Listing(kube_client, list).nodes())


@pytest.mark.parametrize("resource", ["pods", "nodes"])
def test_changes_are_watched(kube_client: KubeClient, kube: Stack, kube_pods: Pods, resource: str) -> None:
    seen: list[str] = []
    reflector = Reflector(
        kube_client,
        resource,
        name="test",
        project=lambda item: item["metadata"],
        handler=lambda _, meta: seen.append(f"{meta['name']} {meta.get('annotations', {}).get('changed')}"),
    )
    stop = threading.Event()
    threading.Thread(target=reflector.run, args=(stop,), daemon=True).start()
    try:
        assert reflector.synced.wait(90)
        kube_pods.create_gated("one", "s3://models/a")
        path = f"/api/v1/nodes/{kube.nodes[0]}"
        if resource == "pods":
            path = f"/api/v1/namespaces/{kube_pods.namespace}/pods/one"
        value = uuid.uuid4().hex
        changed = {"metadata": {"annotations": {"changed": value}}}
        kube.api.request("PATCH", path, changed, content_type="application/merge-patch+json")
        expected = f"{path.rpartition('/')[2]} {value}"
        # A connection from before a restart of the API server may break once; a refusal comes again and again.
        until(lambda: expected in seen or reflector.errors > 3, bool, "the change is seen, or refusals")
        assert expected in seen
    finally:
        stop.set()


def test_a_node_that_the_watch_does_not_have_is_read(kube_client: KubeClient, kube: Stack) -> None:
    starter: Any = None  # nothing is told here
    watcher = NodeWatcher(kube_client, starter, grace_s=40)
    watcher.check_node(kube.nodes[0], {"spec": {"tolerations": [{"operator": "Exists"}]}})
    with pytest.raises(NodeUnfit, match="gone-1"):
        watcher.check_node("gone-1", {"spec": {}})


def test_namespaces_are_found_by_their_labels(kube_client: KubeClient) -> None:
    selector = parse({"matchLabels": {"kubernetes.io/metadata.name": "kube-cache-seats"}})
    assert Listing(kube_client, list).namespaces(selector) == ["kube-cache-seats"]


def test_the_cluster_is_known_by_its_system_namespace(kube_client: KubeClient, kube: Stack) -> None:
    assert kube_client.cluster_uid() == kube.api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]


def test_a_priority_class_is_made_for_seats(kube_client: KubeClient, kube: Stack) -> None:
    priority = seat_priority.placeholder(uuid.uuid4().int % 1_000_000)
    try:
        seat_priority.create_class(kube_client, priority, names.SEATS_NAMESPACE)
        made = kube.api.get(f"/apis/scheduling.k8s.io/v1/priorityclasses/{priority.class_name}")
        assert [owner["name"] for owner in made["metadata"]["ownerReferences"]] == [names.SEATS_NAMESPACE]
    finally:
        kube.api.delete(f"/apis/scheduling.k8s.io/v1/priorityclasses/{priority.class_name}")


def test_the_allowed_datasets_are_read(kube_client: KubeClient) -> None:
    AllowedDatasets(kube_client).check("ml", ["s3://models/a"])


def test_the_lease_is_made(kube_client: KubeClient, kube: Stack) -> None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{names.SEATS_NAMESPACE}/leases/{names.LEASE}"
    kube.api.delete(path)
    Lease(kube_client, names.SEATS_NAMESPACE, names.LEASE, identity="a", duration_s=10).ensure()
    assert kube.api.find(path)


def test_the_lead_is_taken_and_given_back(kube_client: KubeClient, kube: Stack) -> None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{names.SEATS_NAMESPACE}/leases/{names.LEASE}"
    kube.api.delete(path)
    meta = {"name": names.LEASE, "namespace": names.SEATS_NAMESPACE}
    kube.api.create({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": {}})
    lease = Lease(kube_client, names.SEATS_NAMESPACE, names.LEASE, identity="a", duration_s=10)
    assert lease.try_hold()
    assert kube.api.get(path)["spec"]["holderIdentity"] == "a"
    lease.release()
    assert not kube.api.get(path)["spec"].get("holderIdentity")


def test_a_seat_is_deleted(kube_client: KubeClient, kube: Stack, kube_pods: Pods) -> None:
    name = f"seat-{uuid.uuid4().hex[:8]}"
    seat = seats.build_seat(
        kube_pods.create_gated("one", "s3://models/a"), name=name, namespace=names.SEATS_NAMESPACE,
        workflow_id="warm/a/b/c", prefer_nodes=[], exclude_nodes=[], image="pause",
    )  # fmt: skip
    seats.create(kube_client, seat)
    path = f"/api/v1/namespaces/{names.SEATS_NAMESPACE}/pods/{name}"
    try:
        assert seats.delete(kube_client, names.SEATS_NAMESPACE, name)
        assert kube.api.find(path) is None
    finally:
        kube.api.delete(path, grace_s=0)


@pytest.fixture
def storage(kube: Stack) -> Iterator[str]:
    """Name of a driver with two places on a node, of its volume in zone-b, and of a class whose volumes wait."""
    name = f"disk-{uuid.uuid4().hex[:8]}"
    made = [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": "zone-b"}},
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"],
                "csi": {"driver": name, "volumeHandle": "one"},
                "storageClassName": "",
            },
        },
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": name},
            "provisioner": name,
            "volumeBindingMode": "WaitForFirstConsumer",
        },
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSINode",
            "metadata": {"name": name},
            "spec": {"drivers": [{"name": name, "nodeID": "x", "topologyKeys": [], "allocatable": {"count": 2}}]},
        },
    ]
    for document in made:
        kube.api.create(document)
    yield name
    for document in reversed(made):
        kube.api.delete(f"{kube.api.collection(document)}/{name}")


def claiming(kube_pods: Pods, **spec: Any) -> dict[str, Any]:
    """A Pod as the watch would have it, with a claim of its namespace."""
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, **spec}
    meta = {"name": "data", "namespace": kube_pods.namespace}
    kube_pods.api.create({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": claim})
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    return {"metadata": {"name": "one", "namespace": kube_pods.namespace}, "spec": {"volumes": volumes}}


def test_a_seat_goes_to_the_zone_of_its_pods_volume(kube_client: KubeClient, kube_pods: Pods, storage: str) -> None:
    pod = claiming(kube_pods, volumeName=storage, storageClassName="")
    demands = Claims(kube_client).demands(pod)
    (alternatives,) = demands.terms
    assert {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zone-b"]} in alternatives[0][
        "matchExpressions"
    ]
    (limit,) = demands.unreserved
    assert f"one of the places that {storage} has on a node" in limit


def test_a_claim_that_waits_for_its_pod_is_told(kube_client: KubeClient, kube_pods: Pods, storage: str) -> None:
    demands = Claims(kube_client).demands(claiming(kube_pods, storageClassName=storage))
    assert demands.unreserved == [
        "the claim data gets its volume where its Pod is scheduled, and no seat can stand for that"
    ]
