"""`@current` names the newest resolved snapshot after a rollback, a race, an eviction, and what stands in its way."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from kube_cache.dataset.remote import Manifest
from kube_cache.store.node_store import NodeStore
from tests.store.fakes import DictEngine, Source, open_store

A = "aaaaaaaa-1111-4222-8333-aaaaaaaaaaaa"


@pytest.fixture
def d1(source: Source) -> Manifest:
    return source.dataset("gpt", {"w": b"GOOD" * 10})


@pytest.fixture
def d2(source: Source) -> Manifest:
    return source.dataset("gpt", {"w": b"BAD!" * 10})


@pytest.fixture
def link(store: NodeStore) -> Path:
    return store.root / "datasets" / "s3" / "models" / "gpt" / "@current"


def check(store: NodeStore, manifest: Manifest, resolved_at: float = 0) -> bool:
    """As `check_disk` does."""
    store.link_pod(A, 0, [manifest.digest])
    return store.check_for_pod(A, 0, manifest.digest, manifest.uri, resolved_at=resolved_at).complete


def test_a_source_that_was_rolled_back_is_read_as_it_is_now(
    store: NodeStore, engine: DictEngine, d1: Manifest, d2: Manifest, link: Path
) -> None:
    store.download(d1, engine, resolved_at=10)
    store.download(d2, engine, resolved_at=20)
    assert (link / "w").read_bytes() == b"BAD!" * 10
    assert check(store, d1, resolved_at=30)
    assert (link / "w").read_bytes() == b"GOOD" * 10
    assert engine.total == 80, "a hit: nothing was fetched again"


def test_a_pod_that_resolved_long_ago_does_not_lead_the_link_back(
    store: NodeStore, engine: DictEngine, d1: Manifest, d2: Manifest, link: Path
) -> None:
    store.download(d1, engine, resolved_at=10)
    store.download(d2, engine, resolved_at=20)
    assert check(store, d1, resolved_at=10)
    assert (link / "w").read_bytes() == b"BAD!" * 10


def test_a_slow_download_of_an_older_snapshot_does_not_take_the_link_over(
    store: NodeStore, engine: DictEngine, d1: Manifest, d2: Manifest, link: Path
) -> None:
    store.download(d2, engine, resolved_at=20)
    store.download(d1, engine, resolved_at=10)
    assert (link / "w").read_bytes() == b"BAD!" * 10


def test_a_hit_keeps_the_link_from_a_download_that_was_resolved_before_the_hit(
    store: NodeStore, engine: DictEngine, d1: Manifest, d2: Manifest, link: Path
) -> None:
    store.download(d1, engine, resolved_at=10)
    assert check(store, d1, resolved_at=30)
    store.download(d2, engine, resolved_at=20)
    assert (link / "w").read_bytes() == b"GOOD" * 10


def test_of_two_at_the_same_time_the_one_that_stands_stays(
    store: NodeStore, engine: DictEngine, d1: Manifest, d2: Manifest, link: Path
) -> None:
    store.download(d1, engine, resolved_at=10)
    store.download(d2, engine, resolved_at=10)
    assert check(store, d2, resolved_at=10)
    assert (link / "w").read_bytes() == b"GOOD" * 10


def test_an_operator_that_gives_no_time_moves_the_link_by_a_download_and_not_by_a_hit(
    store: NodeStore, engine: DictEngine, d1: Manifest, d2: Manifest, link: Path
) -> None:
    store.download(d1, engine)
    store.download(d2, engine)
    assert (link / "w").read_bytes() == b"BAD!" * 10
    assert check(store, d1)
    assert (link / "w").read_bytes() == b"BAD!" * 10
    link.unlink()
    assert check(store, d1)
    assert (link / "w").read_bytes() == b"GOOD" * 10
    store.download(d2, engine, resolved_at=1)
    assert (link / "w").read_bytes() == b"BAD!" * 10, "any time is later than none"


def test_a_clock_that_was_ahead_does_not_hold_the_link_for_years(
    store: NodeStore, engine: DictEngine, d1: Manifest, d2: Manifest, link: Path
) -> None:
    store.download(d1, engine, resolved_at=time.time() + 1e8)
    store.download(d2, engine, resolved_at=time.time())
    assert (link / "w").read_bytes() == b"BAD!" * 10


def test_the_time_of_the_resolve_survives_a_restart(root: Path, engine: DictEngine, d1: Manifest, d2: Manifest) -> None:
    store = open_store(root)
    store.download(d2, engine, resolved_at=20.5)
    store.close()
    store = open_store(root)
    store.download(d1, engine, resolved_at=20.25)
    assert (root / "datasets/s3/models/gpt/@current/w").read_bytes() == b"BAD!" * 10
    store.close()


def test_no_hit_is_told_while_the_link_is_missing(
    store: NodeStore, engine: DictEngine, d1: Manifest, d2: Manifest, link: Path
) -> None:
    store.download(d1, engine, resolved_at=10)
    store.download(d2, engine, resolved_at=20)
    store.evict(d2.digest)
    assert not os.path.lexists(link)
    assert check(store, d1, resolved_at=10)
    assert (link / "w").read_bytes() == b"GOOD" * 10


@pytest.mark.parametrize("harm", ["empty folder", "full folder", "file", "file above", "link above"])
@pytest.mark.parametrize("by", ["hit", "download"])
def test_what_stands_where_the_link_belongs_is_put_aside(
    store: NodeStore, engine: DictEngine, d1: Manifest, link: Path, harm: str, by: str, tmp_path: Path
) -> None:
    """Containerd makes an empty folder of a missing host path when it restarts a container."""
    if by == "hit":
        store.download(d1, engine, resolved_at=10)
        link.unlink()
        link.parent.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if "folder" in harm:
        link.mkdir(parents=True)
        if harm == "full folder":
            (link / "work").write_text("of hours")
    elif harm == "file":
        link.parent.mkdir(parents=True)
        link.write_text("note")
    else:
        link.parent.parent.mkdir(parents=True, exist_ok=True)
        link.parent.write_text("note") if harm == "file above" else link.parent.symlink_to(elsewhere)
    if by == "hit":
        assert check(store, d1, resolved_at=20)
    else:
        store.download(d1, engine, resolved_at=20)
    assert (link / "w").read_bytes() == b"GOOD" * 10
    assert link.is_symlink()
    assert not list(elsewhere.iterdir())
    kept = [path for path in (store.root / "quarantine").iterdir() if path.is_dir() and not path.is_symlink()]
    assert [path.read_text() for folder in kept for path in folder.iterdir()] == ["of hours"] * (harm == "full folder")


def test_what_was_put_aside_goes_when_room_is_needed(
    root: Path, source: Source, engine: DictEngine, d1: Manifest
) -> None:
    store = open_store(root, capacity_bytes=100_000)
    (root / "datasets/s3/models/gpt/@current/deep").mkdir(parents=True)
    store.download(d1, engine)
    assert list((root / "quarantine").iterdir())
    store.download(source.dataset("big", {"b": b"b" * 99_970}), engine)
    assert not list((root / "quarantine").iterdir())
    store.close()


def test_dead_links_are_swept_while_the_agent_runs(
    store: NodeStore, engine: DictEngine, d1: Manifest, link: Path
) -> None:
    store.download(d1, engine)
    dead = store.root / "datasets/s3/other/x/@current"
    dead.parent.mkdir(parents=True)
    dead.symlink_to("../../../../snapshots/" + "d" * 64 + "/data")
    (store.root / "datasets/s3/models/made/@current").mkdir(parents=True)
    store.reconcile({})
    assert not (store.root / "datasets/s3/other").exists()
    assert not (store.root / "datasets/s3/models/made").exists()
    assert (link / "w").exists()


def test_a_dataset_within_another_has_a_link_of_its_own(store: NodeStore, engine: DictEngine, source: Source) -> None:
    outer = source.dataset("p", {"q/a": b"a", "b": b"b"})
    inner = source.dataset("p/q", {"a": b"a"})
    base = store.root / "datasets/s3/models/p"
    for manifest in (inner, outer):
        store.download(manifest, engine, resolved_at=10)
    (base / "@current").unlink()
    (base / "q" / "@current").unlink()
    for manifest in (outer, inner):
        assert check(store, manifest, resolved_at=20)
    assert (base / "@current" / "q" / "a").read_bytes() == (base / "q" / "@current" / "a").read_bytes() == b"a"
