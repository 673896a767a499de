"""A swarm in simulated time: agents with the choice code of `kube_cache.peers`, and servers as the agents' are.

Simulated beside the links: the engine's workers, an upload slot and the queue before it, requests that a server holds
until a chunk is there, gossip, death, late arrival, restart, partition. Not simulated: disks, CPUs (a message takes
time, and does not load anybody), TCP's start, lost packets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Final

from kube_cache.engine.settings import EngineSettings
from kube_cache.peers import cutting
from kube_cache.peers.choice import Decision, Rules, choose
from kube_cache.peers.gossip import FAN_OUT, INTERVAL_S
from kube_cache.peers.members import Member, Pinned
from kube_cache.peers.messages import Have
from kube_cache.peers.object_swarm import TOLD_AT_ONCE
from kube_cache.peers.server import HOLD_S
from kube_cache.peers.settings import PeerSettings
from kube_cache.peers.source import STALL_S
from kube_cache.peers.state import Failure, State
from tools.swarm_simulator.network import Flow, Link, Network

MIB: Final = 1 << 20
POLL_S: Final = 0.1
"""Seconds after which the engine asks again where nothing wakes it."""


@dataclass(frozen=True)
class World:
    """What a run is made of."""

    nodes: int
    link_bytes_per_s: float = 25e6
    """Of each node, each way: 200 Mb/s, as the namespaces of the bench have it."""
    origin_bytes_per_s: float = 25e6
    objects: int = 1
    object_bytes: int = 128 * MIB
    chunk_bytes: int = 0
    """0: as the agents cut an object of that size."""
    latency_s: float = 0.0005
    """One way."""
    message_s: float = 0.001
    """Handling of a request or a message."""
    overhead: float = 1.05
    """Bytes on the wire for each byte of a chunk: headers, TLS."""
    workers: int = EngineSettings().connections
    slots: int = PeerSettings().max_transfers
    """Uploads that a server has under way at once; who asks for more is told that it is busy."""
    gossip_s: float = INTERVAL_S
    gossip_members: int = FAN_OUT
    push_members: int = TOLD_AT_ONCE
    """Members that are told at once of a chunk from the origin."""
    is_pinned: bool = True
    settle_s: float = 1.0
    """As `Beginning` takes it."""
    skew_s: float = 0.2
    """The agents start within this time."""
    racks: int = 1
    zones: int = 1
    seed: int = 1
    limit_s: float = 3600.0
    rules: Rules = field(default_factory=Rules)

    def __post_init__(self) -> None:
        if not self.chunk_bytes:
            cut = cutting.chunk_bytes(self.object_bytes) or self.object_bytes // cutting.chunk_count(self.object_bytes)
            object.__setattr__(self, "chunk_bytes", cut)

    @property
    def total_bytes(self) -> int:
        return self.objects * self.object_bytes

    @property
    def bound_s(self) -> float:
        """S/b, in seconds."""
        return self.total_bytes / self.link_bytes_per_s


@dataclass
class Result:
    last_x: float
    """When the last node was done, as a multiple of S/b."""
    median_x: float
    origin_x: float
    """Bytes that the origin sent, as a multiple of S."""
    messages_per_s: float
    """Sent by a node each second, replies not counted."""
    done: int
    far_x: float
    """Bytes from another zone, as a multiple of S for each node."""
    counts: dict[str, int]


class Simulation:
    def __init__(self, world: World, absent: Collection[str] = ()) -> None:
        """absent: members that never start, though a workflow named them."""
        self.world = world
        self.network = Network()
        self.random = Random(world.seed)
        self.origin = Link(world.origin_bytes_per_s)
        self.origin_up = True
        self.origin_bytes = 0.0
        self.origin_requests: dict[tuple[int, int], int] = {}
        self.far_bytes = 0.0
        self.messages = 0
        self.counts: dict[str, int] = {}
        self.reaches: Callable[[str, str], bool] = lambda _client, _server: True
        """Whether one node can reach another; a fault replaces it."""
        members = [
            Member(
                f"node-{number}", f"10.0.0.{number}:9", f"zone-{number % world.zones}", f"rack-{number % world.racks}"
            )
            for number in range(world.nodes)
        ]
        pinned = Pinned("snapshot", 1, tuple(members)) if world.is_pinned else None
        self.nodes = {member.node: Node(self, member, pinned) for member in members}
        if pinned is None:
            for node in self.nodes.values():
                node.seeds = members[:3]
        self.finished = len(absent)
        """Nodes that are whole or dead."""
        for node in self.nodes.values():
            if node.name not in absent:
                self.network.at(self.random.uniform(0, world.skew_s), node.start)

    def add(self, name: str, at: float, *, settle_s: float | None = None, knows: bool = True) -> Node:
        """Let a node that nobody knows of join at a time.

        settle_s: for so long it listens, if not as the others. knows: it knows one of the others; else it begins alone,
        and asks all addresses, as long as it has heard of nobody.
        """
        others = list(self.nodes.values())
        node = self.nodes[name] = Node(self, Member(name, "late"), None, settle_s)
        if knows:
            node.seeds = [others[0].member]
        else:
            node.addresses = [other.name for other in others]
        self.network.at(at, node.start)
        return node

    def run(self, is_over: Callable[[], bool] | None = None) -> Result:
        """Run until each living node has everything, or `is_over`."""
        self.network.run(is_over or self._is_over, self.world.limit_s)
        return self.result()

    def result(self) -> Result:
        world = self.world
        done = sorted(node.done_at for node in self.nodes.values() if node.done_at is not None)
        last = done[-1] if done else float("inf")
        return Result(
            last_x=last / world.bound_s,
            median_x=done[len(done) // 2] / world.bound_s if done else float("inf"),
            origin_x=self.origin_bytes / world.total_bytes,
            messages_per_s=self.messages / len(self.nodes) / max(self.network.now, 1e-9),
            done=len(done),
            far_x=self.far_bytes / world.total_bytes / len(self.nodes),
            counts=self.counts,
        )

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def cut_unreachable(self) -> None:
        """Break what is under way between nodes that cannot reach each other any more."""
        for node in self.nodes.values():
            node.cut_unreachable()

    def _is_over(self) -> bool:
        return self.finished >= len(self.nodes)


class Request:
    """A worker's request to a member."""

    __slots__ = ("chunk", "client", "ended", "flow", "number", "run", "server")

    def __init__(self, client: Node, server: Node, number: int, chunk: int) -> None:
        self.client = client
        self.server = server
        self.number = number
        self.chunk = chunk
        self.flow: Flow | None = None
        self.ended = False
        self.run = client.life


