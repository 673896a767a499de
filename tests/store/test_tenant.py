"""A tenant with root and a writable mount against eviction, scrub, publish, repair, check and recovery.

What such a container can change is its own snapshot's folder, and the bytes of the files in it, which are links of
objects. It can hurt only itself, and those that share the objects; and both are noticed.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from kube_cache.dataset.remote import Manifest
from kube_cache.errors import KubeCacheError
from kube_cache.store import beneath, removal
from kube_cache.store.node_store import NodeStore
from tests.store.fakes import DictEngine, Source, open_store, read_all
from tests.store.test_crash import SEED, account

SECONDS = float(os.environ.get("KUBE_CACHE_TENANT_SECONDS", "5"))
# The keys of a tenant's own bucket choose the names, so that a planted folder makes them lead to other things.
EVIL = {
    "d/cache-id": b"1", "d/index.sqlite": b"2", "d/f": b"3" * 400, "m/manifest": b"4", "m/damaged": b"5", "top": b"6" * 90,
    "e/deep/er/f": b"7" * 5000, "e/f": b"8",
} | {f"many/{number}": bytes([number]) * 50 for number in range(40)}  # fmt: skip
VICTIM = {"v": b"V" * 1000, "d/f": b"W" * 100, "many/1": b"X" * 10}


@pytest.fixture(params=["openat2", "folder by folder"])
def resolving(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "folder by folder":
        monkeypatch.setattr(beneath, "USES_OPENAT2", False)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that is not the cache's, with names as the tenant's keys have them."""
    outside = tmp_path / "outside"
    (outside / "deep/er").mkdir(parents=True)
    for name in ("f", "cache-id", "manifest", "deep/er/f", "1", "2"):
        (outside / name).write_bytes(b"not ours")
        (outside / name).chmod(0o640)
    outside.chmod(0o700)
    return outside


def picture(*folders: Path) -> dict[str, tuple[int, int, bytes | None]]:
    """Mode, links and content of all below the folders."""
    found = {}
    for folder in folders:
        for path in [folder, *folder.rglob("*")]:
            now = path.lstat()
            links = now.st_nlink if stat.S_ISREG(now.st_mode) else 0
            found[str(path)] = (now.st_mode, links, path.read_bytes() if stat.S_ISREG(now.st_mode) else None)
    return found


def data(store: NodeStore, manifest: Manifest) -> Path:
    return store.root / "snapshots" / manifest.digest / "data"


def plant(path: Path, target: Path) -> None:
    path.parent.chmod(0o755)
    path.rename(path.with_name(f".{path.name}"))
    path.symlink_to(target)


@pytest.fixture
def planted(store: NodeStore, source: Source, engine: DictEngine, outside: Path, resolving: None) -> list[Manifest]:
    """A victim, and a tenant whose folders lead to the root, to the victim's snapshot and out of the cache."""
    victim, evil = source.dataset("victim", VICTIM), source.dataset("evil", EVIL)
    for dataset in (victim, evil):
        store.download(dataset, engine)
    for name, target in (
        ("d", store.root), ("m", store.root / "snapshots" / victim.digest), ("e", outside), ("many", data(store, victim)),
    ):  # fmt: skip
        plant(data(store, evil) / name, target)
    return [victim, evil]


def test_an_eviction_touches_nothing_that_a_planted_link_leads_to(
    store: NodeStore, planted: list[Manifest], outside: Path
) -> None:
    victim, evil = planted
    others = (outside, store.root / "snapshots" / victim.digest, store.root / "cache-id")
    before = picture(*others)
    store.evict(evil.digest)
    assert picture(*others) == before
    assert not (store.root / "snapshots" / evil.digest).exists()
    assert store.check(victim.digest).complete
    account(store)


def test_a_repair_replaces_what_was_planted_and_touches_nothing_that_it_leads_to(
    store: NodeStore, planted: list[Manifest], source: Source, engine: DictEngine, outside: Path
) -> None:
    victim, evil = planted
    mine = data(store, evil)
    mine.chmod(0o755)
    (mine / "top").unlink()
    os.mkfifo(mine / "top")
    others = (outside, store.root / "snapshots" / victim.digest, store.root / "cache-id")
    before = picture(*others)
    assert store.download(evil, engine).fetched_bytes == 0
    assert store.check(evil.digest).complete
    assert read_all(store, evil) == {obj.path: source.bytes_of(obj) for obj in evil.objects}
    assert picture(*others) == before


