"""What people rely on: whole snapshots, shared bytes, pins, and a disk that is looked at and not believed."""

from __future__ import annotations

import os
import shutil
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kube_cache.dataset.remote import Manifest
from kube_cache.dataset.transfer import FetchProgress
from kube_cache.errors import Cancelled, InsufficientDisk, NodeUnsuitable, SnapshotInUse
from kube_cache.store import check, mounts
from kube_cache.store.layout import object_id
from kube_cache.store.node_store import NodeStore
from tests.store.crashing import SURVIVED, child
from tests.store.fakes import (
    DictEngine,
    Source,
    free_space,
    open_store,
    read_all,
    reserved_bytes,
    settings,
    snapshot_names,
    wait_for,
)

FILES = {"config.json": b"{}", "shards/0": b"0" * 1000, "shards/1": b"1" * 2000, "empty": b""}


@pytest.fixture
def manifest(source: Source) -> Manifest:
    return source.dataset("gpt", FILES)


def data(store: NodeStore, manifest: Manifest) -> Path:
    return store.root / "snapshots" / manifest.digest / "data"


def test_a_warm_snapshot_is_whole_readable_by_anybody_and_writable_by_nobody(
    store: NodeStore, engine: DictEngine, manifest: Manifest
) -> None:
    told: list[FetchProgress] = []
    result = store.download(manifest, engine, progress=told.append)
    assert (result.fetched_bytes, result.verified) == (3002, "full-object")
    assert store.check(manifest.digest).complete
    assert read_all(store, manifest) == FILES
    for path in [data(store, manifest), *data(store, manifest).rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o555 if path.is_dir() else 0o444), path
    done = [progress.done_bytes for progress in told]
    assert done == sorted(done)
    assert done[-1] == told[-1].total_bytes == 3002
    assert not list((store.root / "incoming").iterdir())


@pytest.mark.parametrize(
    ("prefix", "files"),
    [
        pytest.param("", {"a": b"a", "b/c": b"c"}, id="a whole bucket"),
        pytest.param("p/q", {"model.bin": b"one object"}, id="one object"),
        pytest.param("p", {"@current": b"x", "d/@current": b"y"}, id="keys named like our link"),
        pytest.param("what?is#this", {"a": b"a"}, id="characters that mean something in other URLs"),
    ],
)
def test_current_leads_to_the_snapshot(
    store: NodeStore, engine: DictEngine, source: Source, prefix: str, files: dict[str, bytes]
) -> None:
    manifest = source.dataset(prefix, files)
    store.download(manifest, engine)
    current = store.root / "datasets" / "s3" / "models" / prefix / "@current"
    assert current.is_symlink()
    assert {path: (current / path).read_bytes() for path in files} == files


def test_a_prefix_within_a_prefix_keeps_its_own_link_and_shares_the_bytes(
    store: NodeStore, engine: DictEngine, source: Source
) -> None:
    outer = source.dataset("p", {"q/a": b"a" * 500, "b": b"b"})
    inner = source.dataset("p/q", {"a": b"a" * 500})
    store.download(outer, engine)
    assert store.download(inner, engine).fetched_bytes == 0
    base = store.root / "datasets/s3/models/p"
    assert (base / "@current/q/a").stat().st_ino == (base / "q/@current/a").stat().st_ino
    assert store.usage().object_bytes == 501
    store.evict(outer.digest)
    assert (base / "q/@current/a").read_bytes() == b"a" * 500
    store.evict(inner.digest)
    assert not list((store.root / "datasets").iterdir())


def test_a_new_revision_fetches_what_changed_and_a_running_reader_keeps_the_old(
    store: NodeStore, engine: DictEngine, source: Source, manifest: Manifest
) -> None:
    store.download(manifest, engine)
    current = store.root / "datasets/s3/models/gpt/@current"
    mounted = os.open(current, os.O_RDONLY)  # as a mount does: the link is resolved once
    newer = source.dataset("gpt", FILES | {"config.json": b"{1}"})
    assert store.download(newer, engine).fetched_bytes == 3
    assert (current / "config.json").read_bytes() == b"{1}"
    with open(os.open("config.json", os.O_RDONLY, dir_fd=mounted), "rb") as file:
        assert file.read() == b"{}"
    os.close(mounted)
    assert store.check(manifest.digest).complete


def test_many_who_want_one_dataset_cost_one_transfer(store: NodeStore, engine: DictEngine, manifest: Manifest) -> None:
    engine.hold = threading.Event()
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.append(store.download(manifest, engine).fetched_bytes))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    assert engine.reached.wait(60)
    engine.hold.set()
    for thread in threads:
        thread.join(60)
    assert len(results) == 20
    assert sum(results) == engine.total == 3002


