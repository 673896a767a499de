"""containerd on a node, with the stock CRI plugin, runc and a point-to-point network for Pods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tools.node import images
from tools.node.machine import Machine
from tools.stack.processes import Process, StackError

SERVERS = ("containerd", "containerd-shim-runc-v2", "ctr")
SOCKET = "/run/containerd/containerd.sock"
_READY_S = 60

_CONFIG = """\
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "{socket}"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{pause}"
[plugins.'io.containerd.cri.v1.runtime']
  # Without CAP_SYS_RESOURCE, as inside many containers, runc cannot lower an OOM score and dies without a word.
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "{cni}"
[plugins.'io.containerd.cri.v1.runtime'.containerd]
  default_runtime_name = "runc"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
    SystemdCgroup = false
"""


# No masquerading: Pods reach what the node's own namespace offers, and the Pods of a node that it is linked with.
def _cni(pod_network: str) -> dict[str, Any]:
    return {
        "cniVersion": "1.0.0",
        "name": "kube-cache",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": pod_network}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    # In /run: a boot begins with no address taken, because no Pod is left.
                    "dataDir": "/run/cni",
                },
            }
        ],
    }


class Containerd:
    def __init__(self, machine: Machine, binaries: dict[str, Path], *, pod_network: str) -> None:
        """pod_network: of the addresses of the node's Pods, as `10.88.0.0/24`."""
        self._machine = machine
        self._binaries = binaries
        self._process: Process | None = None
        cni = machine.folder / "cni"
        cni.mkdir()
        (cni / "10-kube-cache.conflist").write_text(json.dumps(_cni(pod_network)))
        self._config = machine.folder / "containerd.toml"
        self._config.write_text(_CONFIG.format(socket=SOCKET, pause=images.PAUSE, cni=cni))

    @property
    def process(self) -> Process:
        if self._process is None:
            raise StackError("containerd was never started")
        return self._process

    def start(self) -> None:
        shim = self._binaries["containerd-shim-runc-v2"].parent
        command = [str(self._binaries["containerd"]), "--config", str(self._config), "--log-level", "info"]
        self._process = self._machine.spawn("containerd", command, path=[shim])
        self._process.wait_until(self._answers, "answer of containerd", _READY_S)

    def load(self, archive: Path) -> None:
        """Load an OCI archive, for the kubelet to use."""
        self.ctr("images", "import", "--local", str(archive), timeout_s=300)

    def ctr(self, *words: str, timeout_s: float = 60) -> str:
        command = [str(self._binaries["ctr"]), "--address", SOCKET, "--namespace", "k8s.io", *words]
        return self._machine.run(*command, timeout_s=timeout_s)

    def _answers(self) -> bool:
        if not self._machine.path(SOCKET).exists():
            return False
        try:
            self.ctr("version")
        except StackError:
            return False
        return True
