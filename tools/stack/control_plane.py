"""A Kubernetes control plane on loopback: etcd, API server, controller manager, scheduler.

RBAC and all default admission are on, because half of an operator's errors come from there. The operator's kubeconfig
has the user name of its ServiceAccount in a cluster, so that the shipped bindings are the ones tested.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kube_cache import names
from tools.stack import api, environment, manifest, ports, probe
from tools.stack.audit import Audit
from tools.stack.pki import Authority
from tools.stack.processes import Process, Processes

OPERATOR_NAMESPACE = "kube-cache-system"
SEATS_NAMESPACE = names.SEATS_NAMESPACE
OPERATOR_USER = f"system:serviceaccount:{OPERATOR_NAMESPACE}:kube-cache-operator"
USER_NAMESPACE = "ml"

_READY_S = 90
"""Ten times the usual on two idle cores, because a build may run beside."""


@dataclass
class ControlPlane:
    server: str
    admin_kubeconfig: Path
    operator_kubeconfig: Path
    etcd: Process
    apiserver: Process
    controller_manager: Process
    scheduler: Process
    audit: Audit
    _scheduler_url: str
    _context: ssl.SSLContext

    def stop_apiserver(self) -> None:
        """Send SIGKILL: every watch breaks and requests are refused."""
        self.apiserver.kill()

    def start_apiserver(self) -> None:
        """Start again on the same port, over the same etcd."""
        self.apiserver = self.apiserver.respawn()
        self.apiserver.wait_until(lambda: probe.answers(f"{self.server}/readyz", self._context), "/readyz", _READY_S)

    def start_scheduler(self) -> None:
        """Start it again after a kill. It decides nothing before it has read all nodes and Pods as they are then."""
        self.scheduler = self.scheduler.respawn()
        self.scheduler.wait_until(lambda: probe.answers(self._scheduler_url, self._context), "/healthz", _READY_S)


def start(
    processes: Processes, binaries: dict[str, Path], state: Path, authority: Authority, *, node_grace_s: int
) -> ControlPlane:
    """node_grace_s: seconds after which a node that renews no Lease counts as not ready."""
    return _Launcher(processes, binaries, state, authority).start_all(node_grace_s)


def install(client: api.KubeApi) -> None:
    """Apply what is shipped: namespaces, priority classes, accounts and their rights, admission policies."""
    for document in manifest.rules():
        if "seatImages" in (document.get("data") or {}):
            document["data"]["seatImages"] += ", pause"  # of the seats that tests make, which nothing pulls
        client.apply(document)
    client.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": USER_NAMESPACE}})


class _Launcher:
    """Starts the four components; holds what their command lines share."""

    def __init__(self, processes: Processes, binaries: dict[str, Path], state: Path, authority: Authority) -> None:
        self._processes = processes
        self._binaries = binaries
        self._state = state
        self._authority = authority
        self._tls = authority.server("kube-apiserver")
        self._audit = Audit(state)
        self._tokens = authority.signing_key("service-account")
        self._context = ssl.create_default_context(cafile=str(authority.certificate))

    def start_all(self, node_grace_s: int) -> ControlPlane:
        etcd, etcd_url = ports.binding(2, self._etcd)
        apiserver, server = ports.binding(1, partial(self._apiserver, etcd_url))
        state, authority = self._state, self._authority
        controller_manager, _ = self._component(
            "kube-controller-manager",
            server,
            f"--service-account-private-key-file={self._tokens.key}",
            f"--root-ca-file={authority.certificate}",
            "--use-service-account-credentials",
            "--concurrent-namespace-syncs=20",
            f"--node-monitor-grace-period={node_grace_s}s",
            # Of a node that has not become Ready yet: thousands at once take their time.
            f"--node-startup-grace-period={max(60, node_grace_s)}s",
        )
        scheduler, scheduler_url = self._component("kube-scheduler", server)
        return ControlPlane(
            server=server,
            admin_kubeconfig=authority.kubeconfig(
                state / "kubeconfig", server, "kube-cache-admin", "system:masters", namespace=USER_NAMESPACE
            ),
            operator_kubeconfig=authority.kubeconfig(
                state / "operator.kubeconfig", server, OPERATOR_USER, namespace=OPERATOR_NAMESPACE
            ),
            etcd=etcd,
            apiserver=apiserver,
            controller_manager=controller_manager,
            scheduler=scheduler,
            audit=self._audit,
            _scheduler_url=scheduler_url,
            _context=self._context,
        )

    def _etcd(self, chosen: list[int]) -> tuple[Process, str]:
        client, peer = (f"http://{ports.LOOPBACK}:{port}" for port in chosen)
        process = self._spawn(
            "etcd",
            "--name=kube-cache",
            f"--data-dir={self._state / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=kube-cache={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )
        process.wait_until(lambda: probe.answers(f"{client}/health"), "healthy member", _READY_S)
        return process, client

    def _apiserver(self, etcd_url: str, chosen: list[int]) -> tuple[Process, str]:
        server = f"https://{ports.LOOPBACK}:{chosen[0]}"
        process = self._spawn(
            "kube-apiserver",
            f"--etcd-servers={etcd_url}",
            f"--bind-address={ports.LOOPBACK}",
            f"--secure-port={chosen[0]}",
            f"--cert-dir={self._state / 'apiserver'}",
            f"--tls-cert-file={self._tls.certificate}",
            f"--tls-private-key-file={self._tls.key}",
            f"--client-ca-file={self._authority.certificate}",
            "--authorization-mode=RBAC",
            "--anonymous-auth=true",  # for /readyz, as on most clusters; RBAC keeps it to that
            "--allow-privileged=true",
            "--service-cluster-ip-range=10.0.0.0/24",
            f"--service-account-issuer={server}/",
            f"--service-account-key-file={self._tokens.certificate}",
            f"--service-account-signing-key-file={self._tokens.key}",
            # Without these two it looks for an address of its own, and ends on a machine without a default route.
            f"--advertise-address={ports.LOOPBACK}",
            "--endpoint-reconciler-type=none",
            "--profiling=false",
            # As on the large providers: a Pod that asks for GPUs tolerates the taint of GPU nodes without saying so.
            "--enable-admission-plugins=ExtendedResourceToleration",
            *self._audit.arguments,
        )
        process.wait_until(lambda: probe.answers(f"{server}/readyz", self._context), "/readyz", _READY_S)
        return process, server

    def _component(self, name: str, server: str, *own: str) -> tuple[Process, str]:
        """Start controller manager or scheduler; the process and the URL of its health."""
        config = self._authority.kubeconfig(self._state / f"{name}.kubeconfig", server, f"system:{name}")

        def launch(chosen: list[int]) -> tuple[Process, str]:
            process = self._spawn(
                name,
                f"--kubeconfig={config}",
                f"--authentication-kubeconfig={config}",
                f"--authorization-kubeconfig={config}",
                f"--tls-cert-file={self._tls.certificate}",
                f"--tls-private-key-file={self._tls.key}",
                f"--bind-address={ports.LOOPBACK}",
                f"--secure-port={chosen[0]}",
                "--leader-elect=false",
                # The defaults protect an API server from its clients; a bench would measure them here.
                "--kube-api-qps=500",
                "--kube-api-burst=1000",
                *own,
            )
            url = f"https://{ports.LOOPBACK}:{chosen[0]}/healthz"
            process.wait_until(lambda: probe.answers(url, self._context), "/healthz", _READY_S)
            return process, url

        return ports.binding(1, launch)

    def _spawn(self, name: str, *arguments: str) -> Process:
        return self._processes.spawn(name, [self._binaries[name], *arguments], environment.clean(self._state))
