"""Agents of a swarm in one process: each with an engine, a folder and a node that serves over real TLS on the loopback.

Only the store is left out, and the origin is memory, one for each agent, so that a test knows who took what from it. A
test holds an agent's origin at its n-th range, cuts the way from one agent to another, and changes what one sends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from kube_cache.dataset.remote import Manifest
from kube_cache.dataset.source import Piece, Request
from kube_cache.dataset.transfer import FetchedObject, FetchJob
from kube_cache.dataset.uri import DatasetUri
from kube_cache.engine.engine import Engine
from kube_cache.engine.settings import EngineSettings
from kube_cache.errors import Cancelled, SourceUnavailable
from kube_cache.peers import node as node_module
from kube_cache.peers.client import PeerClient
from kube_cache.peers.cutting import chunk_count
from kube_cache.peers.holdings import Readable
from kube_cache.peers.members import Member, Pinned
from kube_cache.peers.node import Party, PeerNode
from kube_cache.peers.source import PeerSource
from kube_cache.peers.tls import Files
from tests.origin.memory import MemoryOrigin
from tests.peers.conftest import OBJECT, SNAPSHOT, Cluster

MIB = 1 << 20
DATA = Random(16).randbytes(12 * MIB + 1234)
CHUNK = MIB
CHUNKS = chunk_count(len(DATA))
_WAIT_S = 90


class Gate:
    """Lets so many requests to an origin through, and holds the next ones."""

    def __init__(self, passes: int) -> None:
        self.reached = threading.Event()
        self._passes = passes
        self._open = threading.Event()
        self._lock = threading.Lock()

    def open(self) -> None:
        self._open.set()

    def __call__(self, piece: Piece, data: bytes) -> bytes:
        with self._lock:
            self._passes -= 1
            held = self._passes < 0
        if held:
            self.reached.set()
            self._open.wait(_WAIT_S)
        return data


class Agent:
    def __init__(
        self, fleet: Fleet, name: str, folder: Path, files: Files, token: str, address: str, settle_s: float
    ) -> None:
        self.name = name
        self.origin = MemoryOrigin()
        self.remote = self.origin.put(OBJECT, DATA)
        self.done: FetchedObject | None = None
        self.party: Party | None = None
        self._fleet = fleet
        self._token = token
        self._folder = folder
        self._error: BaseException | None = None
        self._cancelled = threading.Event()
        self._gates: list[Gate] = []
        self._thread: threading.Thread | None = None
        settings = fleet.cluster.settings(files, address=address)
        self.node = PeerNode(name, settings, lambda remote: remote.key, settle_s=settle_s)
        self._engine = Engine(EngineSettings(connections=8, max_connections=8, stall_timeout_s=60), self.origin)

    @property
    def path(self) -> Path:
        return self._folder / f"{self.name}.part"

    @property
    def took(self) -> dict[str, int]:
        """Bytes by the node that they came from; the origin's under the empty name."""
        return dict(self.party.swarm.taken_bytes) if self.party is not None else {}

    def hold(self, passes: int) -> Gate:
        """Let the agent have so many ranges of its origin."""
        gate = Gate(passes)
        self._gates.append(gate)
        self.origin.script = gate
        return gate

    def send(self, change: Callable[[Readable], Readable]) -> None:
        """Send other agents what `change` makes of an open object."""
        opened = self.node.holdings.open

        def changed(snapshot: str, id_: str, first: int, last: int | None, wait_s: float) -> Readable | None:
            found = opened(snapshot, id_, first, last, wait_s)
            return None if found is None else change(found)

        self.node.holdings.open = changed  # type: ignore[method-assign]

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"agent-{self.name}")
        self._thread.start()

    def wait(self) -> None:
        """Wait for the end of the download, and compare the file."""
        assert self._thread is not None
        self._thread.join(_WAIT_S)
        assert not self._thread.is_alive(), f"{self.name} has not ended: {self.took}"
        if self._error is not None:
            raise self._error
        assert self.path.read_bytes() == DATA

    def kill(self) -> None:
        """End it in the middle. What its journal has stays."""
        self._cancelled.set()
        for gate in self._gates:
            gate.open()
        self.node.close()
        if self._thread is not None:
            self._thread.join(_WAIT_S)
        self._engine.close()

    def _run(self) -> None:
        manifest = Manifest(DatasetUri.parse("s3://bucket/"), SNAPSHOT, (self.remote,), len(DATA))
        try:
            with self.node.join(manifest, self._token, self._fleet.pinned()) as party:
                self.party = party
                plan = party.plan(OBJECT, self.path)
                job = FetchJob(self.remote, self.path, self.path.with_suffix(".journal"), plan=plan)
                self._engine.fetch([job], on_object=self._landed, cancelled=self._cancelled.is_set)
        except Cancelled:
            pass
        except BaseException as error:
            self._error = error

    def _landed(self, done: FetchedObject) -> None:
        assert self.party is not None
        self.party.landed(OBJECT, self.path)
        self.done = done


