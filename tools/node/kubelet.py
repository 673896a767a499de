"""kubelet on a node, with a client certificate of the stack's authority and the rights of a node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tools.node.containerd import SOCKET
from tools.node.machine import Machine
from tools.stack import nodes
from tools.stack.api import KubeApi
from tools.stack.processes import Process, StackError

SERVERS = ("kubelet",)
_READY_S = 60
# The stack's API server knows no authorization mode Node, which would do this by itself.
RIGHTS = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "kube-cache-real-nodes"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node"},
    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}],
}


class Kubelet:
    def __init__(
        self,
        machine: Machine,
        binary: Path,
        api: KubeApi,
        *,
        name: str,
        kubeconfig: Path,
        authority: Path,
        address: str,
        dns: str,
    ) -> None:
        """kubeconfig: of the user `system:node:<name>`. authority: certificate of whom the kubelet's clients trust."""
        self._machine = machine
        self._api = api
        self._name = name
        self._process: Process | None = None
        self._before = ""
        self._config = machine.folder / "kubelet.json"
        self._config.write_text(json.dumps(_configuration(machine, authority, dns)))
        self._command = [
            str(binary),
            f"--config={self._config}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={name}",
            f"--node-ip={address}",
            "--cert-dir=/var/lib/kubelet/pki",
            "--node-labels=nvidia.com/gpu.present=true",
        ]

    @property
    def process(self) -> Process:
        if self._process is None:
            raise StackError("the kubelet was never started")
        return self._process

    def start(self) -> None:
        self._before = self._renewed()
        self._process = self._machine.spawn("kubelet", self._command)

    def wait_ready(self) -> None:
        """Wait until this kubelet has spoken, and the scheduler would use the node.

        The API server calls a node Ready for 40 s after the end of its last kubelet.
        """

        def ready() -> bool:
            node = self._api.find(f"/api/v1/nodes/{self._name}")
            return node is not None and nodes.is_ready(node) and self._renewed() != self._before

        self.process.wait_until(ready, f"node {self._name} is Ready", _READY_S)

    def _renewed(self) -> str:
        """Return when a kubelet of this node has renewed its Lease; "" for a node that never was."""
        lease = self._api.find(f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{self._name}")
        return str(lease["spec"]["renewTime"]) if lease else ""


def _configuration(machine: Machine, authority: Path, dns: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(authority)},
        },
        "authorization": {"mode": "Webhook"},
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{machine.cgroup}",
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "clusterDomain": "cluster.local",
        "clusterDNS": [dns],
        "resolvConf": "",
        # Rules of the whole machine, which a node without Services by iptables does not need.
        "makeIPTablesUtilChains": False,
        "localStorageCapacityIsolation": False,
        # The disk is this machine's: it may be fuller than a node's, and is not the kubelet's to tidy.
        "evictionHard": {},
        "imageGCHighThresholdPercent": 100,
        # Brisk, because tests wait for it: by default a container that ends often restarts after minutes.
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
        "nodeStatusUpdateFrequency": "2s",
        "syncFrequency": "10s",
    }