def test_a_scrub_judges_no_object_by_what_stands_in_its_place(
    store: NodeStore, planted: list[Manifest], outside: Path
) -> None:
    victim, evil = planted
    before = picture(outside)
    assert store.scrub(0).bad == 0
    assert store.usage().quarantine_bytes == 0
    assert store.check(victim.digest).complete
    assert not store.check(evil.digest).complete
    assert picture(outside) == before


def test_a_start_removes_what_was_planted_in_a_half_removed_snapshot_and_nothing_else(
    store: NodeStore, planted: list[Manifest], outside: Path
) -> None:
    victim, evil = planted
    others = (outside, store.root / "snapshots" / victim.digest, store.root / "cache-id")
    store.close()
    snapshots = store.root / "snapshots"
    (snapshots / evil.digest).rename(snapshots / f".removing-{evil.digest}")
    before = picture(*others)
    again = open_store(store.root)
    assert picture(*others) == before
    assert [digest.digest for digest in again.snapshots()] == [victim.digest]
    assert again.check(victim.digest).complete
    account(again)
    again.close()


def test_every_harm_is_told_with_the_names_of_the_files(
    store: NodeStore, planted: list[Manifest], engine: DictEngine
) -> None:
    _, evil = planted
    with structlog.testing.capture_logs() as logs:
        assert not store.check(evil.digest).complete
    told = [entry for entry in logs if entry["event"] == "snapshot is damaged"]
    assert told
    assert told[0]["digest"] == evil.digest
    assert any("d/cache-id" in problem for problem in told[0]["problems"])
    assert told[0]["count"] == len(EVIL) - 1


def write_and_restore_the_times(path: Path) -> None:
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"evil")
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def evicted(store: NodeStore, evil: Manifest, _engine: DictEngine) -> None:
    store.evict(evil.digest)


def evicted_without_its_manifest(store: NodeStore, evil: Manifest, _engine: DictEngine) -> None:
    (store.root / "snapshots" / evil.digest / "manifest").unlink()
    store.evict(evil.digest)


def repaired(store: NodeStore, evil: Manifest, engine: DictEngine) -> None:
    store.download(evil, engine)


def removal_was_cut_short(store: NodeStore, evil: Manifest, _engine: DictEngine) -> None:
    snapshots = store.root / "snapshots"
    (snapshots / evil.digest).rename(snapshots / f".removing-{evil.digest}")
    store._opened.context.index.drop_use(evil.digest)
    with store._opened.context.exclusive():
        removal.complete_interrupted(store._opened.context)


@pytest.mark.parametrize(
    "then",
    [None, evicted, evicted_without_its_manifest, repaired, removal_was_cut_short],
    ids=lambda then: then and then.__name__,
)
def test_bytes_written_through_one_snapshot_are_noticed_by_each_that_shares_them_whatever_happens_to_the_first(
    store: NodeStore, source: Source, engine: DictEngine, then: Callable[[NodeStore, Manifest, DictEngine], None] | None
) -> None:
    """Root restores size and times, but the ctime tells. An eviction changes the ctime, too, and must not hide that."""
    victim, evil = source.dataset("p", {"q/a": b"a" * 500, "b": b"b"}), source.dataset("p/q", {"a": b"a" * 500})
    for dataset in (victim, evil):
        store.download(dataset, engine)
    write_and_restore_the_times(data(store, evil) / "a")
    if then is not None:
        then(store, evil, engine)
    assert not store.check(victim.digest).complete
    store.download(victim, engine)
    assert store.check(victim.digest).complete
    assert read_all(store, victim) == {obj.path: source.bytes_of(obj) for obj in victim.objects}