class Node:
    """One agent: its engine's workers, its server and its gossip."""

    def __init__(
        self, simulation: Simulation, member: Member, pinned: Pinned | None, settle_s: float | None = None
    ) -> None:
        world = simulation.world
        self.simulation = simulation
        self.network = simulation.network
        self.world = world
        self.member = member
        self.name = member.node
        self.seeds: list[Member] = []
        self.addresses: list[str] = []
        """Nodes that are asked while this one knows no member."""
        self._settle_s = world.settle_s if settle_s is None else settle_s
        self.up = Link(world.link_bytes_per_s)
        self.down = Link(world.link_bytes_per_s)
        self.is_up = False
        self.life = 0
        """Grows with each start, so that what a former life waited for is not taken for news."""
        self.done_at: float | None = None
        self._pinned = pinned
        self._chunks = -(-world.object_bytes // world.chunk_bytes)
        self.disk: list[set[int]] = [set() for _ in range(world.objects)]
        self._forget_requests()

    def _forget_requests(self) -> None:
        self.requests: dict[Request, None] = {}
        self.uploads: dict[Request, None] = {}
        self.held: dict[tuple[int, int], list[Request]] = {}
        self.origin_flows: dict[Flow, None] = {}

    def start(self) -> None:
        world = self.world
        self.is_up = True
        self.life += 1
        self.state = State(
            "snapshot",
            self.member,
            [self._chunks] * world.objects,
            Random(f"{world.seed} {self.name} {self.life}"),
            self._pinned,
            self._settle_s,
        )
        for member in self.seeds:
            self.state.roster.learn(member)
        self.idle = world.workers
        self.wanted = [set(range(self._chunks)) - has for has in self.disk]
        self.opened = [number for number in range(world.objects) if self.wanted[number]]
        if not self.opened and self.done_at is None:
            self.done_at = self.network.now
            self.simulation.finished += 1
        last = world.object_bytes - (self._chunks - 1) * world.chunk_bytes
        lengths = [world.chunk_bytes] * (self._chunks - 1) + [last]
        for number in range(world.objects):
            if self.wanted[number]:
                self.state.open(number, lengths, self.disk[number], self.network.now)
            else:
                self.state.close(number, whole=True)
        self.lengths = lengths
        self._forget_requests()
        self._poll_at = -1.0
        self._message: Have | None = None
        self._gossip(self.life)
        self._work()

    def kill(self, *, for_good: bool = True) -> None:
        """End the agent; its disk stays. for_good: nobody waits for it any more."""
        if not self.is_up:
            return
        self.is_up = False
        if self.done_at is None and for_good:
            self.simulation.finished += 1
        elif self.done_at is not None and not for_good:
            self.done_at = None
            self.simulation.finished -= 1
        for flow in list(self.origin_flows):
            self.network.cut(flow)
        for request in list(self.requests):
            self._abandon(request)
        for request in [*self.uploads, *(one for held in self.held.values() for one in held)]:
            if request.flow is not None:
                self.network.cut(request.flow)
            request.client.end(request, Failure.BROKEN)

    def cut_unreachable(self) -> None:
        for request in [*self.uploads, *(one for held in self.held.values() for one in held)]:
            if not self.simulation.reaches(request.client.name, self.name):
                if request.flow is not None:
                    flow, request.flow = request.flow, None
                    self.uploads.pop(request, None)
                    flow.on_end = lambda _whole: None
                    self.network.cut(flow)
                self.network.after(STALL_S, partial(request.client.end, request, Failure.STALLED))

    # The engine.

    def _work(self) -> None:
        if not self.is_up:
            return
        now, world = self.network.now, self.world
        while self.idle:
            decision = None
            for number in self.opened:
                decision = choose(self.state, world.rules, number, self.wanted[number], now)
                if decision is not None:
                    self.wanted[number].discard(decision.chunk)
                    self.idle -= 1
                    self._fetch(number, decision)
                    break
            if decision is None:
                if self.opened and self._poll_at <= now:
                    self._poll_at = now + POLL_S
                    self.network.at(self._poll_at, partial(self._polled, self.life))
                return

    def _polled(self, life: int) -> None:
        if life == self.life:
            self._work()

    def _fetch(self, number: int, decision: Decision) -> None:
        self._message = None
        world = self.world
        if decision.is_claim:
            self._tell(self.state.to_tell_of_claim(world.push_members))
        if decision.member is None:
            delay = 2 * world.latency_s + world.message_s
            self.network.after(delay, partial(self._from_origin, self.life, number, decision.chunk))
            return
        server = self.simulation.nodes.get(decision.member.node)
        assert server is not None
        request = Request(self, server, number, decision.chunk)
        self.requests[request] = None
        self.simulation.count("requests")
        if not self.simulation.reaches(self.name, server.name):
            self.network.after(STALL_S, partial(self.end, request, Failure.STALLED))
        else:
            self.network.after(world.latency_s + world.message_s, partial(server.serve, request))

    def _from_origin(self, life: int, number: int, chunk: int) -> None:
        if life != self.life or not self.is_up:
            return
        if not self.simulation.origin_up:
            self._ended(number, chunk, None, Failure.STALLED)
            return
        length = self.lengths[chunk]
        key = number, chunk
        self.simulation.origin_requests[key] = self.simulation.origin_requests.get(key, 0) + 1

        def end(whole: bool) -> None:
            self.origin_flows.pop(flow, None)
            left = 0.0 if whole else max(0.0, flow.left - flow.rate * (self.network.now - flow.since))
            self.simulation.origin_bytes += length - left / self.world.overhead
            if whole and self.is_up:
                self._ended(number, chunk, None, None)
                self._push(number, chunk)

        flow = Flow(self.simulation.origin, self.down, length * self.world.overhead, end)
        self.origin_flows[flow] = None
        self.network.start(flow)

    def end(self, request: Request, failure: Failure | None) -> None:
        """Take the end of a request in, at the client."""
        if request.ended:
            return
        request.ended = True
        self.requests.pop(request, None)
        if request.run != self.life or not self.is_up:
            return
        if failure is None:
            if request.server.member.zone != self.member.zone:
                self.simulation.far_bytes += self.lengths[request.chunk]
        else:
            self.simulation.count(failure.name.lower())
        self._ended(request.number, request.chunk, request.server.name, failure)

    def _ended(self, number: int, chunk: int, node: str | None, failure: Failure | None) -> None:
        self.idle += 1
        self._message = None
        if failure is not None:
            self.wanted[number].add(chunk)
            self.state.failed(number, chunk, node, failure, self.network.now)
        else:
            self.state.done(number, chunk, 7, node, self.network.now)
            self.disk[number].add(chunk)
            if len(self.disk[number]) == self._chunks:
                self.state.close(number, whole=True)
                self.opened.remove(number)
                if not self.opened:
                    self.done_at = self.network.now
                    self.simulation.finished += 1
            for request in self.held.pop((number, chunk), ()):
                self.serve(request)
        self._work()

    def _abandon(self, request: Request) -> None:
        request.ended = True
        if request.flow is not None:
            self.network.cut(request.flow)

    # The server.

    def serve(self, request: Request) -> None:
        if request.ended:
            return
        if not self.is_up:
            request.client.end(request, Failure.BROKEN)
        elif request.chunk in self.disk[request.number]:
            if len(self.uploads) < self.world.slots:
                self._upload(request)
            else:
                self.network.after(self.world.latency_s, partial(request.client.end, request, Failure.BUSY))
        else:
            self.state.asked(request.number, request.chunk)
            self.held.setdefault((request.number, request.chunk), []).append(request)
            self.network.after(HOLD_S, partial(self._tire, request))
            self._work()

    def _tire(self, request: Request) -> None:
        """End a request that waited for too long."""
        held = self.held.get((request.number, request.chunk), [])
        if request in held and not request.ended:
            held.remove(request)
            request.client.end(request, Failure.NOT_YET)

    def _upload(self, request: Request) -> None:
        self.uploads[request] = None

        def end(whole: bool) -> None:
            self.uploads.pop(request, None)
            if whole:
                self.network.after(self.world.latency_s, partial(request.client.end, request, None))

        request.flow = Flow(self.up, request.client.down, self.lengths[request.chunk] * self.world.overhead, end)
        self.network.start(request.flow)

    # Gossip.

    def message(self) -> Have:
        if self._message is None:
            self._message = self.state.message()
        return self._message

    def _gossip(self, life: int) -> None:
        if life != self.life or not self.is_up:
            return
        self._tell(self.state.some_members(self.world.gossip_members))
        if len(self.state.roster) == 1:
            self._tell_nodes(self.addresses)
        if self.simulation.finished < len(self.simulation.nodes):
            wait = self.world.gossip_s * self.simulation.random.uniform(0.9, 1.1)
            self.network.after(wait, partial(self._gossip, life))

    def _push(self, number: int, chunk: int) -> None:
        self._tell(self.state.to_tell(number, chunk, self.world.push_members))

    def _tell(self, members: list[Member]) -> None:
        self._tell_nodes([member.node for member in members])

    def _tell_nodes(self, nodes: list[str]) -> None:
        delay = self.world.latency_s + self.world.message_s
        for node in nodes:
            self.simulation.messages += 1
            other = self.simulation.nodes[node]
            if self.simulation.reaches(self.name, other.name):
                self.network.after(delay, partial(other.heard, self.message(), self, self.life))

    def heard(self, message: Have, sender: Node | None, life: int) -> None:
        if not self.is_up:
            return
        known = len(self.state.roster)
        self.state.hear(message, self.network.now)
        if len(self.state.roster) != known:
            self._message = None  # it names members
        if sender is not None:
            delay = self.world.latency_s + self.world.message_s
            reply = partial(sender.replied, self.message(), life)
            self.network.after(delay, reply)
        self._work()

    def replied(self, message: Have, life: int) -> None:
        if life == self.life:
            self.heard(message, None, life)
