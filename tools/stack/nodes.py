"""Fake GPU nodes, whose kubelet is kwok.

A node is a document, and kwok plays its kubelet: Pods bound to it become Running at once, and nothing runs. Sizes are
those of a large GPU machine; a node takes many more Pods than with a kubelet, so that a bench needs no hundred nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tools.stack import api, environment
from tools.stack.processes import Process, Processes

STAGES = Path(__file__).with_name("kwok-stages.yaml")
TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
TOLERATION = {"key": "nvidia.com/gpu", "operator": "Equal", "value": "present", "effect": "NoSchedule"}


def name(number: int) -> str:
    return f"gpu-{number}"


def capacity(gpus: int) -> dict[str, str]:
    return {"cpu": "192", "memory": "2Ti", "ephemeral-storage": "8Ti", "pods": "500", "nvidia.com/gpu": str(gpus)}


def document(node: str, gpus: int, labels: Mapping[str, str] | None = None) -> api.Document:
    """labels: beside those that each node has, or in their place."""
    size = capacity(gpus)
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {
                "kubernetes.io/hostname": node,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "node.kubernetes.io/instance-type": f"fake-gpu-{gpus}",
                "topology.kubernetes.io/zone": "zone-a",
                "nvidia.com/gpu.present": "true",
                **(labels or {}),
            },
        },
        "spec": {"taints": [TAINT]},
        "status": {
            "capacity": size,
            "allocatable": size,
            "addresses": [{"type": "Hostname", "address": node}],
            "nodeInfo": {
                "architecture": "amd64",
                "operatingSystem": "linux",
                "kubeletVersion": "v1.37.2-fake",
                "kubeProxyVersion": "",
                "bootID": "",
                "containerRuntimeVersion": "",
                "kernelVersion": "",
                "machineID": "",
                "osImage": "",
                "systemUUID": "",
            },
        },
    }


LEASE_S = 40
"""Duration of a node's Lease, seconds: kubelet's default. kwok renews each after a quarter of that; 0 = no Leases."""


def start_kwok(processes: Processes, binary: Path, state: Path, kubeconfig: Path, *, lease_s: int = LEASE_S) -> Process:
    return processes.spawn(
        "kwok",
        [binary, f"--kubeconfig={kubeconfig}", f"--config={STAGES}", f"--node-lease-duration-seconds={lease_s}"],
        environment.clean(state),
    )


def ready(client: api.KubeApi, node: str) -> bool:
    """Whether the scheduler would use the node: it is Ready, and the taint of a new node is off."""
    return is_ready(client.get(f"/api/v1/nodes/{node}"))


def is_ready(document: api.Document) -> bool:
    conditions = {condition["type"]: condition["status"] for condition in document["status"].get("conditions", [])}
    taints = {taint["key"] for taint in document["spec"].get("taints", [])}
    return conditions.get("Ready") == "True" and not any(key.startswith("node.kubernetes.io/") for key in taints)


def opening(document: api.Document) -> api.Document | None:
    """Return the merge patch that undoes a cordon and foreign taints; None where there are none.

    The taints of Kubernetes itself go by themselves. A node that was made without ours stays without.
    """
    taints = document["spec"].get("taints", [])
    kept = [taint for taint in taints if taint == TAINT or taint["key"].startswith("node.kubernetes.io/")]
    if kept == taints and not document["spec"].get("unschedulable"):
        return None
    return {"spec": {"unschedulable": None, "taints": kept}}