def test_an_object_that_two_datasets_share_is_fetched_once_by_two_downloads_at_once(
    store: NodeStore, engine: DictEngine, source: Source
) -> None:
    first = source.dataset("x", {"a/shared": b"s" * 900, "own": b"1"})
    second = source.dataset("x/a", {"shared": b"s" * 900})
    engine.hold = threading.Event()
    threads = [threading.Thread(target=store.download, args=(manifest, engine)) for manifest in (first, second)]
    for thread in threads:
        thread.start()
    assert engine.reached.wait(60)
    engine.hold.set()
    for thread in threads:
        thread.join(60)
    assert engine.served["x/a/shared"] == 900
    assert store.check(first.digest).complete
    assert store.check(second.digest).complete


def test_who_waits_for_another_download_can_be_cancelled_and_publishes_nothing(
    store: NodeStore, engine: DictEngine, manifest: Manifest
) -> None:
    engine.hold = threading.Event()
    first = threading.Thread(target=store.download, args=(manifest, engine))
    first.start()
    assert engine.reached.wait(60)
    with pytest.raises(Cancelled):
        store.download(manifest, engine, cancelled=lambda: True)
    engine.hold.set()
    first.join(60)
    assert store.check(manifest.digest).complete


def test_a_cancelled_download_keeps_what_it_verified_and_shows_nothing(
    store: NodeStore, engine: DictEngine, manifest: Manifest
) -> None:
    asked = iter([False] * 5 + [True] * 100)
    with pytest.raises(Cancelled):
        store.download(manifest, engine, cancelled=lambda: next(asked))
    assert not snapshot_names(store.root)
    kept = store.usage().unlinked_bytes
    assert store.download(manifest, engine).fetched_bytes == 3002 - kept
    assert reserved_bytes(store) == 0


def test_another_process_that_fetches_is_waited_for(store: NodeStore, engine: DictEngine, manifest: Manifest) -> None:
    engine.hold = threading.Event()
    thread = threading.Thread(target=store.download, args=(manifest, engine))
    thread.start()
    assert engine.reached.wait(60)

    def successor() -> None:
        other = NodeStore.open(settings(store.root))
        assert other.recovery.seconds == 0, "it does not recover under a download"
        asked = iter([False] * 3 + [True] * 1000)
        with pytest.raises(Cancelled, match="another agent"):
            other.download(manifest, engine, cancelled=lambda: next(asked))
        os._exit(SURVIVED)

    assert child(successor) == SURVIVED
    engine.hold.set()
    thread.join(60)
    assert store.check(manifest.digest).complete


# Pins and eviction.


def test_what_is_pinned_is_not_evicted_and_the_refusal_says_by_whom(
    store: NodeStore, engine: DictEngine, manifest: Manifest
) -> None:
    store.pin(manifest.digest, "pod/before-it-was-there")
    store.download(manifest, engine)
    with pytest.raises(SnapshotInUse, match="pod/before-it-was-there"):
        store.evict(manifest.digest)
    assert store.unpin(manifest.digest, "pod/before-it-was-there")
    store.evict(manifest.digest)
    assert store.usage().object_bytes == 0
    assert not store.check(manifest.digest).complete
    assert store.evict(manifest.digest) == 0


def test_what_is_being_fetched_is_not_evicted(store: NodeStore, engine: DictEngine, manifest: Manifest) -> None:
    engine.hold = threading.Event()
    thread = threading.Thread(target=store.download, args=(manifest, engine))
    thread.start()
    assert engine.reached.wait(60)
    with pytest.raises(SnapshotInUse, match="a download"):
        (store.root / "snapshots" / manifest.digest).mkdir()
        store.evict(manifest.digest)
    engine.hold.set()
    thread.join(60)


def test_a_pin_ends_when_its_time_has_come(store: NodeStore) -> None:
    store.pin("d" * 64, "user/me", until=time.time() - 1)
    store.pin("e" * 64, "user/me", until=time.time() + 60)
    assert [pin.digest for pin in store.pins()] == ["e" * 64]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_what_is_mounted_is_not_evicted_though_nobody_pinned_it(
    store: NodeStore, engine: DictEngine, manifest: Manifest, tmp_path: Path
) -> None:
    store.download(manifest, engine)
    point = tmp_path / "in-a-pod"
    point.mkdir()
    assert os.system(f"mount --bind {data(store, manifest)} {point}") == 0
    try:
        assert manifest.digest in mounts.mounted(())
        with pytest.raises(SnapshotInUse, match="mounted"):
            store.evict(manifest.digest)
    finally:
        assert os.system(f"umount {point}") == 0
    assert store.evict(manifest.digest) >= 0
    assert not store.check(manifest.digest).complete


