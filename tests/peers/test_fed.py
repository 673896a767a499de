"""One node feeds another: two engines, two servers, real TLS, and an origin in memory. Each file is compared."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from kube_cache.dataset.remote import Manifest
from kube_cache.dataset.source import Piece
from kube_cache.dataset.transfer import FetchedObject, FetchJob, Verified
from kube_cache.dataset.uri import DatasetUri
from kube_cache.engine.engine import Engine
from kube_cache.engine.settings import EngineSettings
from kube_cache.errors import SourceUnavailable
from kube_cache.peers import source, state
from kube_cache.peers.members import Place
from kube_cache.peers.node import PeerNode
from kube_cache.store.layout import object_id
from tests.origin.memory import MemoryOrigin
from tests.peers.conftest import SNAPSHOT, Cluster, eventually
from tests.peers.fleet import Gate

SIZE = (24 << 20) + 5
NOWHERE = Place()
DATA = random.Random(1).randbytes(SIZE)


class Node:
    """An agent without its store: a file stays where the engine wrote it."""

    def __init__(
        self,
        name: str,
        cluster: Cluster,
        origin: MemoryOrigin,
        folder: Path,
        seeds: str = "",
        *,
        place: Place = NOWHERE,
        settle_s: float = 1.0,
        connections: int = 8,
    ) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        settings = replace(cluster.settings(cluster.files(name), seeds=seeds), **place._asdict())
        self.peers = PeerNode(name, settings, object_id, settle_s=settle_s)
        limits = EngineSettings(
            give_up_s=600, stall_timeout_s=600, connections=connections, max_connections=connections
        )
        self.engine = Engine(limits, origin)
        self.token = cluster.token(node=name)

    def fetch(self, manifest: Manifest, *after_hearing_of: str, expects_others: bool = True) -> FetchedObject:
        """Fetch the only object of the snapshot once these nodes have said that they have it; return how."""
        done: list[FetchedObject] = []
        remote = manifest.objects[0]
        path = self.folder / "part"
        with self.peers.join(manifest, self.token, expects_others=expects_others) as party:

            def landed(fetched: FetchedObject) -> None:
                party.landed(object_id(remote), path)
                done.append(fetched)

            def has_heard(node: str) -> bool:
                holder = party.swarm._shared.state.holders.find(node)
                return holder is not None and holder.whole != 0

            eventually(lambda: all(map(has_heard, after_hearing_of)))
            plan = party.plan(object_id(remote), path)
            assert plan is not None
            self.engine.fetch([FetchJob(remote, path, self.folder / "journal", plan)], on_object=landed)
        assert path.read_bytes() == DATA
        return done[0]

    def close(self) -> None:
        self.peers.close()
        self.engine.close()


def test_a_node_feeds_another_after_the_origin_is_gone(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "STALL_S", 600.0)  # a machine that stands still is no node that does
    origin = MemoryOrigin()
    remote = origin.put("key", DATA)
    manifest = Manifest(DatasetUri.parse("s3://bucket/key"), SNAPSHOT, (remote,), SIZE)
    with ExitStack() as ending:
        first = Node("n0", cluster, origin, tmp_path)
        ending.callback(first.close)
        alone = first.fetch(manifest)
        assert (alone.verified, dict(alone.neighbour_bytes)) == (Verified.FULL_OBJECT, {})
        origin.script = gone
        second = Node("n1", cluster, origin, tmp_path, seeds=first.peers.me.address)
        ending.callback(second.close)
        fed = second.fetch(manifest, "n0")
        assert (fed.verified, dict(fed.neighbour_bytes)) == (Verified.FULL_OBJECT, {"n0": SIZE})


@pytest.mark.parametrize(
    ("mine", "near", "far"),
    [
        pytest.param(Place("a", "1"), Place("a", "2"), Place("b", "1"), id="the zone before another"),
        pytest.param(Place("a", "1"), Place("a", "1"), Place("a", "2"), id="the rack before the zone"),
        pytest.param(Place("a"), Place("a"), Place("b"), id="zones without racks"),
    ],
)
def test_bytes_come_from_the_nearest_holder(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mine: Place, near: Place, far: Place
) -> None:
    """As long as it gives: two connections are what one holder may have."""
    monkeypatch.setattr(source, "STALL_S", 600.0)
    origin = MemoryOrigin()
    remote = origin.put("key", DATA)
    manifest = Manifest(DatasetUri.parse("s3://bucket/key"), SNAPSHOT, (remote,), SIZE)
    with ExitStack() as ending:
        holders: list[Node] = []
        for name, place in (("far", far), ("near", near)):
            seeds = ",".join(each.peers.me.address for each in holders)
            holders.append(Node(name, cluster, origin, tmp_path, seeds, place=place, settle_s=0))
            ending.callback(holders[-1].close)
            holders[-1].fetch(manifest)
        seeds = ",".join(each.peers.me.address for each in holders)
        asks = Node("asks", cluster, origin, tmp_path, seeds, place=mine, connections=2)
        ending.callback(asks.close)
        fed = asks.fetch(manifest, "far", "near")
        assert dict(fed.neighbour_bytes) == {"near": SIZE}


def gone(piece: Piece, data: bytes) -> bytes:
    raise SourceUnavailable(f"the origin is gone; {piece.first} was asked for")


NEVER_S = 1e6


def test_a_node_that_expects_nobody_begins_at_once_and_feeds_one_that_comes_meanwhile(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "STALL_S", 600.0)
    monkeypatch.setattr(state, "PATIENCE_S", 600.0)
    origin, others = MemoryOrigin(), MemoryOrigin()
    remote = origin.put("key", DATA)
    others.put("key", DATA)
    manifest = Manifest(DatasetUri.parse("s3://bucket/key"), SNAPSHOT, (remote,), SIZE)
    gate = Gate(passes=4)
    origin.script = gate
    with ExitStack() as ending:
        first = Node("n0", cluster, origin, tmp_path, settle_s=NEVER_S, connections=4)
        ending.callback(first.close)
        second = Node("n1", cluster, others, tmp_path, seeds=first.peers.me.address)
        ending.callback(second.close)
        pool = ending.enter_context(ThreadPoolExecutor(2))
        ending.callback(gate.open)
        alone = pool.submit(first.fetch, manifest, expects_others=False)
        assert gate.reached.wait(90), "it waits for others"
        fed = pool.submit(second.fetch, manifest)
        eventually(lambda: SNAPSHOT in second.peers._parties)
        eventually(lambda: second.peers._parties[SNAPSHOT].swarm.taken_bytes.get("n0", 0) > 0)
        gate.open()
        assert alone.result(90).verified == fed.result(90).verified == Verified.FULL_OBJECT
        assert fed.result().neighbour_bytes["n0"] > 0
    asked = [piece.first for piece in (*origin.asked, *others.asked)]
    assert len(asked) - len(set(asked)) <= 4  # what the first had under way
