"""What generated Pods refer to, in the cluster: runtime classes, storage classes, volumes and claims of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.kube.oracle.generated import HOST, ZONE
from tools.stack.api import ApiError, KubeApi

Json = dict[str, Any]
_NODE, _STORAGE = "/apis/node.k8s.io/v1/runtimeclasses", "/apis/storage.k8s.io/v1/storageclasses"
_VOLUMES = "/api/v1/persistentvolumes"


@contextmanager
def world(api: KubeApi, namespace: str) -> Iterator[None]:
    """Make what the generator names in this namespace, and remove what is not of the namespace."""
    made: list[str] = []

    def create(path: str, body: Json) -> Json:
        made.append(f"{path}/{body['metadata']['name']}")
        return api.request("POST", path, body)

    try:
        _create(create, api, namespace)
        yield
    finally:
        for path in reversed(made):
            api.delete(path)


def _create(create: Any, api: KubeApi, namespace: str) -> None:
    for name, more in (
        ("oracle-overhead", {"overhead": {"podFixed": {"cpu": "1500m", "memory": "100Mi"}}}),
        (
            "oracle-sandbox",
            {
                "overhead": {"podFixed": {"memory": "2Gi"}},
                "scheduling": {
                    "nodeSelector": {"sandbox": "yes"},
                    "tolerations": [{"key": "spot", "operator": "Exists"}],
                },
            },
        ),
    ):
        create(
            _NODE,
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": name},
                "handler": "x",
                **more,
            },
        )
    for name, mode in (("oracle-late", "WaitForFirstConsumer"), ("oracle-now", "Immediate")):
        create(
            _STORAGE,
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {"name": name},
                "provisioner": "none.example",
                "volumeBindingMode": mode,
            },
        )
    claims = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
    in_zones = [{"matchExpressions": [{"key": ZONE, "operator": "In", "values": ["zone-b", "zone-c"]}]}]
    several = [
        {"matchExpressions": [{"key": ZONE, "operator": "In", "values": ["zone-a"]}]},
        {"matchExpressions": [{"key": "size", "operator": "Gt", "values": ["3"]}, {"key": HOST, "operator": "Exists"}]},
    ]
    in_a = [{"matchExpressions": [{"key": ZONE, "operator": "In", "values": ["zone-a"]}]}]
    for name, terms, labels, mode in (
        ("zone-a", in_a, {}, "ReadWriteMany"),
        ("zone-bc", in_zones, {}, "ReadWriteMany"),
        ("labelled", None, {ZONE: "zone-a__zone-c"}, "ReadWriteMany"),
        ("multi", several, {}, "ReadWriteMany"),
        ("alone", None, {}, "ReadWriteOncePod"),
    ):
        claim = api.request("POST", claims, _claim(name, "", f"{namespace}-{name}", mode))
        create(_VOLUMES, _volume(f"{namespace}-{name}", claim, terms, labels, mode))
    api.request("POST", claims, _claim("late", "oracle-late", "", "ReadWriteMany"))
    api.request("POST", claims, _claim("unbound", "oracle-now", "", "ReadWriteMany"))


def _claim(name: str, storage: str, volume: str, mode: str) -> Json:
    bound = {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}} if volume else {}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, **bound},
        "spec": {
            "accessModes": [mode],
            "storageClassName": storage,
            "resources": {"requests": {"storage": "1Gi"}},
            **({"volumeName": volume} if volume else {}),
        },
    }


def _volume(name: str, claim: Json, terms: list[Json] | None, labels: Json, mode: str) -> Json:
    meta = claim["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "labels": labels, "annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": [mode],
            "persistentVolumeReclaimPolicy": "Retain",
            "csi": {"driver": "shared.example", "volumeHandle": name},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": meta["namespace"],
                "name": meta["name"],
                "uid": meta["uid"],
            },
            **({"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}} if terms else {}),
        },
    }


def create_node(api: KubeApi, node: Json) -> None:
    """Create a node with the taints that it names and no other, such as that of a new node."""
    api.request("POST", "/api/v1/nodes", node)
    path = f"/api/v1/nodes/{node['metadata']['name']}"
    while True:
        stored = api.get(path)
        if stored["spec"].get("taints", []) == node["spec"]["taints"]:
            return
        stored["spec"]["taints"] = node["spec"]["taints"]
        try:
            api.request("PUT", path, stored)
        except ApiError as error:
            if error.status != 409:
                raise
