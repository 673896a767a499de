"""Karpenter beside a stack: a pool of GPU nodes that begins empty, and an agent for each node that comes.

Karpenter's kwok provider makes a Node object for a machine, and kwok plays its kubelet, as for the stack's other nodes.
In a cluster a DaemonSet brings the agents; here a thread starts one for each node of the pool that is ready, and kills
it when the node is gone.
"""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import yaml

from tools.servers import build
from tools.stack import api, environment, nodes, ports, probe
from tools.stack.processes import Process
from tools.stack.stack import Stack

POOL = "gpu"
_POOL_LABEL = "karpenter.sh/nodepool"
_ZONE, _CAPACITY_TYPE = "topology.kubernetes.io/zone", "karpenter.sh/capacity-type"
_READY_S = 60
_LOOK_S = 0.2


class Karpenter:
    """A context manager. consolidate_after_s: seconds after which a node that is not needed is removed."""

    def __init__(self, stack: Stack, *, consolidate_after_s: int) -> None:
        self._stack = stack
        self._consolidate_after_s = consolidate_after_s
        self._agents_may_start = threading.Event()
        self._agents_may_start.set()
        self._closing = threading.Event()
        self._daemon_set = threading.Thread(target=self._run_agents, name="karpenter-agents", daemon=True)
        self._with_agent: set[str] = set()
        self.ever: set[str] = set()
        """Names of all nodes of the pool that were ready once."""

    def __enter__(self) -> Self:
        binary = build.ensure(["karpenter"])["karpenter"]
        crds = subprocess.run([binary, "--crds"], check=True, capture_output=True, text=True).stdout
        for crd in yaml.safe_load_all(crds):
            self._stack.api.apply(crd)
        types = self._stack.state / "instance-types.json"
        types.write_text(json.dumps([_instance_type(self._stack.gpus)]))

        def launch(chosen: list[int]) -> Process:
            variables = {
                "KUBECONFIG": str(self._stack.kubeconfig),
                "SYSTEM_NAMESPACE": "kube-system",
                "KUBERNETES_MIN_VERSION": "1.19.0-0",
                "DISABLE_LEADER_ELECTION": "true",
                "CLUSTER_NAME": "kube-cache",
                "INSTANCE_TYPES_FILE_PATH": str(types),
                "METRICS_PORT": str(chosen[0]),
                "HEALTH_PROBE_PORT": str(chosen[1]),
            }
            home = environment.clean(self._stack.state, **variables)
            process = self._stack.processes.spawn("karpenter", [binary], home)
            url = f"http://{ports.LOOPBACK}:{chosen[1]}/readyz"
            process.wait_until(lambda: probe.answers(url), "/readyz", _READY_S)
            return process

        self._process = ports.binding(2, launch)
        self._stack.api.apply_all(_pool(self._consolidate_after_s))
        self._daemon_set.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._agents_may_start.set()
        self._daemon_set.join()
        self._process.kill()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let Karpenter do nothing within the block."""
        self._process.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.signal(signal.SIGCONT)

    @contextmanager
    def without_agents(self) -> Iterator[None]:
        """Start no agent within the block, as where a large image is being pulled."""
        self._agents_may_start.clear()
        try:
            yield
        finally:
            self._agents_may_start.set()

    @property
    def agents(self) -> set[str]:
        """Nodes whose agent was started and not killed yet."""
        return self._with_agent.copy()

    def nodes(self) -> dict[str, api.Document]:
        """Return the nodes of the pool by name, ready or not."""
        found = self._stack.api.get("/api/v1/nodes", labelSelector=f"{_POOL_LABEL}={POOL}")["items"]
        return {node["metadata"]["name"]: node for node in found}

    def told(self, name: str, reason: str) -> str:
        """Return the notes of the Events about the object of that name, in any namespace."""
        selector = f"regarding.name={name},reason={reason}"
        events = self._stack.api.get("/apis/events.k8s.io/v1/events", fieldSelector=selector)["items"]
        return "\n".join(event.get("note", "") for event in events)

    def claims(self) -> list[api.Document]:
        """Return the NodeClaims: what Karpenter has asked its provider for."""
        return list(self._stack.api.get("/apis/karpenter.sh/v1/nodeclaims")["items"])

    def delete_claim(self, node: str) -> None:
        """Have Karpenter drain and remove the node."""
        for claim in self.claims():
            if claim["status"].get("nodeName") == node:
                self._stack.api.delete(f"/apis/karpenter.sh/v1/nodeclaims/{claim['metadata']['name']}")

    def kill_agent(self, node: str) -> None:
        """Kill the agent, which is not started again."""
        if (agent := self._stack.agents.pop(node, None)) and agent.running:
            agent.kill()

    def _run_agents(self) -> None:
        while not self._closing.wait(_LOOK_S):
            found = self.nodes()
            ready = {name for name, node in found.items() if nodes.is_ready(node)}
            self.ever |= ready
            for name in sorted(self._with_agent - found.keys()):
                self.kill_agent(name)
                self._with_agent.remove(name)
            if self._agents_may_start.is_set():
                for name in sorted(ready - self._with_agent):
                    self._with_agent.add(name)
                    self._stack.start_agent(name)


def _instance_type(gpus: int) -> Mapping[str, object]:
    """The only machine that the provider offers, in one zone, of the size of a stack's other nodes."""
    values = {_CAPACITY_TYPE: "on-demand", _ZONE: "zone-a"}
    where = [{"key": key, "operator": "In", "values": [value]} for key, value in values.items()]
    return {
        "name": "g-192x-amd64-linux",
        "offerings": [{"Price": 1.0, "Available": True, "Requirements": where}],
        "architecture": "amd64",
        "operatingSystems": ["linux"],
        "resources": nodes.capacity(gpus),
    }


def _pool(consolidate_after_s: int) -> list[api.Document]:
    node_class = {"apiVersion": "karpenter.kwok.sh/v1alpha1", "kind": "KWOKNodeClass", "metadata": {"name": POOL}}
    pool = {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "metadata": {"name": POOL},
        "spec": {
            "disruption": {
                "consolidationPolicy": "WhenEmptyOrUnderutilized",
                "consolidateAfter": f"{consolidate_after_s}s",
                "budgets": [{"nodes": "100%"}],
            },
            "template": {
                "spec": {
                    "taints": [nodes.TAINT],
                    "requirements": [{"key": _CAPACITY_TYPE, "operator": "In", "values": ["on-demand"]}],
                    "nodeClassRef": {"group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": POOL},
                    "expireAfter": "Never",
                }
            },
        },
    }
    return [node_class, pool]
