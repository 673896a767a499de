"""Generated nodes, their peers, and Pods with every kind of demand that a node can fail."""

from __future__ import annotations

import random
from typing import Any

from tools.stack.pods import CONTAINER

Json = dict[str, Any]

ZONE, HOST = "topology.kubernetes.io/zone", "kubernetes.io/hostname"
ZONES = ("zone-a", "zone-b", "zone-c")
TAINTS = (
    {"key": "dedicated", "value": "train", "effect": "NoSchedule"},
    {"key": "dedicated", "value": "serve", "effect": "NoExecute"},
    {"key": "spot", "effect": "NoSchedule"},
    {"key": "old", "effect": "PreferNoSchedule"},
)
TOLERATIONS = (
    {"key": "dedicated", "operator": "Equal", "value": "train", "effect": "NoSchedule"},
    {"key": "dedicated", "operator": "Exists"},
    {"key": "dedicated", "operator": "Equal", "value": "serve", "effect": "NoSchedule"},
    {"key": "spot", "operator": "Exists", "effect": "NoSchedule"},
    {"operator": "Exists"},
)
SIZES = {
    "cpu": ("100m", "0.5", "1", "2500m", "4", "7"),
    "memory": ("64Mi", "1Gi", "1.5Gi", "6G", "12Gi"),
    "ephemeral-storage": ("1Gi", "20Gi"),
    "hugepages-2Mi": ("2Mi", "8Mi"),
    "nvidia.com/gpu": ("1", "2", "4"),
    "rdma/hca": ("1", "2"),
}
OVERCOMMITTED = ("cpu", "memory", "ephemeral-storage")
PORTS = (8080, 29500)
RUNTIME_CLASSES = ("oracle-overhead", "oracle-sandbox")
CLAIMS = ("zone-a", "zone-bc", "labelled", "multi", "late", "unbound", "missing", "alone")


def node(dice: random.Random, name: str) -> Json:
    labels = {HOST: name, "size": str(dice.randint(1, 5)), "disk": dice.choice(("nvme", "hdd"))}
    if dice.random() < 0.9:
        labels[ZONE] = dice.choice(ZONES)
    if dice.random() < 0.3:
        labels["sandbox"] = "yes"
    capacity = {
        "cpu": dice.choice(("2", "4", "8")),
        "memory": dice.choice(("4Gi", "16Gi")),
        "ephemeral-storage": dice.choice(("10Gi", "100Gi")),
        "pods": dice.choice(("2", "20")),
    }
    for resource, sizes in (("nvidia.com/gpu", "48"), ("rdma/hca", "2"), ("hugepages-2Mi", ("16Mi",))):
        if dice.random() < 0.7:
            capacity[resource] = dice.choice(sizes)
    taints = [taint for taint in TAINTS if dice.random() < 0.15]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": taints},
        "status": {
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": [{"type": "Ready", "status": "True", "reason": "Fake"}],
        },
    }


def peer(dice: random.Random, name: str, on: str) -> Json:
    """Pod that is bound already, and takes some of its node."""
    requests = {"cpu": dice.choice(("500m", "2")), "memory": "1Gi"}
    container: Json = {**CONTAINER, "resources": {"requests": requests}}
    if dice.random() < 0.4:
        gpus = dice.choice(("1", "4"))
        container["resources"] = {"requests": {**requests, "nvidia.com/gpu": gpus}, "limits": {"nvidia.com/gpu": gpus}}
    if dice.random() < 0.5:
        container["ports"] = [_port(dice)]
    return _pod(name, {"nodeName": on, "containers": [container], "tolerations": [{"operator": "Exists"}]})


