"""The whole of Kube-Cache on one machine: the real servers, the operator and an agent a node.

Tests, demo, benches and `make stack` all use this one class, so that what people try by hand is what is tested. It owns
order and lifetime; each server's particulars are in the module of its name. Leaving the context ends every process, and so
does any death of the process that entered it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from tools.servers import build
from tools.stack import api, control_plane, environment, nodes, s3, temporal
from tools.stack.pki import Authority
from tools.stack.processes import Processes, StackError
from tools.stack.product import Part
from tools.stack.s3_proxy import S3Proxy
from tools.stack.state import State

CHECKOUT = Path(__file__).parents[2]
_SERVERS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "temporal", "versitygw")
_SETTLE_S = 60


class Stack:
    def __init__(
        self,
        *,
        node_count: int = 3,
        gpus: int = 8,
        with_product: bool = True,
        state: Path | None = None,
        operator_env: Mapping[str, str] | None = None,
        agent_env: Mapping[str, str] | None = None,
        as_reader: bool = True,
        count_s3: bool = False,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`as_reader`: the product gets the S3 identity that needs a grant for each bucket, else the owner's.
        `count_s3`: the product reaches S3 through `s3_proxy`, which counts and can disturb.
        `state`: a folder to use (emptied first) and to leave behind; without one, a temporary folder.
        """
        self.gpus = gpus
        self._node_count = node_count
        self._with_product = with_product
        self._state_path = state
        self._operator_env = dict(operator_env or {})
        self._agent_env = dict(agent_env or {})
        self._as_reader = as_reader
        self._count_s3 = count_s3
        self._report = report
        self._cleanup = ExitStack()
        self.agents: dict[str, Part] = {}
        self.s3_proxy: S3Proxy | None = None
        self._operator: Part | None = None

    def __enter__(self) -> Self:
        binaries = build.ensure(_SERVERS, self._report)
        started = time.monotonic()
        with ExitStack() as undo:
            folder = State(self._state_path)
            undo.callback(folder.close)
            self.state = folder.path
            self.logs = self.state / "logs"
            self.cache_roots = self.state / "nodes"
            self.cache_roots.mkdir()
            self.processes = Processes(self.logs)
            undo.callback(self.processes.close)
            with ThreadPoolExecutor(3) as pool:
                starting_temporal = pool.submit(temporal.start, self.processes, binaries["temporal"], self.state)
                starting_s3 = pool.submit(s3.S3Server, self.processes, binaries["versitygw"], self.state)
                self._start_kubernetes(binaries, undo)
                self.temporal = starting_temporal.result()
                self.s3 = starting_s3.result()
            if self._count_s3:
                self.s3_proxy = S3Proxy(self.s3.port)
                undo.callback(self.s3_proxy.close)
            if self._with_product:
                self.start_product()
            self._cleanup = undo.pop_all()
        self._report(f"stack: up in {time.monotonic() - started:.1f} s")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def close(self) -> None:
        self._cleanup.close()

    # Where things are.

    @property
    def temporal_address(self) -> str:
        return self.temporal.address

    @property
    def node_count(self) -> int:
        return self._node_count

    @property
    def temporal_namespace(self) -> str:
        return temporal.NAMESPACE

    @property
    def temporal_ui(self) -> str:
        return self.temporal.ui

    @property
    def kubeconfig(self) -> Path:
        return self.kubernetes.admin_kubeconfig

    @property
    def operator_kubeconfig(self) -> Path:
        return self.kubernetes.operator_kubeconfig

    @property
    def s3_endpoint(self) -> str:
        """Where the product reads: the counting proxy if there is one."""
        return self.s3_proxy.endpoint if self.s3_proxy else self.s3.endpoint

    @property
    def operator(self) -> Part:
        if self._operator is None:
            raise StackError("this stack was started without the product")
        return self._operator

    def cache_root(self, node: str) -> Path:
        return self.cache_roots / node

    # Changing it.

    def start_product(self) -> None:
        """Operator and agents, side by side."""
        self._operator = self._part("operator", "operator", self.operator_environment())
        parts = [self._operator, *(self._agent(nodes.name(k)) for k in range(1, self._node_count + 1))]
        for part in parts:
            part.start(wait=False)
        for part in parts:
            part.wait_ready()

    def add_node(self, *, with_agent: bool | None = None) -> str:
        """One more fake node, with an agent if the stack has any."""
        self._node_count += 1
        node = nodes.name(self._node_count)
        self._create_node(node)
        if self._with_product if with_agent is None else with_agent:
            self._agent(node).start()
        return node

    def remove_node(self, node: str) -> None:
        """The machine is gone: its agent is killed and its Node object deleted; its disk stays for a test to look at."""
        if (agent := self.agents.pop(node, None)) and agent.running:
            agent.kill()
        self.api.delete(f"/api/v1/nodes/{node}")

    # What processes are told.

    def operator_environment(self) -> dict[str, str]:
        """For an operator that a test starts itself."""
        return self._product_environment(
            KUBECONFIG=str(self.operator_kubeconfig),
            KUBE_CACHE_OPERATOR__NAMESPACE=control_plane.OPERATOR_NAMESPACE,
            **self._operator_env,
        )

    def agent_environment(self, node: str) -> dict[str, str]:
        return self._product_environment(
            KUBE_CACHE_AGENT__NODE=node,
            KUBE_CACHE_STORE__ROOT=str(self.cache_root(node)),
            KUBE_CACHE_STORE__ALLOW_ROOT_DISK="true",
            # A developer's disk is fuller than a node's NVMe, and no kubelet evicts anything here.
            KUBE_CACHE_STORE__MIN_FREE="0.01",
            **self._agent_env,
        )

    def user_environment(self) -> dict[str, str]:
        """For a person or a program beside the stack: admin of the cluster, owner of the buckets."""
        return {
            "KUBECONFIG": str(self.kubeconfig),
            "TEMPORAL_ADDRESS": self.temporal_address,
            "TEMPORAL_NAMESPACE": self.temporal_namespace,
            "TEMPORAL_UI": self.temporal_ui,
            "AWS_ENDPOINT_URL_S3": self.s3.endpoint,
            "AWS_ACCESS_KEY_ID": s3.OWNER.access_key,
            "AWS_SECRET_ACCESS_KEY": s3.OWNER.secret_key,
            "AWS_REGION": s3.REGION,
            "CACHE_ROOTS": str(self.cache_roots),
        }

    def _product_environment(self, **own: str) -> dict[str, str]:
        who = s3.READER if self._as_reader else s3.OWNER
        given = {
            "TEMPORAL_ADDRESS": self.temporal_address,
            "TEMPORAL_NAMESPACE": self.temporal_namespace,
            "AWS_ENDPOINT_URL_S3": self.s3_endpoint,
            "AWS_ACCESS_KEY_ID": who.access_key,
            "AWS_SECRET_ACCESS_KEY": who.secret_key,
            "AWS_REGION": s3.REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "KUBE_CACHE_TELEMETRY__LOG_FORMAT": "json",
            "PYTHONUNBUFFERED": "1",
        }
        return environment.clean(self.state, **{**given, **own})

    def _start_kubernetes(self, binaries: dict[str, Path], undo: ExitStack) -> None:
        authority = Authority(self.state / "pki")
        self.kubernetes = control_plane.start(self.processes, binaries, self.state, authority)
        self.api = api.KubeApi(self.kubeconfig)
        undo.callback(self.api.close)
        control_plane.install(self.api)
        kwok = nodes.start_kwok(self.processes, binaries["kwok"], self.state, self.kubeconfig)
        for number in range(1, self._node_count + 1):
            self.api.create(nodes.document(nodes.name(number), self.gpus))
        for number in range(1, self._node_count + 1):
            ready = partial(nodes.ready, self.api, nodes.name(number))
            kwok.wait_until(ready, f"Ready node {nodes.name(number)}", _SETTLE_S)
        for namespace in (control_plane.USER_NAMESPACE, control_plane.OPERATOR_NAMESPACE):
            self.wait_namespace(namespace)

    def wait_namespace(self, namespace: str) -> None:
        """A namespace takes Pods once the controller manager has made its default service account."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
        self.kubernetes.controller_manager.wait_until(
            lambda: self.api.find(path) is not None, f"default service account in {namespace}", _SETTLE_S
        )

    def _create_node(self, node: str) -> None:
        self.api.create(nodes.document(node, self.gpus))
        deadline = time.monotonic() + _SETTLE_S
        while not nodes.ready(self.api, node):
            if time.monotonic() > deadline:
                raise StackError(f"node {node} is not Ready after {_SETTLE_S} s")
            time.sleep(0.02)

    def _agent(self, node: str) -> Part:
        self.cache_root(node).mkdir(exist_ok=True)
        self.agents[node] = self._part(f"agent-{node}", "agent", self.agent_environment(node))
        return self.agents[node]

    def _part(self, name: str, command: str, env: dict[str, str]) -> Part:
        return Part(self.processes, name, command, env, CHECKOUT)