def test_the_least_recently_used_goes_first_even_when_the_clock_jumps_back(
    root: Path, source: Source, engine: DictEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(root, capacity_bytes=250_000)
    manifests = [source.dataset(f"d{number}", {"f": bytes([number]) * 100_000}) for number in range(3)]
    store.download(manifests[0], engine)
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    store.download(manifests[1], engine)
    store.check(manifests[0].digest)
    store.download(manifests[2], engine)
    assert [store.check(manifest.digest).complete for manifest in manifests] == [True, False, True]
    store.close()


# Capacity.


def test_a_refusal_holds_the_arithmetic(root: Path, source: Source, engine: DictEngine) -> None:
    store = open_store(root, capacity_bytes=1_000_000)
    held = source.dataset("held", {"f": b"h" * 700_000})
    store.download(held, engine)
    store.pin(held.digest, "pod/11-22")
    with pytest.raises(InsufficientDisk) as refused:
        store.download(source.dataset("more", {"f": b"m" * 400_000}), engine)
    for words in (
        "s3://models/more",
        "needs 390.6 KiB",
        "976.6 KiB",
        "683.6 KiB pinned by pod/11-22",
        "reserved",
        "kept free",
    ):
        assert words in refused.value.message
    assert engine.served["more/f"] == 0, "refused before the first byte"
    store.unpin(held.digest, "pod/11-22")
    store.download(source.dataset("more", {"f": b"m" * 400_000}), engine)
    assert not store.check(held.digest).complete
    store.close()


def test_reservations_of_downloads_at_once_never_exceed_the_room(
    root: Path, source: Source, engine: DictEngine
) -> None:
    store = open_store(root, capacity_bytes=1_000_000)
    manifests = [source.dataset(f"d{number}", {"a": b"", "f": bytes([number]) * 400_000}) for number in range(6)]
    engine.hold = threading.Event()
    refused: list[BaseException] = []

    def download(manifest: Manifest) -> None:
        try:
            store.download(manifest, engine)
        except InsufficientDisk as error:
            refused.append(error)

    threads = [threading.Thread(target=download, args=(manifest,)) for manifest in manifests]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(refused) == 4)
    assert reserved_bytes(store) <= 800_000
    engine.hold.set()
    for thread in threads:
        thread.join(60)
    assert len(store.snapshots()) == 2
    assert store.usage().object_bytes <= 1_000_000
    store.close()


def test_the_root_disk_is_refused_unless_allowed(tmp_path: Path) -> None:
    if tmp_path.stat().st_dev != Path("/").stat().st_dev:
        pytest.skip("the temporary folder is not on the root disk")
    with pytest.raises(NodeUnsuitable, match="ALLOW_ROOT_DISK"):
        open_store(tmp_path / "cache", allow_root_disk=False)


# Truth.


def drop(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    os.truncate(path, 10)


def rewrite_and_restore_the_times(path: Path) -> None:
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"evil")
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"1" * 2000)
    before = path.stat()
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(path)


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    (path / "within").mkdir(parents=True)