def test_an_eviction_that_is_killed_between_its_unlinks_and_their_record_puts_no_other_snapshot_in_doubt(
    store: NodeStore, source: Source, engine: DictEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = source.dataset("p", {"q/a": b"a" * 500, "q/c": b"c"})
    part, other = source.dataset("p/q", {"a": b"a" * 500, "c": b"c"}), source.dataset("p/q", {"a": b"a" * 500})
    for dataset in (whole, part, other):
        store.download(dataset, engine)

    def die(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(removal, "_release_objects", die)
        store.evict(part.digest)
    again = open_store(store.root)
    assert again.check(whole.digest).complete
    assert again.check(other.digest).complete
    account(again)
    again.close()


def test_a_container_that_keeps_writing_into_its_removed_snapshot_holds_up_nobody(
    store: NodeStore, source: Source, engine: DictEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = source.dataset("evil", EVIL)
    store.download(evil, engine)
    inside = os.open(data(store, evil), os.O_RDONLY)  # as a mount holds the folder, wherever it is renamed to
    disk = store._opened.context.disk
    removing = disk.remove_folder
    made = 0

    def remove(path: object) -> None:
        nonlocal made
        if str(path).endswith("/data"):
            made += 1
            os.close(os.open(f"again{made}", os.O_CREAT | os.O_WRONLY, dir_fd=inside))
        removing(path)

    with monkeypatch.context() as patched:
        patched.setattr(disk, "remove_folder", remove)
        with structlog.testing.capture_logs() as logs:
            assert store.evict(evil.digest) > 0
        assert any("keeps writing" in entry["event"] for entry in logs)
        assert not store.check(evil.digest).complete
        other = source.dataset("other", {"f": b"f" * 100})
        store.download(other, engine)
    os.close(inside)
    with store._opened.context.exclusive():
        removal.complete_interrupted(store._opened.context)
    assert not list((store.root / "snapshots").glob(".removing-*"))
    assert store.check(other.digest).complete


# At once.


@pytest.fixture
def fast_root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "cache"
    subprocess.run(["chmod", "-R", "u+rwx", str(tmp_path)], check=False, capture_output=True)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


class Agent(threading.Thread):
    """Does everything that an agent does to the tenant's snapshot, in random order, and looks after the victims."""

    def __init__(self, root: Path, source: Source, evil: Manifest, victim: Manifest, chance: random.Random) -> None:
        super().__init__(daemon=True)
        self._root, self._evil, self._victim, self._chance = root, evil, victim, chance
        self._engine = DictEngine(source)
        self._store = open_store(root)
        self._ends = time.monotonic() + SECONDS
        self.done: Counter[str] = Counter()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while time.monotonic() < self._ends:
                self._act()
        except BaseException as error:
            self.error = error
        finally:
            self._store.close()

    def _act(self) -> None:
        deed = self._chance.choice([self._repair, self._repair, self._evict, self._scrub, self._check, self._restart])
        try:
            deed()
        except KubeCacheError as error:
            self.done[f"refused: {type(error).__name__}"] += 1
        self.done[deed.__name__] += 1
        assert self._store.check(self._victim.digest).complete, deed

    def _repair(self) -> None:
        self._store.download(self._evil, self._engine)

    def _evict(self) -> None:
        self._store.evict(self._evil.digest)

    def _scrub(self) -> None:
        self._store.scrub(0)

    def _check(self) -> None:
        self._store.check(self._evil.digest)

    def _restart(self) -> None:
        self._store.close()
        self._store = open_store(self._root)


@pytest.mark.slow
def test_a_tenant_at_work_while_the_agent_works_hurts_only_itself(
    fast_root: Path, source: Source, outside: Path, resolving: None
) -> None:
    victim, evil = source.dataset("victim", VICTIM), source.dataset("evil", EVIL)
    store = open_store(fast_root)
    for dataset in (victim, evil):
        store.download(dataset, DictEngine(source))
    own, identity = data(store, evil), store.cache_id
    others = (outside, fast_root / "snapshots" / victim.digest)
    before = picture(*others)
    tenant = subprocess.Popen(
        [sys.executable, "-m", "tests.store.tenant", str(own), str(outside), f"tenant{SEED}"], stdout=subprocess.PIPE
    )
    assert tenant.stdout
    assert tenant.stdout.readline() == b"ready\n"
    agent = Agent(fast_root, source, evil, victim, random.Random(f"agent{SEED}"))
    agent.start()
    agent.join(SECONDS + 120)
    tenant.kill()
    tenant.wait()
    tenant.stdout.close()
    assert not agent.is_alive(), "a fifo, or a tree without an end, holds the agent up"
    if agent.error:
        raise agent.error
    print(dict(agent.done))
    assert picture(*others) == before
    again = open_store(fast_root)
    assert again.cache_id == identity
    if again.check(evil.digest).complete:
        assert read_all(again, evil) == {obj.path: source.bytes_of(obj) for obj in evil.objects}
    again.download(evil, DictEngine(source))
    assert again.check_full(evil.digest).complete
    assert read_all(again, evil) == {obj.path: source.bytes_of(obj) for obj in evil.objects}
    again.evict(evil.digest)
    assert not [path for path in (fast_root / "snapshots").iterdir() if path.name not in {victim.digest, "pods"}]
    assert picture(*others) == before
    account(again)
    again.close()
    store.close()