def pod(dice: random.Random, name: str, nodes: list[str], scheduler: str) -> Json:
    """Pod that is gated. Some are invalid, and the API server says so."""
    spec: Json = {"schedulingGates": [{"name": "x/y"}], "schedulerName": scheduler}
    spec["containers"] = [_container(dice, f"c{number}") for number in range(dice.choice((1, 1, 2)))]
    inits = [_container(dice, f"i{number}") for number in range(dice.choice((0, 0, 1, 2)))]
    for container in inits:
        if dice.random() < 0.5:
            container["restartPolicy"] = "Always"
    if inits:
        spec["initContainers"] = inits
    if dice.random() < 0.15:
        spec["resources"] = {"requests": {"cpu": dice.choice(("5", "16")), "memory": "14Gi"}}
    if dice.random() < 0.15:
        spec["runtimeClassName"] = dice.choice(RUNTIME_CLASSES)
    if dice.random() < 0.2:
        spec["nodeSelector"] = dict([dice.choice(((ZONE, dice.choice(ZONES)), ("disk", "nvme")))])
    if dice.random() < 0.3:
        spec["affinity"] = {"nodeAffinity": _node_affinity(dice, nodes)}
    if dice.random() < 0.5:
        spec["tolerations"] = dice.sample(TOLERATIONS, dice.randint(1, 2))
    if dice.random() < 0.1:
        spec["hostNetwork"] = True
    if dice.random() < 0.25:
        claims = dice.sample(CLAIMS, dice.choice((1, 1, 2)))
        spec["volumes"] = [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in claims]
    return _pod(name, spec)


def probe(name: str, scheduler: str) -> Json:
    """Pod that goes to every generated node with a place for one, and to no node that is new or not ready."""
    tolerations = [{"key": key, "operator": "Exists"} for key in sorted({taint["key"] for taint in TAINTS})]
    return _pod(name, {"schedulerName": scheduler, "containers": [CONTAINER], "tolerations": tolerations})


def _pod(name: str, spec: Json) -> Json:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "train"}}, "spec": spec}


def _container(dice: random.Random, name: str) -> Json:
    limits: Json = {}
    requests: Json = {}
    for resource, sizes in SIZES.items():
        if dice.random() < (0.4 if resource in OVERCOMMITTED else 0.2):
            requests[resource] = dice.choice(sizes)
            if resource not in OVERCOMMITTED:
                limits[resource] = requests[resource]
    if "hugepages-2Mi" in requests:
        requests.setdefault("cpu", "1")  # huge pages need one of CPU and memory beside them
    container: Json = {**CONTAINER, "name": name, "resources": {"requests": requests, "limits": limits}}
    if dice.random() < 0.15:
        container["ports"] = [_port(dice)]
    return container


def _port(dice: random.Random) -> Json:
    port = dice.choice(PORTS)
    made: Json = {"containerPort": port, "hostPort": port, "protocol": dice.choice(("TCP", "TCP", "UDP"))}
    if dice.random() < 0.2:
        made["hostIP"] = "10.1.1.1"
    return made


def _node_affinity(dice: random.Random, nodes: list[str]) -> Json:
    terms: list[Json] = []
    for _ in range(dice.randint(1, 2)):
        term: Json = {}
        if dice.random() < 0.7:
            term["matchExpressions"] = [_expression(dice) for _ in range(dice.randint(1, 2))]
        if dice.random() < 0.25:
            operator = dice.choice(("In", "NotIn"))
            term["matchFields"] = [{"key": "metadata.name", "operator": operator, "values": [dice.choice(nodes)]}]
        terms.append(term)
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}


def _expression(dice: random.Random) -> Json:
    operator = dice.choice(("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"))
    if operator in ("Gt", "Lt"):
        return {"key": "size", "operator": operator, "values": [str(dice.randint(1, 5))]}
    key = dice.choice((ZONE, "sandbox"))
    if operator in ("Exists", "DoesNotExist"):
        return {"key": key, "operator": operator}
    values = dice.sample(ZONES, dice.randint(1, 2)) if key == ZONE else ["yes"]
    return {"key": key, "operator": operator, "values": values}