@pytest.mark.parametrize("how", ["looked at in C", "looked at in Python"])
@pytest.mark.parametrize("harm", [drop, truncate, rewrite_and_restore_the_times, replace, replace_by_a_folder])
def test_harm_to_a_file_is_noticed_and_mended_by_fetching_that_file_at_most(
    root: Path, engine: DictEngine, manifest: Manifest, harm: Callable[[Path], None], how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if how == "looked at in Python":
        monkeypatch.setattr(check, "_native", None)
    store = open_store(root)
    store.download(manifest, engine)
    assert store.check(manifest.digest).complete
    harm(data(store, manifest) / "shards" / "1")
    state = store.check(manifest.digest)
    assert not state.complete
    assert state.present_bytes == 1002
    assert any("shards/1" in problem for problem in state.problems)
    assert store.download(manifest, engine).fetched_bytes <= 2000
    assert store.check(manifest.digest).complete
    assert read_all(store, manifest) == FILES
    store.close()


def test_bytes_written_through_the_link_of_another_snapshot_are_noticed_by_the_next_check_of_each(
    store: NodeStore, engine: DictEngine, source: Source
) -> None:
    outer, inner = source.dataset("p", {"q/a": b"a" * 500, "b": b"b"}), source.dataset("p/q", {"a": b"a" * 500})
    for dataset in (outer, inner):
        store.download(dataset, engine)
    assert store.check(outer.digest).complete
    path = data(store, inner) / "a"
    path.chmod(0o644)
    path.write_bytes(b"z" * 500)
    assert not store.check(outer.digest).complete
    assert not store.check(inner.digest).complete


def test_folders_of_objects_that_a_person_removed_cost_nothing(
    store: NodeStore, engine: DictEngine, source: Source, manifest: Manifest
) -> None:
    store.download(manifest, engine)
    for shard in (store.root / "objects").iterdir():
        shutil.rmtree(shard)
    assert store.download(manifest, engine).fetched_bytes == 0
    assert store.check(manifest.digest).complete
    other = source.dataset("other", {"a": b"a" * 10})
    store.download(other, engine)
    assert read_all(store, other) == {"a": b"a" * 10}


@pytest.mark.parametrize("mode", [0o000, 0o644])
def test_a_changed_mode_is_noticed_and_mended_without_the_network(
    store: NodeStore, engine: DictEngine, manifest: Manifest, mode: int
) -> None:
    store.download(manifest, engine)
    path = data(store, manifest) / "shards" / "1"
    path.chmod(mode)
    assert not store.check(manifest.digest).complete
    assert store.download(manifest, engine).fetched_bytes == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert store.check(manifest.digest).complete


def remove_snapshot(root: Path, digest: str) -> None:
    shutil.rmtree(root / "snapshots" / digest)


def remove_manifest(root: Path, digest: str) -> None:
    (root / "snapshots" / digest / "manifest").unlink()


def tear_manifest(root: Path, digest: str) -> None:
    path = root / "snapshots" / digest / "manifest"
    path.write_bytes(path.read_bytes()[:-20])


def remove_objects(root: Path, _: str) -> None:
    for path in root.glob("objects/??/*"):
        path.unlink()


@pytest.mark.parametrize("harm", [remove_snapshot, remove_manifest, tear_manifest, remove_objects])
def test_what_a_person_removed_is_put_together_again_without_the_network(
    store: NodeStore, engine: DictEngine, manifest: Manifest, harm: Callable[[Path, str], None]
) -> None:
    store.download(manifest, engine)
    harm(store.root, manifest.digest)
    if harm is not remove_objects:
        assert not store.check(manifest.digest).complete
    assert store.download(manifest, engine).fetched_bytes == 0
    assert store.check(manifest.digest).complete


@pytest.mark.parametrize("damage", [pytest.param(None, id="removed"), pytest.param(b"rubbish" * 1000, id="rubbish")])
def test_a_lost_index_is_rebuilt_from_the_directories(
    root: Path, engine: DictEngine, source: Source, manifest: Manifest, damage: bytes | None
) -> None:
    store = open_store(root)
    store.download(manifest, engine)
    store.close()
    for name in ("index.sqlite", "index.sqlite-wal", "index.sqlite-shm"):
        (root / name).unlink(missing_ok=True)
    if damage:
        (root / "index.sqlite").write_bytes(damage)
    store = open_store(root)
    assert store.recovery.rebuilt
    assert store.check(manifest.digest).complete
    assert store.usage().objects == 4
    assert store.download(source.dataset("gpt/shards", {"0": b"0" * 1000}), engine).fetched_bytes == 0
    store.close()


def test_an_index_removed_under_a_running_agent_loses_no_pin(
    store: NodeStore, engine: DictEngine, manifest: Manifest
) -> None:
    store.download(manifest, engine)
    store.pin(manifest.digest, "pod/x")
    for name in ("index.sqlite", "index.sqlite-wal", "index.sqlite-shm"):
        (store.root / name).unlink()
    with pytest.raises(SnapshotInUse, match="pod/x"):
        store.evict(manifest.digest)
    assert (store.root / "index.sqlite").exists()


def test_a_disk_wiped_under_a_running_agent_is_another_cache(
    store: NodeStore, engine: DictEngine, manifest: Manifest
) -> None:
    store.download(manifest, engine)
    before = store.cache_id
    for path in store.root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert not store.check(manifest.digest).complete
    assert store.cache_id != before
    assert store.download(manifest, engine).fetched_bytes == 3002
    assert store.check(manifest.digest).complete


def flip(path: Path) -> None:
    """As a medium does: inode and times stay. Here the inode time cannot, so the index is told."""
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"X")
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("by", ["scrub", "check_full"])
def test_a_flipped_bit_is_quarantined_and_only_that_object_is_fetched(
    store: NodeStore, engine: DictEngine, manifest: Manifest, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(store._opened.context.disk), "trusts_ctime", False)
    store.download(manifest, engine)
    flip(data(store, manifest) / "shards" / "1")
    assert store.check(manifest.digest).complete, "no look can find it"
    if by == "scrub":
        bad: list[str] = []
        assert store.scrub(0, on_bad=lambda object_: bad.append(object_.path)).bad == 1
        assert bad == ["shards/1"]
    else:
        assert not store.check_full(manifest.digest).complete
    assert not store.check(manifest.digest).complete
    assert store.usage().quarantine_bytes > 0
    assert store.download(manifest, engine).fetched_bytes == 2000
    assert store.check_full(manifest.digest).complete
    assert store.scrub(0).bad == 0
    assert read_all(store, manifest) == FILES


