"""Nodes under the seats: tells a `WarmPod` when its seat's node can take its Pod no longer; checks a node on request.

A seat that is bound stays when its node is cordoned or tainted: the scheduler does not look back. So the transitions of
each node are compared with the seats on it. What the scheduler honours at once is told at once; a node that is not
ready gets a grace, for a kubelet that restarts is back in seconds and a warm may have taken an hour. Nothing is told
twice for one state: a heartbeat of 5,000 nodes ends at a comparison.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping

import structlog

from kube_cache.contracts.warm_pod import SeatLost
from kube_cache.errors import NodeNotReady, NodeUnfit
from kube_cache.kube import fitness
from kube_cache.kube.client import ApiError, Json, KubeClient, is_not_found, resource_path
from kube_cache.kube.nodes import NodeFacts, node_facts
from kube_cache.kube.pods import SeatFacts
from watcher.starter import Starter

_log = structlog.get_logger("kube_cache.watcher")


class NodeWatcher:
    """Belongs to one event loop; `check_node` and `labels_of` may be called by any thread."""

    def __init__(self, kube: KubeClient, starter: Starter, *, grace_s: float) -> None:
        """grace_s: seconds that a node may be not ready before its seats are given up."""
        self._kube = kube
        self._starter = starter
        self._grace_s = grace_s
        self._nodes: dict[str, NodeFacts] = {}
        self._seats: defaultdict[str, dict[str, SeatFacts]] = defaultdict(dict)
        """Node -> seats that are bound to it, by uid."""
        self._timers: dict[str, asyncio.TimerHandle] = {}
        """Nodes that are not ready -> when their grace ends."""

    def on_node(self, event: str, node: NodeFacts) -> None:
        if event == "DELETED":
            self._nodes.pop(node.name, None)
            self._forget_timer(node.name)
            for seat in self._seats_on(node.name):
                self._tell(seat, fitness.DELETED)
            return
        before = self._nodes.get(node.name)
        self._nodes[node.name] = node
        if before != node:
            self._look_at(node, self._seats_on(node.name))

    def on_seat(self, event: str, seat: SeatFacts) -> None:
        if event == "DELETED" or seat.ended:
            seats = self._seats.get(seat.node)
            if seats is not None and seats.pop(seat.uid, None) is not None and not seats:
                del self._seats[seat.node]
        elif seat.node and seat.uid not in self._seats_by_uid(seat.node):
            self._seats[seat.node][seat.uid] = seat
            if (node := self._nodes.get(seat.node)) is not None:
                self._look_at(node, [seat])

    def tell_all(self) -> None:
        """Look at every node with seats: the leader before may have told nothing of what it saw."""
        for name in list(self._seats):
            if (node := self._nodes.get(name)) is not None:
                self._look_at(node, self._seats_on(name))

    def labels_of(self, name: str) -> Mapping[str, str]:
        """Return the labels of a node; none of one that is gone. Raises ApiError. Any thread may call."""
        try:
            return self._find(name).labels
        except NodeUnfit:
            return {}

    def check_node(self, name: str, pod: Json) -> None:
        """Check that the node can take the Pod. Raises NodeUnfit, NodeNotReady (which may pass in seconds), ApiError.

        By the watch, so it costs nothing; only a node that the watch does not have is asked for.
        """
        node = self._find(name)
        tolerated = fitness.tolerations(pod)
        if why := fitness.lasting(node, tolerated):
            raise NodeUnfit(f"node {name} {why}", node=name)
        if why := fitness.passing(node, tolerated):
            raise NodeNotReady(f"node {name} {why}", node=name)

    def _find(self, name: str) -> NodeFacts:
        """Return facts of the watch, or else of the API server. Raises NodeUnfit for a node that is gone, ApiError."""
        if (node := self._nodes.get(name)) is not None:
            return node
        try:
            return node_facts(self._kube.request("GET", f"{resource_path('nodes')}/{name}"))
        except ApiError as error:
            if is_not_found(error):
                raise NodeUnfit(f"node {name} {fitness.DELETED}", node=name) from error
            raise

    def _look_at(self, node: NodeFacts, seats: list[SeatFacts]) -> None:
        waits = False
        for seat in seats:
            if why := fitness.lasting(node, seat.tolerations):
                self._tell(seat, why)
            else:
                waits = waits or bool(fitness.passing(node, seat.tolerations))
        if waits and node.name not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[node.name] = loop.call_later(self._grace_s, self._end_grace, node.name)
        elif not fitness.passing(node, ()):
            self._forget_timer(node.name)

    def _end_grace(self, name: str) -> None:
        self._timers.pop(name, None)
        node = self._nodes.get(name)
        for seat in self._seats_on(name) if node is not None else ():
            if node is not None and (why := fitness.passing(node, seat.tolerations)):
                self._tell(seat, why)

    def _tell(self, seat: SeatFacts, why: str) -> None:
        _log.info("the node of a seat cannot take its Pod", node=seat.node, workflow=seat.workflow_id, reason=why)
        self._starter.signal(seat.workflow_id, "seat_lost", SeatLost(seat.name, f"node {seat.node} {why}", unfit=True))

    def _seats_on(self, name: str) -> list[SeatFacts]:
        return list(self._seats_by_uid(name).values())

    def _seats_by_uid(self, name: str) -> dict[str, SeatFacts]:
        return self._seats.get(name, {})

    def _forget_timer(self, name: str) -> None:
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()
