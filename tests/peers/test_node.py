"""Nodes find each other and tell each other what they have, each with its own server, certificate and token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kube_cache.dataset.remote import Manifest, RemoteObject
from kube_cache.dataset.uri import DatasetUri
from kube_cache.errors import InvalidRequest
from kube_cache.peers import messages, node
from kube_cache.peers.members import Member
from kube_cache.peers.messages import MessageRefused
from kube_cache.peers.node import Party, PeerNode, Shelf, with_port
from kube_cache.peers.settings import PeerSettings
from tests.peers.conftest import SNAPSHOT, Cluster, eventually

MIB = 1 << 20
LARGE, SMALLER = "0a" * 32, "0b" * 32
OBJECTS = {LARGE: 32 * MIB, SMALLER: 16 * MIB}
REMOTES = tuple(RemoteObject("s3", "bucket", id_, id_, size, "") for id_, size in OBJECTS.items())
"""The key is the id."""


class Nodes:
    """Starts nodes and lets them join; all end with the test."""

    def __init__(self, cluster: Cluster, stack: ExitStack) -> None:
        self._cluster = cluster
        self._stack = stack

    def start(self, name: str, *, certificate_of: str = "", seeds: str = "", shelf: Shelf = lambda _: None) -> PeerNode:
        settings = self._cluster.settings(self._cluster.files(certificate_of or name), seeds=seeds)
        peers = PeerNode(name, settings, lambda remote: remote.key, shelf)
        self._stack.callback(peers.close)
        return peers

    def join(self, peers: PeerNode, token: str = "", snapshot: str = SNAPSHOT) -> Party:
        token = token or self._cluster.token(snapshot, peers.me.node)
        return self._stack.enter_context(peers.join(manifest(snapshot), token))


@pytest.fixture
def nodes(cluster: Cluster) -> Iterator[Nodes]:
    with ExitStack() as stack:
        yield Nodes(cluster, stack)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file as large as the object LARGE."""
    path = tmp_path / "file"
    with path.open("wb") as opened:
        opened.truncate(OBJECTS[LARGE])
    return path


def manifest(snapshot: str = SNAPSHOT) -> Manifest:
    return Manifest(DatasetUri.parse("s3://bucket/"), snapshot, REMOTES, sum(OBJECTS.values()))


def knows(party: Party) -> set[str]:
    return {member.node for member in party.some_members(100)}


def hears_all_of(party: Party, name: str) -> bool:
    """Tell whether the party has heard that another node has a whole object."""
    holder = party.swarm._shared.state.holders.find(name)
    return holder is not None and holder.whole != 0


def gives(peers: PeerNode, snapshot: str = SNAPSHOT) -> bool:
    found = peers.holdings.open(snapshot, LARGE, 0, OBJECTS[LARGE] - 1, 0)
    if found is not None:
        found.close()
    return found is not None


def test_nodes_that_share_a_seed_come_to_know_each_other(nodes: Nodes) -> None:
    first = nodes.start("n0")
    others = [nodes.start(f"n{number}", seeds=f"localhost:{first.server.port}") for number in range(1, 4)]
    parties = [nodes.join(peers) for peers in (first, *others)]
    everybody = {"n0", "n1", "n2", "n3"}
    eventually(lambda: all(knows(party) == everybody - {f"n{number}"} for number, party in enumerate(parties)))
    assert first.me.address == f"127.0.0.1:{first.server.port}"


def test_what_a_node_has_is_heard_by_the_others(nodes: Nodes, file: Path) -> None:
    first = nodes.start("n0")
    nodes.join(first).landed(LARGE, file)
    other = nodes.join(nodes.start("n1", seeds=first.me.address))
    eventually(lambda: hears_all_of(other, "n0"))


def test_a_node_that_was_restarted_gives_what_is_on_its_disk(nodes: Nodes, file: Path) -> None:
    asked: list[str] = []

    def shelf(snapshot: str) -> dict[str, tuple[int, Path]] | None:
        asked.append(snapshot)
        return {LARGE: (OBJECTS[LARGE], file)} if snapshot == SNAPSHOT else None

    first = nodes.start("n0", shelf=shelf)
    other = nodes.join(nodes.start("n1", seeds=first.me.address))
    eventually(lambda: hears_all_of(other, "n0"))
    assert gives(first)
    assert asked == [SNAPSHOT]


