"""The Kubernetes half of a stack: a real control plane and fake nodes, with the shipped manifests applied."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from kube_cache import names
from tools.stack import api, control_plane, nodes
from tools.stack.pki import Authority
from tools.stack.processes import Processes, StackError

SERVERS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
_READY_S = 60
# Seconds beyond the Lease's duration after which a silent node counts as not ready; with 40 s it is the default, 50 s.
_GRACE_S = 10
_NO_LEASE_GRACE_S = 86_400


class Cluster:
    def __init__(
        self,
        processes: Processes,
        binaries: dict[str, Path],
        state: Path,
        *,
        node_count: int,
        gpus: int,
        lease_s: int,
        with_rules: bool = True,
    ) -> None:
        self._gpus = gpus
        self._authority = Authority(state / "pki")
        self._state = state
        self.control_plane = control_plane.start(
            processes,
            binaries,
            state,
            self._authority,
            node_grace_s=lease_s + _GRACE_S if lease_s else _NO_LEASE_GRACE_S,
        )
        self.api = api.KubeApi(self.kubeconfig)
        if with_rules:
            control_plane.install(self.api)
        self.kwok = nodes.start_kwok(processes, binaries["kwok"], state, self.kubeconfig, lease_s=lease_s)
        self.nodes: list[str] = []
        self._created = 0
        for _ in range(node_count):
            self._create_node()
        for node in self.nodes:
            self._wait_ready(node)
        for namespace in (control_plane.USER_NAMESPACE, control_plane.SEATS_NAMESPACE) if with_rules else ():
            self.wait_namespace(namespace)

    @property
    def kubeconfig(self) -> Path:
        """Of the cluster's admin."""
        return self.control_plane.admin_kubeconfig

    @property
    def operator_kubeconfig(self) -> Path:
        """Of the operator's ServiceAccount, with the rights that the shipped manifests grant."""
        return self.control_plane.operator_kubeconfig

    def user_kubeconfig(self, user: str) -> Path:
        """Write a kubeconfig for a user without rights, except those that a test binds to the name."""
        return self._authority.kubeconfig(self._state / f"{user}.kubeconfig", self.control_plane.server, user)

    @property
    def authority(self) -> Path:
        """Certificate of the authority that clients and servers of this cluster trust."""
        return self._authority.certificate

    def node_kubeconfig(self, node: str) -> Path:
        """Write a kubeconfig for the kubelet of a real node (`tools.node`)."""
        path, server = self._state / f"{node}.kubeconfig", self.control_plane.server
        return self._authority.kubeconfig(path, server, f"system:node:{node}", "system:nodes")

    def create_namespace(self, namespace: str, *, exempt: bool = False) -> None:
        """exempt: the admission policies for users' Pods leave the namespace alone; all fields are written by hand."""
        labels = {f"{names.DOMAIN}/admission": "disabled"} if exempt else {}
        self.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}})
        self.wait_namespace(namespace)

    def wait_namespace(self, namespace: str) -> None:
        """Wait for the namespace's default service account, without which no Pod can be created."""
        account = partial(self.api.find, f"/api/v1/namespaces/{namespace}/serviceaccounts/default")
        self.control_plane.controller_manager.wait_until(
            lambda: account() is not None, f"default service account in {namespace}", _READY_S
        )

    def wait_served(self, path: str) -> None:
        """Wait for the collection of a kind that was defined a moment ago."""

        def is_served() -> bool:
            try:
                return self.api.find(path) is not None
            except api.ApiError as error:
                if error.status == 429:  # its storage is being made
                    return False
                raise

        self.control_plane.apiserver.wait_until(is_served, f"collection {path}", _READY_S)

    def add_node(self, name: str = "", labels: Mapping[str, str] | None = None) -> str:
        """Add a node and return its name. name: of a node that was deleted, to bring it back."""
        node = self._create_node(name, labels)
        self._wait_ready(node)
        return node

    def delete_node(self, node: str) -> None:
        self.nodes.remove(node)
        self.api.delete(f"/api/v1/nodes/{node}")

    def repair(self) -> None:
        """Start what was stopped, and open the nodes that were closed."""
        if not self.control_plane.apiserver.running:
            self.control_plane.start_apiserver()
        if not self.control_plane.scheduler.running:
            self.control_plane.start_scheduler()
        for found in self.api.get("/api/v1/nodes")["items"]:
            node = found["metadata"]["name"]
            if node in self.nodes and (patch := nodes.opening(found)):
                self.api.request("PATCH", f"/api/v1/nodes/{node}", patch, content_type=api.MERGE)

    def close(self) -> None:
        self.api.close()

    def _create_node(self, name: str = "", labels: Mapping[str, str] | None = None) -> str:
        if not name:
            self._created += 1
        node = name or nodes.name(self._created)
        self.api.create(nodes.document(node, self._gpus, labels))
        self.nodes.append(node)
        return node

    def _wait_ready(self, node: str) -> None:
        deadline = time.monotonic() + _READY_S
        while not nodes.ready(self.api, node):
            if not self.kwok.running or time.monotonic() > deadline:
                raise StackError(f"node {node} does not become Ready; {self.kwok.log}:\n{self.kwok.tail()}")
            time.sleep(0.02)
