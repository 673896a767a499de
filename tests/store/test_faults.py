"""A disk that fails: each failure has a name, a reason and a remedy, and the store goes on when the cause is gone.

Full disks, lack of inodes and read-only disks are real (a small tmpfs, which needs root); what no kernel gives on
request (EIO, a quota, EACCES for root) comes from a disk that says so.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kube_cache.dataset.remote import Manifest
from kube_cache.errors import DiskFault, InsufficientDisk
from kube_cache.store.disk import Disk
from kube_cache.store.disk_errors import sqlite_fault
from kube_cache.store.node_store import NodeStore
from tests.store.fakes import (
    DictEngine,
    Source,
    free_space,
    open_store,
    read_all,
    reserved_bytes,
    settings,
    snapshot_names,
)
from tests.store.test_crash import account

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        point = tmp_path / f"disk{len(mounted)}"
        point.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(point)], check=True)
        mounted.append(point)
        return point

    yield mount
    for point in mounted:
        subprocess.run(["umount", "-l", str(point)], check=True)


class Failing(Disk):
    def __init__(self, operation: str, code: int) -> None:
        super().__init__()
        self.code = 0
        self._operation, self._code = operation, code
        original = getattr(self, operation)

        def fail(*args: object) -> object:
            if self.code:
                raise OSError(self.code, os.strerror(self.code), str(args[0]))
            return original(*args)

        setattr(self, operation, fail)

    def begin(self) -> None:
        self.code = self._code

    def end(self) -> None:
        self.code = 0


@pytest.mark.parametrize("operation", ["link", "rename", "write", "sync_folder", "make_folder", "set_mode"])
@pytest.mark.parametrize(
    ("code", "words"),
    [
        pytest.param(errno.ENOSPC, "ENOSPC .*make room", id="ENOSPC"),
        pytest.param(errno.EROFS, "EROFS .*read-write", id="EROFS"),
        pytest.param(errno.EIO, "EIO .*drain the node", id="EIO"),
        pytest.param(errno.EDQUOT, "EDQUOT .*raise the quota", id="EDQUOT"),
        pytest.param(errno.EACCES, "EACCES .*write permission", id="EACCES"),
    ],
)
def test_what_the_disk_says_is_named_and_the_next_warm_succeeds_when_it_says_it_no_more(
    root: Path, source: Source, engine: DictEngine, operation: str, code: int, words: str
) -> None:
    disk = Failing(operation, code)
    store = NodeStore.open(settings(root), disk=disk)
    manifest = source.dataset("gpt", {"a": b"a" * 100, "d/b": b"b" * 200})
    disk.begin()
    with pytest.raises(DiskFault, match=words):
        store.download(manifest, engine)
    assert not store.check(manifest.digest).complete
    disk.end()
    store.download(manifest, engine)
    assert store.check(manifest.digest).complete
    account(store)
    assert engine.total <= 300 * 2
    store.close()


@needs_root
def test_a_disk_filled_by_others_is_named_and_works_again_when_they_are_gone(
    small_disk: Callable[[str], Path], source: Source
) -> None:
    root = small_disk("size=4m") / "cache"
    store = open_store(root)
    manifest = source.dataset("gpt", {"a": b"a" * 1_000_000})
    hog = root.parent / "hog"
    with hog.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while file.write(b"x" * 4096):
            pass
    with pytest.raises((InsufficientDisk, DiskFault), match=r"can be used|ENOSPC|disk is full"):
        store.download(manifest, DictEngine(source))
    hog.unlink()
    store.download(manifest, DictEngine(source))
    assert read_all(store, manifest)["a"] == b"a" * 1_000_000
    store.close()


@needs_root
def test_a_lack_of_inodes_is_told_from_a_lack_of_bytes(small_disk: Callable[[str], Path], source: Source) -> None:
    root = small_disk("size=16m,nr_inodes=400") / "cache"
    store = open_store(root)
    manifest = source.dataset("gpt", {f"f{number}": b"x" for number in range(300)})
    with pytest.raises(InsufficientDisk, match="inodes for"):
        store.download(manifest, DictEngine(source))
    litter = []
    with pytest.raises(OSError, match="No space"):
        while True:
            path = root.parent / f"litter{len(litter)}"
            path.touch()
            litter.append(path)
    few = source.dataset("few", {"d/f": b"x"})
    with pytest.raises((InsufficientDisk, DiskFault), match="inodes"):
        store.download(few, DictEngine(source))
    for path in litter:
        path.unlink()
    store.download(few, DictEngine(source))
    assert store.check(few.digest).complete
    store.close()


@needs_root
def test_a_disk_that_turns_read_only_is_named_and_works_again_when_it_is_mended(
    small_disk: Callable[[str], Path], source: Source
) -> None:
    disk = small_disk("size=16m")
    store = open_store(disk / "cache")
    manifest = source.dataset("gpt", {"a": b"a" * 1000})
    store.close()  # the kernel refuses to do by hand, under a writer, what it does itself when a disk fails
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        with pytest.raises(DiskFault, match="EROFS"):
            open_store(disk / "cache").download(manifest, DictEngine(source))
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    store = open_store(disk / "cache")
    store.download(manifest, DictEngine(source))
    assert store.check(manifest.digest).complete
    store.close()


def test_an_index_that_fills_up_in_mid_download_leaves_nothing_held_and_nothing_to_fetch_again(
    root: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a download writes to the index too; what is only in memory must not depend on it."""
    store = open_store(root)
    manifest = source.dataset("gpt", {"a": b"a" * 1000, "b": b"b" * 1000})
    engine = DictEngine(source)
    engine.journals = True
    index = store._opened.context.index
    opening = index._connection

    def full() -> object:
        if engine.served:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return opening()

    with monkeypatch.context() as patch:
        patch.setattr(index, "_connection", full)
        with pytest.raises(DiskFault, match="ENOSPC"):
            store.download(manifest, engine)
    assert index.downloads() == []
    assert reserved_bytes(store) == 0
    done = threading.Thread(target=store.download, args=(manifest, engine), daemon=True)
    done.start()
    done.join(60)
    assert not done.is_alive(), "it waits for a claim that nobody holds"
    assert engine.total == 2000
    assert store.check(manifest.digest).complete
    account(store)
    store.close()