class Fleet:
    """Starts agents, and ends all with the test."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.agents: list[Agent] = []
        self._folder = folder
        self._cut: set[tuple[str, str]] = set()

    def add(
        self,
        name: str,
        *,
        files: Files | None = None,
        token: str = "",
        address: str = "127.0.0.1:0",
        settle_s: float = 1.0,
    ) -> Agent:
        """Add an agent, whose server is there at once; it is a member for all that start after this."""
        files = files or self.cluster.files(name)
        token = token or self.cluster.token(node=name)
        agent = Agent(self, name, self._folder, files, token, address, settle_s)
        self._switch(agent)
        self.agents.append(agent)
        return agent

    def restart(self, agents: Iterable[Agent], *, settle_s: float) -> list[Agent]:
        """Kill all of them, and start them anew over the same files and at the same addresses."""
        old = list(agents)
        for agent in old:
            agent.kill()
        self.agents = [agent for agent in self.agents if agent not in old]
        return [self.add(agent.name, address=agent.node.me.address, settle_s=settle_s) for agent in old]

    def pinned(self) -> Pinned:
        return Pinned(SNAPSHOT, 1, tuple(Member(agent.name, agent.node.me.address) for agent in self.agents))

    def cut(self, one: Agent, other: Agent) -> None:
        """Let `one` not reach `other` any more; the way back stays."""
        self._cut.add((one.name, other.name))

    def heal(self) -> None:
        self._cut.clear()

    def from_origin(self, *agents: Agent) -> int:
        """Return the bytes that these agents asked their origins for."""
        return sum(piece.last - piece.first + 1 for agent in agents for piece in list(agent.origin.asked))

    def close(self) -> None:
        for agent in self.agents:
            agent.kill()

    def check(self, one: str, other: str) -> None:
        """Raises SourceUnavailable where the way is cut."""
        if (one, other) in self._cut:
            raise SourceUnavailable(f"{one} cannot reach {other}")

    def _switch(self, agent: Agent) -> None:
        """Have the agent's messages pass the cuts."""
        client: PeerClient = agent.node._client
        exchange = client.exchange

        def checked(address: str, node: str, snapshot: str, token: str, message: bytes) -> tuple[str, bytes]:
            self.check(agent.name, node)
            return exchange(address, node, snapshot, token, message)

        client.exchange = checked  # type: ignore[method-assign]


@contextmanager
def running(cluster: Cluster, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    fleet = Fleet(cluster, folder)

    class Switched(PeerSource):
        """A source that passes the cuts; whose it is, its certificate tells."""

        def request(self, piece: Piece) -> Request:
            owner = self._certificates.files.certificate.name.removeprefix("node-").rpartition(".")[0]
            fleet.check(owner, self.name)
            return super().request(piece)

    monkeypatch.setattr(node_module, "PeerSource", Switched)
    try:
        yield fleet
    finally:
        fleet.close()
