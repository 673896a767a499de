"""What the watch may say is clean: only what a look has seen whole that began after the last event."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kube_cache.dataset.transfer import Manifest
from kube_cache.store.inotify import Watch
from kube_cache.store.node_store import NodeStore
from tests.store.fakes import DictEngine, Source, read_all

FILES = {"config.json": b"{}", "shards/0": b"0" * 1000}


@pytest.fixture
def manifest(store: NodeStore, source: Source, engine: DictEngine) -> Manifest:
    manifest = source.dataset("gpt", FILES)
    store.download(manifest, engine)
    return manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "shard").mkdir()
    return tmp_path / "snapshot"


@pytest.fixture
def watch(folder: Path) -> Iterator[Watch]:
    watch = Watch([folder.parent / "shard"], trust_s=900)
    yield watch
    watch.close()


def test_of_two_looks_at_once_the_one_that_began_before_an_event_makes_nothing_clean(
    watch: Watch, folder: Path
) -> None:
    first = watch.arm("d", [folder])
    # The first look has passed this file when it is changed; the second one begins, and sees it.
    (folder / "file").touch()
    second = watch.arm("d", [folder])
    watch.checked("d", first, complete=True)
    assert not watch.is_clean("d")
    watch.checked("d", second, complete=False)
    assert not watch.is_clean("d")


def test_a_look_that_finds_harm_overrules_one_that_did_not(watch: Watch, folder: Path) -> None:
    first = watch.arm("d", [folder])
    watch.checked("d", first, complete=True)
    assert watch.is_clean("d")
    watch.checked("d", first + 1, complete=False)
    assert not watch.is_clean("d")


def remove(shard: Path) -> None:
    shutil.rmtree(shard)


def move(shard: Path) -> None:
    shard.rename(shard.with_name("elsewhere"))


@pytest.mark.parametrize("harm", [remove, move])
def test_where_a_folder_of_objects_goes_away_nothing_is_trusted_any_more(
    watch: Watch, folder: Path, harm: Callable[[Path], None]
) -> None:
    watch.checked("d", watch.arm("d", [folder]), complete=True)
    assert watch.is_clean("d")
    harm(folder.parent / "shard")
    assert not watch.is_clean("d")
    watch.checked("d", watch.arm("d", [folder]), complete=True)
    assert not watch.is_clean("d"), "what is made in its place is not watched"


def test_folders_of_objects_removed_by_hand_cost_nothing_but_the_watch(
    store: NodeStore, manifest: Manifest, source: Source, engine: DictEngine
) -> None:
    for shard in (store.root / "objects").iterdir():
        shutil.rmtree(shard)
    assert store.download(manifest, engine).fetched_bytes == 0
    assert store.check(manifest.digest).complete
    other = source.dataset("other", {"a": b"a" * 10})
    store.download(other, engine)
    assert read_all(store, other) == {"a": b"a" * 10}
    path = store.root / "snapshots" / other.digest / "data" / "a"
    path.chmod(0o644)
    path.write_bytes(b"b" * 10)
    assert not store.check(other.digest).complete
