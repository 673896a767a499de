"""The whole of Kube-Cache on one machine: the real servers, the operator and an agent for each node.

Tests, demo, benches and `make stack` use the same class, so that people try by hand what is tested. `Stack` owns order
and lifetime; each server's details are in the module of its name. Every process ends when the context is left, and
when the process that entered the context dies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from tools.servers import build
from tools.stack import api, control_plane, environment, nodes, s3, temporal
from tools.stack import cluster as kubernetes
from tools.stack.audit import Audit
from tools.stack.neighbours import Neighbours
from tools.stack.processes import Processes, StackError
from tools.stack.product import Part
from tools.stack.s3_proxy import S3Proxy
from tools.stack.state import State

CHECKOUT = Path(__file__).parents[2]

KUBERNETES, TEMPORAL, S3 = "kubernetes", "temporal", "s3"
ALL = (KUBERNETES, TEMPORAL, S3)
_BINARIES = {KUBERNETES: kubernetes.SERVERS, TEMPORAL: ("temporal",), S3: ("versitygw",)}
_MORE_NODES = 5
"""Nodes that may be added to a stack whose agents feed each other."""
_SETTLE_S = 5.0
"""Longer than by default, since all nodes share the cores of one machine."""

T = TypeVar("T")


class Stack:
    """A context manager that runs the servers and the product.

    servers: which of the three to start; the product needs all. node_lease_s: duration of a node's Lease; 0 = none,
    because thousands of nodes would keep this machine busy with renewals. with_rules: apply what is shipped beside the
    processes; without, the cluster is as empty as a new one. as_reader: the product uses the S3 user that needs a grant
    for each bucket, else the owner. as_neighbours: agents feed each other. count_s3: the product reaches S3 through
    `s3_proxy`, which counts bytes and can disturb. state: a folder, emptied first and left behind; without one, a
    temporary folder that is removed.
    report: called with each line of progress.
    """

    def __init__(
        self,
        *,
        servers: Collection[str] = ALL,
        node_count: int = 3,
        gpus: int = 8,
        node_lease_s: int = nodes.LEASE_S,
        with_product: bool = True,
        with_rules: bool = True,
        operator_env: Mapping[str, str] | None = None,
        agent_env: Mapping[str, str] | None = None,
        as_reader: bool = True,
        as_neighbours: bool = False,
        count_s3: bool = False,
        state: Path | None = None,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        if with_product and set(servers) != set(ALL):
            raise StackError(f"the product needs {', '.join(ALL)}; got {', '.join(servers)}")
        self._servers = frozenset(servers)
        self._node_count = node_count
        self.gpus = gpus
        self._node_lease_s = node_lease_s
        self._with_product = with_product
        self._with_rules = with_rules
        self._operator_env = dict(operator_env or {})
        self._agent_env = dict(agent_env or {})
        self._as_reader = as_reader
        self._as_neighbours = as_neighbours
        self._count_s3 = count_s3
        self._state_path = state
        self._report = report
        self._cleanup = ExitStack()
        self._cluster: kubernetes.Cluster | None = None
        self._temporal: temporal.Temporal | None = None
        self._s3: s3.S3Server | None = None
        self._operator: Part | None = None
        self._more_operators: list[Part] = []
        self._neighbours: Neighbours | None = None
        self.s3_proxy: S3Proxy | None = None
        self.agents: dict[str, Part] = {}

    def __enter__(self) -> Self:
        binaries = build.ensure([name for part in self._servers for name in _BINARIES[part]], self._report)
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
            if self._as_neighbours:
                self._neighbours = Neighbours(self.state / "neighbours", self._node_count + _MORE_NODES, _SETTLE_S)
            self._start_servers(binaries, undo)
            if self._with_product:
                self.start_product()
            self._cleanup = undo.pop_all()
        self._report(f"stack: up in {time.monotonic() - started:.1f} s")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process. Safe to call twice."""
        self._cleanup.close()

    # The servers.

    @property
    def cluster(self) -> kubernetes.Cluster:
        return _started(self._cluster, KUBERNETES)

    @property
    def temporal(self) -> temporal.Temporal:
        return _started(self._temporal, TEMPORAL)

    @property
    def s3(self) -> s3.S3Server:
        return _started(self._s3, S3)

    @property
    def operator(self) -> Part:
        return _started(self._operator, "operator")

    @property
    def operators(self) -> list[Part]:
        """The first operator and those that were added."""
        return [self.operator, *self._more_operators]

    # Addresses, names and folders.

    @property
    def api(self) -> api.KubeApi:
        """A client with the rights of the cluster's admin."""
        return self.cluster.api

    @property
    def audit(self) -> Audit:
        """The API server's own record of the writes to Pods."""
        return self.cluster.control_plane.audit

    @property
    def nodes(self) -> list[str]:
        """Names of the nodes, in the order of their creation."""
        return list(self.cluster.nodes)

    @property
    def kubeconfig(self) -> Path:
        return self.cluster.kubeconfig

    @property
    def operator_kubeconfig(self) -> Path:
        return self.cluster.operator_kubeconfig

    @property
    def temporal_address(self) -> str:
        return self.temporal.address

    @property
    def temporal_namespace(self) -> str:
        return temporal.NAMESPACE

    @property
    def s3_endpoint(self) -> str:
        """The endpoint that the product uses: that of the counting proxy if there is one."""
        return self.s3_proxy.endpoint if self.s3_proxy else self.s3.endpoint

    def cache_root(self, node: str) -> Path:
        return self.cache_roots / node

    # The product.

    def start_product(self) -> None:
        """Start operator and agents side by side."""
        self._operator = Part(self.processes, "operator", "operator", self.operator_environment(), CHECKOUT)
        parts = [self._operator, *(self._new_agent(node) for node in self.nodes)]
        for part in parts:
            part.start(wait=False)
        for part in parts:
            part.wait_ready()

    def repair(self) -> None:
        """Undo what a test did: start what it stopped, resume what it paused, bring back the nodes it removed."""
        if self._s3:
            self._s3.repair()
        if self._temporal and not self._temporal.process.running:
            self._temporal.start()
        if self._cluster:
            self._cluster.repair()
            for node in (nodes.name(k) for k in range(1, self._node_count + 1)):
                if node not in self._cluster.nodes:
                    self._cluster.add_node(node)
                    if self._operator is not None:
                        self._new_agent(node).start()
        if self._operator is not None:
            for part in (*self.operators, *self.agents.values()):
                part.repair()

    def add_operator(self) -> Part:
        """Start one more operator beside the first; `remove_operator` ends it."""
        name = f"operator-{len(self.operators) + 1}"
        operator = Part(self.processes, name, "operator", self.operator_environment(name), CHECKOUT)
        self._more_operators.append(operator)
        operator.start()
        return operator

    def remove_operator(self, operator: Part) -> None:
        self._more_operators.remove(operator)
        if operator.running:
            operator.stop()

    def add_node(self, *, with_agent: bool | None = None, labels: Mapping[str, str] | None = None) -> str:
        """Add a fake node and return its name. with_agent: None for an agent if the stack runs the product.

        labels: beside those that each node has, or in their place.
        """
        node = self.cluster.add_node(labels=labels)
        if self._operator is not None if with_agent is None else with_agent:
            self._new_agent(node).start()
        return node

    def remove_node(self, node: str) -> None:
        """Kill the agent and delete the Node object, as if the machine were gone. Its disk stays for checks."""
        if (agent := self.agents.pop(node, None)) and agent.running:
            agent.kill()
        self.cluster.delete_node(node)

    def start_agent(self, node: str, env: Mapping[str, str] | None = None, *, wait: bool = True) -> Part:
        """Start the agent of a node that was added without one. env: variables beyond those of every agent."""
        agent = self._new_agent(node, env)
        agent.start(wait=wait)
        return agent

    def _new_agent(self, node: str, env: Mapping[str, str] | None = None) -> Part:
        self.cache_root(node).mkdir(exist_ok=True)
        environment = {**self.agent_environment(node), **(env or {})}
        self.agents[node] = Part(self.processes, f"agent-{node}", "agent", environment, CHECKOUT)
        return self.agents[node]

    # Environments of processes.

    def operator_environment(self, identity: str = "operator") -> dict[str, str]:
        """Return an operator's variables; also for one that a test starts itself. identity: in the Lease."""
        return self._product_environment(
            KUBECONFIG=str(self.operator_kubeconfig),
            KUBE_CACHE_OPERATOR__NAMESPACE=control_plane.SEATS_NAMESPACE,
            KUBE_CACHE_OPERATOR__IDENTITY=identity,
            **(self._neighbours.operator() if self._neighbours else {}),
            **self._operator_env,
        )

    def agent_environment(self, node: str) -> dict[str, str]:
        return self._product_environment(
            KUBE_CACHE_AGENT__NODE=node,
            KUBE_CACHE_STORE__ROOT=str(self.cache_root(node)),
            KUBE_CACHE_STORE__ALLOW_ROOT_DISK="true",
            # A developer's disk is fuller than a node's NVMe, and here no kubelet evicts Pods from a full disk.
            KUBE_CACHE_STORE__MIN_FREE="0.01",
            KUBE_CACHE_STORE__PREFETCH_WATERMARK="1",
            **(self._neighbours.agent(node) if self._neighbours else {}),
            **self._agent_env,
        )

    def user_environment(self) -> dict[str, str]:
        """Return the variables of a person beside the stack: admin of the cluster, owner of the buckets."""
        return {
            "KUBECONFIG": str(self.kubeconfig),
            "TEMPORAL_ADDRESS": self.temporal_address,
            "TEMPORAL_NAMESPACE": self.temporal_namespace,
            "TEMPORAL_UI": self.temporal.ui,
            "AWS_ENDPOINT_URL_S3": self.s3.endpoint,
            "AWS_ACCESS_KEY_ID": s3.OWNER.access_key,
            "AWS_SECRET_ACCESS_KEY": s3.OWNER.secret_key,
            "AWS_REGION": s3.REGION,
            "CACHE_ROOTS": str(self.cache_roots),
        }

    def _product_environment(self, **own: str) -> dict[str, str]:
        user = s3.READER if self._as_reader else s3.OWNER
        variables = {
            "TEMPORAL_ADDRESS": self.temporal_address,
            "TEMPORAL_NAMESPACE": self.temporal_namespace,
            "AWS_ENDPOINT_URL_S3": self.s3_endpoint,
            "AWS_ACCESS_KEY_ID": user.access_key,
            "AWS_SECRET_ACCESS_KEY": user.secret_key,
            "AWS_REGION": s3.REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "KUBE_CACHE_TELEMETRY__LOG_FORMAT": "json",
            "KUBE_CACHE_TELEMETRY__HTTP_ADDRESS": "127.0.0.1:0",  # the log tells the port
            "PYTHONUNBUFFERED": "1",
        }
        return environment.clean(self.state, **{**variables, **own})

    def _start_servers(self, binaries: dict[str, Path], undo: ExitStack) -> None:
        """Start the servers side by side: Temporal and Kubernetes take seconds each, most of them without CPU."""
        with ThreadPoolExecutor(3) as pool:
            temporal_start = s3_start = None
            if TEMPORAL in self._servers:
                temporal_start = pool.submit(temporal.start, self.processes, binaries["temporal"], self.state)
            if S3 in self._servers:
                s3_start = pool.submit(s3.S3Server, self.processes, binaries["versitygw"], self.state)
            if KUBERNETES in self._servers:
                self._cluster = kubernetes.Cluster(
                    self.processes,
                    binaries,
                    self.state,
                    node_count=self._node_count,
                    gpus=self.gpus,
                    lease_s=self._node_lease_s,
                    with_rules=self._with_rules,
                )
                undo.callback(self._cluster.close)
            self._temporal = temporal_start.result() if temporal_start else None
            self._s3 = s3_start.result() if s3_start else None
        if self._s3 and self._count_s3:
            self.s3_proxy = S3Proxy(self._s3.port)
            undo.callback(self.s3_proxy.close)


def _started(part: T | None, name: str) -> T:
    if part is None:
        raise StackError(f"this stack has no {name}: it was started without")
    return part
