"""A Kubernetes control plane on loopback: etcd, API server, controller manager, scheduler.

RBAC and all default admission are on, because half of what can go wrong with an operator goes wrong there. The operator's
kubeconfig carries the very user name that its ServiceAccount has in a cluster, so the shipped bindings are the ones tested.
"""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tools.stack import api, environment, ports
from tools.stack.pki import Authority, Pair
from tools.stack.processes import Process, Processes

MANIFESTS = Path(__file__).parents[2] / "deploy" / "manifests"
_NEEDED = ("namespace.yaml", "priority-class.yaml", "rbac.yaml")
OPERATOR_NAMESPACE = "kube-cache-system"
OPERATOR_USER = f"system:serviceaccount:{OPERATOR_NAMESPACE}:kube-cache-operator"
USER_NAMESPACE = "ml"

_READY_S = 90
"""Ten times what is usual on two idle cores: a build may run beside."""


@dataclass(frozen=True)
class ControlPlane:
    server: str
    admin_kubeconfig: Path
    operator_kubeconfig: Path
    processes: tuple[Process, ...]


def start(processes: Processes, binaries: dict[str, Path], state: Path, authority: Authority) -> ControlPlane:
    tls = authority.server("kube-apiserver")
    tokens = authority.signing_key("service-account")
    etcd, etcd_url = ports.binding(2, lambda picked: _etcd(processes, binaries["etcd"], state, picked))
    apiserver, server = ports.binding(
        1,
        lambda picked: _apiserver(
            processes, binaries["kube-apiserver"], state, authority, tls, tokens, etcd_url, picked[0]
        ),
    )
    admin = authority.kubeconfig(
        state / "kubeconfig", server, "kube-cache-admin", "system:masters", namespace=USER_NAMESPACE
    )
    operator = authority.kubeconfig(state / "operator.kubeconfig", server, OPERATOR_USER, namespace=OPERATOR_NAMESPACE)
    others = []
    for name, arguments in (
        (
            "kube-controller-manager",
            [
                f"--service-account-private-key-file={tokens.key}",
                f"--root-ca-file={authority.certificate}",
                "--use-service-account-credentials",
                "--concurrent-namespace-syncs=20",
            ],
        ),
        ("kube-scheduler", []),
    ):
        config = authority.kubeconfig(state / f"{name}.kubeconfig", server, f"system:{name}")
        common = [
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            f"--tls-cert-file={tls.certificate}",
            f"--tls-private-key-file={tls.key}",
            f"--bind-address={ports.LOOPBACK}",
            "--leader-elect=false",
            # The defaults protect an API server that others need too; here they would be what a bench measures.
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        ]
        others.append(
            ports.binding(
                1,
                lambda picked, n=name, a=[*common, *arguments]: _healthy(
                    processes, binaries[n], n, a, state, authority, picked[0]
                ),
            )  # type: ignore[misc]
        )
    return ControlPlane(server, admin, operator, (etcd, apiserver, *others))


def install(client: api.KubeApi) -> None:
    """Namespaces, priority class and the operator's rights, from the manifests that are shipped."""
    for name in _NEEDED:
        client.apply_all(api.documents(MANIFESTS / name))
    client.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": USER_NAMESPACE}})


def _etcd(processes: Processes, binary: Path, state: Path, picked: list[int]) -> tuple[Process, str]:
    client, peer = (f"http://{ports.LOOPBACK}:{port}" for port in picked)
    process = processes.spawn(
        "etcd",
        [
            binary,
            "--name=kube-cache",
            f"--data-dir={state / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=kube-cache={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ],
        environment.clean(state),
    )
    process.wait_until(lambda: _ok(f"{client}/health"), "healthy member", _READY_S)
    return process, client


def _apiserver(
    processes: Processes, binary: Path, state: Path, authority: Authority, tls: Pair, tokens: Pair, etcd: str, port: int
) -> tuple[Process, str]:
    server = f"https://{ports.LOOPBACK}:{port}"
    process = processes.spawn(
        "kube-apiserver",
        [
            binary,
            f"--etcd-servers={etcd}",
            f"--bind-address={ports.LOOPBACK}",
            f"--secure-port={port}",
            f"--cert-dir={state / 'apiserver'}",
            f"--tls-cert-file={tls.certificate}",
            f"--tls-private-key-file={tls.key}",
            f"--client-ca-file={authority.certificate}",
            "--authorization-mode=RBAC",
            "--anonymous-auth=true",  # for /readyz, as on most clusters; RBAC keeps it to that
            "--allow-privileged=true",
            "--service-cluster-ip-range=10.0.0.0/24",
            f"--service-account-issuer={server}/",
            f"--service-account-key-file={tokens.certificate}",
            f"--service-account-signing-key-file={tokens.key}",
            # Without these a machine with no default route cannot start it: it looks for an address of its own.
            f"--advertise-address={ports.LOOPBACK}",
            "--endpoint-reconciler-type=none",
            "--profiling=false",
        ],
        environment.clean(state),
    )
    context = ssl.create_default_context(cafile=str(authority.certificate))
    process.wait_until(lambda: _ok(f"{server}/readyz", context), "/readyz", _READY_S)
    return process, server


def _healthy(
    processes: Processes, binary: Path, name: str, arguments: list[str], state: Path, authority: Authority, port: int
) -> Process:
    process = processes.spawn(name, [binary, *arguments, f"--secure-port={port}"], environment.clean(state))
    context = ssl.create_default_context(cafile=str(authority.certificate))
    process.wait_until(lambda: _ok(f"https://{ports.LOOPBACK}:{port}/healthz", context), "/healthz", _READY_S)
    return process


def _ok(url: str, context: ssl.SSLContext | None = None) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