def test_a_scrub_reads_nothing_while_a_download_runs_and_goes_on_after_it(
    store: NodeStore, engine: DictEngine, source: Source, manifest: Manifest
) -> None:
    store.download(manifest, engine)
    engine.hold = threading.Event()
    download = threading.Thread(
        target=store.download, args=(source.dataset("other", {"f": b"f" * 10, "g": b"g"}), engine)
    )
    download.start()
    assert engine.reached.wait(60)
    done: list[int] = []
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(1)
        return False

    scrub = threading.Thread(target=lambda: done.append(store.scrub(0, cancelled=cancelled).objects))
    scrub.start()
    wait_for(lambda: len(asked) > 2)
    assert not done
    engine.hold.set()
    download.join(60)
    scrub.join(60)
    assert done
    assert done[0] >= 4


def test_the_scrub_keeps_to_its_rate_and_can_be_stopped(
    store: NodeStore, engine: DictEngine, manifest: Manifest
) -> None:
    store.download(manifest, engine)
    result = store.scrub(10_000)
    assert result.seconds >= 3002 / 10_000 * 0.9
    with pytest.raises(Cancelled):
        store.scrub(1, cancelled=lambda: True)


# Litter.


def test_a_start_up_removes_litter_and_old_parts_and_keeps_what_can_be_resumed(
    root: Path, engine: DictEngine, manifest: Manifest
) -> None:
    store = open_store(root)
    store.download(manifest, engine)
    store.close()
    incoming = root / "incoming"
    (incoming / "aa.part").write_bytes(b"x")
    for name in ("bb", "cc"):
        (incoming / f"{name}.part").write_bytes(b"x")
        (incoming / f"{name}.journal").write_bytes(b"x")
    os.utime(incoming / "cc.part", (0, 0))
    (root / "snapshots" / f".building-{'d' * 64}" / "data").mkdir(parents=True)
    stray = root / "datasets/s3/models/gone"
    stray.mkdir(parents=True)
    (stray / "@current").symlink_to("../nowhere/data")
    store = open_store(root)
    assert sorted(path.name for path in incoming.iterdir()) == ["bb.journal", "bb.part"]
    assert snapshot_names(root) == [manifest.digest]
    assert not stray.exists()
    assert store.check(manifest.digest).complete
    store.close()


def test_what_is_not_ours_among_our_names_goes_and_stops_nothing(
    root: Path, engine: DictEngine, source: Source, manifest: Manifest
) -> None:
    """Names that are no ids, an object in another's folder, a linked one, a note among the snapshots."""
    store = open_store(root)
    store.download(manifest, engine)
    strange = [f"objects/aa/{'z' * 64}", f"objects/aa/{'b' * 64}", "objects/aa/x", f"incoming/{'z' * 64}.journal"]
    for name in strange:
        (root / name).write_bytes(b"?")
    os.link(root / strange[0], root / "objects/aa" / ("A" * 64))
    note = root / "snapshots" / "note.txt"
    note.write_text("do not touch")
    free_space(store, 0)
    assert store.evict("note.txt") == 0
    note.write_text("do not touch")
    store.close()
    store = open_store(root)
    assert not any((root / name).exists() for name in strange)
    assert not note.exists()
    assert store.check(manifest.digest).complete
    assert store.usage().objects == 4
    store.close()


def test_an_object_that_the_index_forgot_is_resumed_from_its_journal(
    root: Path, engine: DictEngine, manifest: Manifest
) -> None:
    engine.journals = True
    store = open_store(root)
    asked = iter([False] * 6 + [True] * 100)
    with pytest.raises(Cancelled):
        store.download(manifest, engine, cancelled=lambda: next(asked))
    landed = store.usage().unlinked_bytes
    assert landed > 0
    store._opened.context.index.drop_objects([object_id(obj) for obj in manifest.objects])
    store.close()
    store = open_store(root)
    assert store.recovery.recovered > 0
    result = store.download(manifest, engine)
    assert result.fetched_bytes == 3002 - landed
    assert result.resumed_bytes == landed
    store.close()