def test_what_sqlite_says_of_the_disk_is_named(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "x")
    db.execute("PRAGMA max_page_count = 1")
    with pytest.raises(sqlite3.OperationalError) as full:
        db.execute("CREATE TABLE t (a)")
    db.close()
    assert "ENOSPC" in sqlite_fault(full.value, tmp_path).message


@pytest.mark.slow
@needs_root
def test_fifty_pods_and_five_datasets_on_a_disk_for_three(small_disk: Callable[[str], Path], source: Source) -> None:
    """Each byte crosses the network once per residence, everybody has a turn, and min_free is never touched."""
    root = small_disk("size=64m") / "cache"
    store = open_store(root, min_free=0.20)
    shared = {"tokenizer": b"t" * 1_000_000}
    manifests = [source.dataset(f"m{number}", shared | {"w": bytes([number]) * 14_000_000}) for number in range(5)]
    engine = DictEngine(source, sync=False)
    landings: list[int] = []
    least = [1.0]
    refusals: list[str] = []
    served: list[int] = []
    lock = threading.Lock()
    turn = threading.Condition(lock)

    def pod(number: int) -> None:
        manifest = manifests[number % 5]
        owner = f"pod/{number}"
        while True:
            store.pin(manifest.digest, owner)
            try:
                if not store.check(manifest.digest).complete:
                    result = store.download(manifest, engine)
                    with lock:
                        landings.append(result.fetched_bytes)
                break
            except InsufficientDisk as error:
                store.unpin(manifest.digest, owner)
                with turn:
                    refusals.append(error.message)
                    turn.wait(0.2)
        usage = os.statvfs(root)
        assert store.check(manifest.digest).complete
        assert read_all(store, manifest)["w"] == bytes([number % 5]) * 14_000_000
        with turn:
            least[0] = min(least[0], usage.f_bavail / usage.f_blocks)
            served.append(number)
            store.unpin(manifest.digest, owner)
            turn.notify_all()

    threads = [threading.Thread(target=pod, args=(number,), daemon=True) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(served) == list(range(50)), "nobody starves"
    residences = [size for size in landings if size]
    assert engine.total == sum(residences)
    assert len([size for size in residences if size >= 14_000_000]) <= 50
    assert engine.total < 50 * 15_000_000 / 2, "what one Pod fetched serves others"
    assert least[0] >= 0.20
    for text in refusals:
        assert "pinned by pod/" in text or "are reserved by other downloads" in text, text
    print(f"fetched {engine.total}, refusals {len(refusals)}, least free {least[0]:.3f}")
    account(store)
    store.close()


def test_a_removal_that_a_failing_disk_cut_short_is_finished_when_room_is_needed(root: Path, source: Source) -> None:
    """No restart: what it left is neither forgotten nor in the way."""
    engine = DictEngine(source)
    disk = Failing("unlink", errno.EIO)
    store = NodeStore.open(settings(root, capacity_bytes=1_000_000), disk=disk)
    old = source.dataset("old", {"a": b"a" * 300_000, "d/b": b"b" * 300_000})
    store.download(old, engine)
    disk.begin()
    with pytest.raises(DiskFault, match="EIO"):
        store.evict(old.digest)
    disk.end()
    assert list((root / "snapshots").glob(".removing-*"))
    new = source.dataset("new", {"c": b"c" * 800_000})
    store.check_fits(new.total_bytes)
    store.download(new, engine)
    assert snapshot_names(root) == [new.digest]
    assert store.usage().object_bytes == 800_000
    account(store)
    store.close()


@pytest.mark.parametrize("harm", ["torn", "gone"])
def test_the_objects_of_a_snapshot_without_its_manifest_go_with_it(root: Path, source: Source, harm: str) -> None:
    engine = DictEngine(source)
    store = open_store(root)
    manifest = source.dataset("gpt", {"a": b"a" * 1000, "d/own": b"b" * 2000})
    other = source.dataset("gpt/d", {"own": b"b" * 2000})
    store.download(manifest, engine)
    store.download(other, engine)
    path = root / "snapshots" / manifest.digest / "manifest"
    path.unlink() if harm == "gone" else path.write_bytes(path.read_bytes()[:-5])
    assert store.evict(manifest.digest) == 1000
    assert store.usage().object_bytes == 2000
    assert store.check(other.digest).complete
    account(store)
    store.close()


def three_that_fill(disk: Path, source: Source) -> tuple[Path, NodeStore, list[Manifest]]:
    """Datasets of 20 MB on a disk of 64 MiB."""
    root = disk / "cache"
    store = open_store(root, min_free=0.0)
    engine = DictEngine(source, sync=False)
    manifests = [source.dataset(f"m{number}", {"w": bytes([number]) * 20_000_000}) for number in range(3)]
    for manifest in manifests:
        store.download(manifest, engine)
    return root, store, manifests


@pytest.mark.slow
@needs_root
def test_what_the_file_system_does_not_give_back_is_not_counted_as_room(
    small_disk: Callable[[str], Path], source: Source
) -> None:
    """Statfs before and after: a removed file that somebody still reads frees nothing, so the next one goes, too."""
    root, store, manifests = three_that_fill(small_disk("size=64m"), source)
    free = os.statvfs(root)
    with (root / "snapshots" / manifests[0].digest / "data" / "w").open("rb") as reader:
        freed = free_space(store, 20_000_000)
        after = os.statvfs(root)
        assert freed == (after.f_bavail - free.f_bavail) * after.f_frsize
        assert after.f_bavail * after.f_frsize >= 20_000_000
        assert [store.check(manifest.digest).complete for manifest in manifests] == [False, False, True]
        assert reader.read(1) == b"\0"
    store.close()


@needs_root
def test_an_eviction_takes_one_snapshot_and_no_more_where_one_gives_the_room(
    small_disk: Callable[[str], Path], source: Source
) -> None:
    root, store, manifests = three_that_fill(small_disk("size=64m"), source)
    before = os.statvfs(root)
    freed = free_space(store, 20_000_000)
    after = os.statvfs(root)
    assert freed == (after.f_bavail - before.f_bavail) * after.f_frsize
    assert 19_900_000 < freed < 20_000_000  # the index grew meanwhile
    assert [store.check(manifest.digest).complete for manifest in manifests] == [False, True, True]
    store.close()
