"""What a soak does to the stack: kills and pauses of every part, nodes taken away, workflows ended, a slow origin.

Each disturbance has its end, after which the part is itself again; several may be under way at once. Chooses by chance
alone, so that no moment is spared.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager

from temporalio.service import RPCError

from kube_cache import names
from tests.soak.observer import AWAY
from tests.soak.parts import Parts, Target
from tools.stack import Stack, nodes
from tools.stack.api import MERGE, KubeApi
from tools.stack.control_plane import SEATS_NAMESPACE

_LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{SEATS_NAMESPACE}/leases/{names.LEASE}"
_KILLED_S = (0.0, 5.0)
_PAUSED_S = (0.5, 14.0)
"""Longer than a Lease lasts (10 s), so that a leader wakes up that leads no more."""
_MAX_AT_ONCE = 3
_RPC_S = 4
_QUERY = f"WorkflowType = '{names.WARM_POD}' AND ExecutionStatus = 'Running'"


class Disturbances:
    def __init__(self, stack: Stack, api: KubeApi, chance: random.Random) -> None:
        """api: with a short time limit, since an API server that is paused must not hold up its own resumption."""
        self._stack = stack
        self._api = api
        self._chance = chance
        self.parts = Parts(stack)
        self.counts: Counter[str] = Counter()
        """`kill agent`, `pause etcd`, `cordon node`, … → how often."""
        self._ends: list[tuple[float, str, Callable[[], None]]] = []
        """(when, what is disturbed, how it ends)."""

    def act(self) -> None:
        """Begin another disturbance, unless enough are under way."""
        if len(self._ends) < _MAX_AT_ONCE:
            acts = [self._server, self._operator, self._agent, self._node, self._workflow, self._network]
            (act,) = self._chance.choices(acts, [7, 4, 4, 2, 3, 1.5])
            act()

    def tick(self) -> None:
        """End the disturbances whose time is over, and start what has ended by itself."""
        now = time.monotonic()
        due = [end for end in self._ends if end[0] <= now]
        self._ends = [end for end in self._ends if end[0] > now]
        for when, what, end in due:
            try:
                end()
            except AWAY:  # the API server is away: later
                self._ends.append((when + 1.0, what, end))
        self.parts.keep_up()

    def calm(self) -> None:
        """End all disturbances, however long that takes."""
        deadline = time.monotonic() + 120
        self._ends = [(0.0, what, end) for _, what, end in self._ends]
        while self._ends:
            self.tick()
            if time.monotonic() > deadline:
                raise TimeoutError(f"the disturbances cannot be ended: {[what for _, what, _ in self._ends]}")
            time.sleep(0.1)
        self.parts.restore_all()

    # Processes.

    def _server(self) -> None:
        target = self._chance.choice(self.parts.servers)
        # An API server that starts without its etcd ends again, and is away for longer than anything else here.
        pair = {"apiserver", "etcd"}
        busy = {what for _, what, _ in self._ends}
        if not (target.name in pair and pair & busy):
            self._stop(target)

    def _operator(self) -> None:
        target = self._chance.choice(self.parts.operators)
        leads = target.name == self._leader()
        if self._stop(target) and leads:
            self.counts["of the leading operator, which watches"] += 1

    def _agent(self) -> None:
        agents = list(self.parts.agents().values())
        if agents:
            self._stop(self._chance.choice(agents))

    def _stop(self, target: Target) -> bool:
        if self._is_disturbed(target.name) or not target.process.running:
            return False
        kills = self._chance.random() < 0.5
        duration = self._chance.uniform(*(_KILLED_S if kills else _PAUSED_S))
        target.is_down = True
        if kills:
            target.kill()
        else:
            target.pause()
        self._begin(f"{'kill' if kills else 'pause'} {target.kind}", target.name, duration, target.restore)
        return True

    def _leader(self) -> str:
        try:
            lease = self._api.find(_LEASE) or {}
        except AWAY:
            return ""
        return str(lease.get("spec", {}).get("holderIdentity"))

    # Nodes.

    def _node(self) -> None:
        node = self._chance.choice(self._stack.nodes)
        if any(what.startswith("node ") for _, what, _ in self._ends) or self._is_disturbed(f"agent-{node}"):
            return
        try:
            if self._chance.random() < 0.5:
                self._cordon(node, cordoned=True)
                end = lambda: self._cordon(node, cordoned=False)  # noqa: E731
                self._begin("cordon node", f"node {node}", self._chance.uniform(2, 15), end)
            else:
                self._remove_node(node)
        except AWAY:
            self.counts["refused"] += 1

    def _cordon(self, node: str, *, cordoned: bool) -> None:
        body = {"spec": {"unschedulable": cordoned}}
        self._api.request("PATCH", f"/api/v1/nodes/{node}", body, content_type=MERGE)

    def _remove_node(self, node: str) -> None:
        """Take the machine away, agent and Node object; bring it back with the same disk."""
        agent = self._stack.agents.pop(node)
        if agent.running:
            agent.kill()
        self._begin("delete node", f"node {node}", self._chance.uniform(2, 20), lambda: self._bring_back(node))
        self._api.delete(f"/api/v1/nodes/{node}")

    def _bring_back(self, node: str) -> None:
        if self._api.find(f"/api/v1/nodes/{node}") is None:
            self._api.create(nodes.document(node, self._stack.gpus))
        self._stack.start_agent(node, wait=False)

    # Workflows and the network.

    def _workflow(self) -> None:
        act = self._chance.choice(("terminate", "terminate", "cancel"))
        try:
            self.counts[f"{act} workflow"] += asyncio.run(asyncio.wait_for(self._end_one(act), _RPC_S))
        except (RuntimeError, TimeoutError, RPCError):  # Temporal is away, or the workflow has ended since
            self.counts["refused"] += 1

    async def _end_one(self, act: str) -> int:
        from temporalio.client import Client

        client = await Client.connect(self._stack.temporal_address, namespace=self._stack.temporal_namespace)
        found = [each.id async for each in client.list_workflows(_QUERY, limit=50)]
        if not found:
            return 0
        handle = client.get_workflow_handle(self._chance.choice(found))
        await (handle.terminate(reason="soak") if act == "terminate" else handle.cancel())
        return 1

    def _network(self) -> None:
        proxy = self._stack.s3_proxy
        if proxy is None or self._is_disturbed("proxy"):
            return
        ways: dict[str, AbstractContextManager[None]] = {
            "slow": proxy.limited(2 << 20),
            "hold": proxy.held(),
            "refuse": proxy.refusing(503),
        }
        way = self._chance.choice(sorted(ways))
        disturbance = ways[way]
        disturbance.__enter__()
        self._begin(f"{way} origin", "proxy", self._chance.uniform(2, 12), lambda: _leave(disturbance))

    # What is under way.

    def _begin(self, kind: str, what: str, duration_s: float, end: Callable[[], None]) -> None:
        self.counts[kind] += 1
        self._ends.append((time.monotonic() + duration_s, what, end))

    def _is_disturbed(self, what: str) -> bool:
        return any(other == what for _, other, _ in self._ends)


def _leave(disturbance: AbstractContextManager[None]) -> None:
    disturbance.__exit__(None, None, None)