def test_a_node_that_takes_no_part_makes_members_known_to_each_other(nodes: Nodes) -> None:
    bystander = nodes.start("n0")
    parties = [nodes.join(nodes.start(f"n{number}", seeds=bystander.me.address)) for number in range(1, 4)]
    for number, party in enumerate(parties, 1):
        others = {f"n{other}" for other in range(1, 4)} - {f"n{number}"}
        eventually(lambda party=party, others=others: {each.node for each in party.some_members(9)} == others)


@pytest.mark.parametrize("kind", ["no token", "another node's certificate"])
def test_a_node_without_a_grant_is_not_heard(nodes: Nodes, cluster: Cluster, kind: str) -> None:
    first = nodes.start("n0")
    party = nodes.join(first)
    stranger = nodes.start("n1", certificate_of="n1" if kind == "no token" else "n2", seeds=first.me.address)
    nodes.join(stranger, "kc1.none" if kind == "no token" else "")
    nodes.join(nodes.start("n3", seeds=first.me.address))
    eventually(lambda: "n3" in knows(party))
    assert "n1" not in knows(party)


def test_a_message_that_speaks_for_another_is_refused(nodes: Nodes) -> None:
    party = nodes.join(nodes.start("n0"))
    for message in (
        messages.Have(SNAPSHOT, Member("n2", "127.0.0.1:1")),
        messages.Have("ff" * 32, Member("n1", "127.0.0.1:1")),
    ):
        with pytest.raises(MessageRefused, match="n1"):
            party.hear("n1", messages.encode(message))
    assert knows(party) == set()


def test_after_its_download_a_node_gives_what_is_whole(nodes: Nodes, cluster: Cluster, file: Path) -> None:
    peers = nodes.start("n0")
    with peers.join(manifest(), cluster.token(node="n0")) as party:
        party.plan(SMALLER, file)
        party.landed(LARGE, file)
    assert gives(peers)
    assert peers.holdings.open(SNAPSHOT, SMALLER, 0, 0, 0) is None
    with peers.join(manifest(), "kc1.newer") as again:
        assert again is party
        assert again.token() == "kc1.newer"
        assert gives(peers)


def test_of_many_snapshots_the_last_ones_are_given(nodes: Nodes, cluster: Cluster, file: Path) -> None:
    peers = nodes.start("n0")
    snapshots = [f"{number:064x}" for number in range(node.MAX_KEPT + 2)]
    for snapshot in snapshots:
        with peers.join(manifest(snapshot), cluster.token(snapshot, "n0")) as party:
            party.landed(LARGE, file)
    assert [gives(peers, snapshot) for snapshot in snapshots] == [False, False] + [True] * node.MAX_KEPT


def test_a_node_that_nobody_could_reach_is_told_so() -> None:
    with pytest.raises(InvalidRequest, match="KUBE_CACHE_PEERS__ADVERTISE"):
        PeerNode("n0", PeerSettings(), lambda remote: remote.key)
    with pytest.raises(InvalidRequest, match="KUBE_CACHE_PEERS__ENABLED"):
        PeerNode("n0", PeerSettings(advertise="127.0.0.1"), lambda remote: remote.key)


@pytest.mark.parametrize(
    ("advertise", "address"),
    [
        ("10.0.0.1", "10.0.0.1:9"),
        ("10.0.0.1:7", "10.0.0.1:7"),
        ("fd00::1", "[fd00::1]:9"),
        ("[fd00::1]", "[fd00::1]:9"),
        ("[fd00::1]:7", "[fd00::1]:7"),
        ("node", "node:9"),
    ],
)
def test_the_address_for_others_has_a_port(advertise: str, address: str) -> None:
    assert with_port(advertise, 9) == address


@pytest.mark.parametrize("seeds", ["agents.kube-cache-system.svc", ":9467", "agents:port", "a:1,agents:70000"])
def test_a_seed_that_leads_nowhere_is_refused_at_the_start(nodes: Nodes, seeds: str) -> None:
    """Else its node would go on, and never meet another."""
    with pytest.raises(
        InvalidRequest, match=f"KUBE_CACHE_PEERS__SEEDS: {seeds.rsplit(',', maxsplit=1)[-1]!r} is no host:port"
    ):
        nodes.start("n0", seeds=seeds)
