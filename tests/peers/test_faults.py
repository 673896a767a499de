"""What a swarm does when its members die, hang, lie, are cut off or forget: everybody's file is right in the end.

Real engines and servers over TLS in one process. Bounds on the origin's bytes are wide on purpose: an agent whose
thread stood still for seconds may take a chunk twice, and no test is to depend on that. Who has no neighbours takes
everything, which is what the bounds exclude. Exact figures are the simulator's (test_simulated) and the bench's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kube_cache.dataset.source import Piece
from kube_cache.errors import SourceUnavailable
from kube_cache.peers.holdings import Readable
from tests.peers.conftest import NODE, OBJECT, SNAPSHOT, Cluster, eventually
from tests.peers.fleet import CHUNK, CHUNKS, DATA, Agent, Fleet, running
from tools.stack.pki import Authority

NAMES = ("n1", "n2", "n3")
PATIENT_S = 60.0
"""For agents that are to hear of all others before they ask the origin, however slow the machine is."""


@pytest.fixture
def fleet(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    with running(cluster, tmp_path, monkeypatch) as fleet:
        yield fleet


class Changed:
    """An open object of which a neighbour sends something else."""

    def __init__(self, found: Readable, ended: threading.Event) -> None:
        self.size = found.size
        self._found = found
        self._ended = ended

    def close(self) -> None:
        self._found.close()

    def read_into(self, view: memoryview, offset: int) -> int:
        raise NotImplementedError


class Stalls(Changed):
    def read_into(self, view: memoryview, offset: int) -> int:
        self._ended.wait()
        return 0


class Trickles(Changed):
    def read_into(self, view: memoryview, offset: int) -> int:
        self._ended.wait(0.2)
        return self._found.read_into(view[:1], offset)


class Truncates(Changed):
    def read_into(self, view: memoryview, offset: int) -> int:
        return 0 if offset % CHUNK else self._found.read_into(view[:1000], offset)


class Lies(Changed):
    def read_into(self, view: memoryview, offset: int) -> int:
        count = self._found.read_into(view, offset)
        view[0] ^= 1
        return count


class SendsAnother(Changed):
    def read_into(self, view: memoryview, offset: int) -> int:
        other = DATA[::-1][offset : offset + len(view)]
        view[: len(other)] = other
        return len(other)


@pytest.fixture
def ended() -> Iterator[threading.Event]:
    """Set when the test is over, for neighbours that stall."""
    event = threading.Event()
    yield event
    event.set()


def all_done(*agents: Agent) -> None:
    for agent in agents:
        agent.wait()


def test_agents_feed_each_other(fleet: Fleet) -> None:
    agents = [fleet.add(name) for name in NAMES]
    for agent in agents:
        agent.start()
    all_done(*agents)
    assert fleet.from_origin(*agents) < 3 * len(DATA), "nobody was fed by another"
    assert all(agent.done is not None and agent.done.verified == "full-object" for agent in agents)
    assert all(sum(agent.took.values()) >= len(DATA) for agent in agents)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_home_that_is_killed_is_done_without(fleet: Fleet, share: float) -> None:
    agents = [fleet.add(name) for name in NAMES]
    home = agents[0]
    chunks = range(fleet.pinned().places[home.name], CHUNKS, len(agents))
    gate = home.hold(int(len(chunks) * share))  # the last of its chunks is not out at 99 %
    for agent in agents:
        agent.start()
    # Where the home was so slow that others took its chunks over, there is nothing to wait for.
    eventually(lambda: gate.reached.is_set() or all(agent.done for agent in agents[1:]))
    home.kill()
    all_done(*agents[1:])
    assert fleet.from_origin(*agents) < 3 * len(DATA), "nobody was fed by another"


@pytest.mark.parametrize("kind", [Stalls, Trickles, Truncates, Lies, SendsAnother])
def test_a_neighbour_that_sends_no_good_bytes_harms_nobody(
    fleet: Fleet, ended: threading.Event, kind: type[Changed]
) -> None:
    agents = [fleet.add(name) for name in NAMES]
    bad, *others = agents
    sent = threading.Event()

    def change(found: Readable) -> Readable:
        sent.set()
        return kind(found, ended)

    bad.send(change)
    for agent in agents:
        agent.start()
    all_done(*others)
    assert sent.is_set(), "nobody asked the home of a third of the chunks"
    assert all(agent.done is not None and agent.done.verified == "full-object" for agent in others)
    if kind in {Lies, SendsAnother}:
        # On a machine that stands still none of its chunks may have arrived whole.
        assert all(_has_banned(agent, bad) or not agent.took.get(bad.name) for agent in others)
        for agent in others:
            assert agent.party is not None
            # Also one that passed on what it had from the bad one; gossip may ban at any moment.
            banned = set(agent.party.swarm.banned)
            told = [node for node, _ in agent.party.take_lies()]
            assert banned <= set(told) <= set(agent.party.swarm.banned), "each ban is told"
            assert len(set(told)) == len(told), "and told once"
    ended.set()
    bad.wait()


def _has_banned(agent: Agent, bad: Agent) -> bool:
    return agent.party is not None and bad.name in agent.party.swarm.banned


def _foreign(cluster: Cluster, folder: Path, name: str) -> dict[str, object]:
    stranger = Authority(folder / "foreign").node(name)
    files = cluster.files(name)
    return {"files": type(files)(files.ca, stranger.certificate, stranger.key)}


@pytest.mark.parametrize(
    "credentials",
    [
        pytest.param(lambda c, _, n: {"token": c.token(node=n, life_s=-3600)}, id="expired token"),
        pytest.param(lambda c, _, __: {"token": c.token(node=NODE)}, id="token of another node"),
        pytest.param(lambda c, _, n: {"token": c.token("ff" * 32, n)}, id="token for another snapshot"),
        pytest.param(_foreign, id="no certificate of a node"),
    ],
)
def test_a_node_without_a_grant_gets_nothing_from_its_neighbours(
    fleet: Fleet, cluster: Cluster, tmp_path: Path, credentials: Callable[..., dict[str, object]]
) -> None:
    granted = fleet.add("n1")
    granted.start()
    granted.wait()
    stranger = fleet.add("n2", **credentials(cluster, tmp_path, "n2"))  # type: ignore[arg-type]
    stranger.start()
    stranger.wait()
    assert stranger.took.keys() == {""}


def test_two_halves_that_find_each_other_again_share_what_they_have(fleet: Fleet) -> None:
    ours = [fleet.add(name) for name in ("n1", "n2")]
    theirs = [fleet.add(name) for name in ("n3", "n4")]
    for one in ours:
        for other in theirs:
            fleet.cut(one, other)
            fleet.cut(other, one)
    gates = [agent.hold(1) for agent in theirs]
    for agent in (*ours, *theirs):
        agent.start()
    all_done(*ours)
    for gate in gates:
        assert gate.reached.wait(90)
    fleet.heal()
    eventually(lambda: all(_knows_whole(agent, ours) for agent in theirs))
    for gate in gates:
        gate.open()
    all_done(*theirs)
    assert sum(agent.took.get(other.name, 0) for agent in theirs for other in ours) >= CHUNK


def _knows_whole(agent: Agent, others: list[Agent]) -> bool:
    if agent.party is None:
        return False
    holders = agent.party.swarm._shared.state.holders
    return all((holder := holders.find(other.name)) is not None and holder.whole for other in others)


def test_when_everybody_restarts_at_once_nothing_is_lost(fleet: Fleet) -> None:
    first = [fleet.add(name, settle_s=PATIENT_S) for name in NAMES]
    for agent in first:
        agent.hold(2)
        agent.start()
    eventually(lambda: all(agent.took.get("", 0) >= 2 * CHUNK for agent in first))
    second = fleet.restart(first, settle_s=PATIENT_S)
    for agent in second:
        agent.start()
    all_done(*second)
    assert fleet.from_origin(*second) < 2 * len(DATA)
    assert all(agent.done is not None and agent.done.resumed_bytes >= 2 * CHUNK for agent in second)


def test_the_origin_may_stop_sending_once_a_copy_is_out(fleet: Fleet) -> None:
    first, *late = [fleet.add(name) for name in NAMES]
    first.start()
    first.wait()

    def gone(piece: Piece, data: bytes) -> bytes:
        raise SourceUnavailable("the origin is gone")

    for agent in late:
        agent.origin.script = gone
        agent.start()
    all_done(*late)
    assert all("" not in agent.took for agent in late)


def test_a_neighbour_that_evicts_what_it_serves_is_done_without(fleet: Fleet) -> None:
    first, late = fleet.add("n1"), fleet.add("n2", settle_s=PATIENT_S)
    first.start()
    first.wait()
    served = iter(range(1000))

    def evict(found: Readable) -> Readable:
        if next(served) == 3:
            first.path.unlink()
            first.node.holdings.drop(SNAPSHOT, [OBJECT])
        return found

    first.send(evict)
    late.start()
    late.wait()
    assert late.took[first.name] >= CHUNK
    assert late.took[""] >= CHUNK


def test_what_a_node_cannot_reach_comes_over_another_one(fleet: Fleet) -> None:
    agents = [fleet.add(name) for name in NAMES]
    fleet.cut(agents[0], agents[1])
    for agent in agents:
        agent.start()
    all_done(*agents)
    assert agents[1].name not in agents[0].took
    assert fleet.from_origin(*agents) < 3 * len(DATA), "nobody was fed by another"
