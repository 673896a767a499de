"""Fake GPU nodes, whose kubelet is kwok.

A node is a document, and kwok plays its kubelet: Pods bound to it become Running at once, and nothing runs. Sizes are
those of a large GPU machine; a node takes many more Pods than with a kubelet, so that a bench needs no hundred nodes.
"""

from __future__ import annotations

from pathlib import Path

from tools.stack import api, environment
from tools.stack.processes import Process, Processes

STAGES = Path(__file__).with_name("kwok-stages.yaml")
TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
TOLERATION = {"key": "nvidia.com/gpu", "operator": "Equal", "value": "present", "effect": "NoSchedule"}


def name(number: int) -> str:
    return f"gpu-{number}"


def document(node: str, gpus: int) -> api.Document:
    capacity = {"cpu": "192", "memory": "2Ti", "ephemeral-storage": "8Ti", "pods": "500", "nvidia.com/gpu": str(gpus)}
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
            },
        },
        "spec": {"taints": [TAINT]},
        "status": {
            "capacity": capacity,
            "allocatable": capacity,
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


def start_kwok(processes: Processes, binary: Path, state: Path, kubeconfig: Path) -> Process:
    return processes.spawn(
        "kwok", [binary, f"--kubeconfig={kubeconfig}", f"--config={STAGES}"], environment.clean(state)
    )


def ready(client: api.KubeApi, node: str) -> bool:
    """Whether the scheduler would use the node: it is Ready, and the taint of a new node is off."""
    document = client.get(f"/api/v1/nodes/{node}")
    conditions = {condition["type"]: condition["status"] for condition in document["status"].get("conditions", [])}
    taints = {taint["key"] for taint in document["spec"].get("taints", [])}
    return conditions.get("Ready") == "True" and not any(key.startswith("node.kubernetes.io/") for key in taints)
