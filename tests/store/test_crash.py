"""SIGKILL and power cuts at random points of download, publish, swap, evict, repair, scrub, links and start-up.

After each: no snapshot that can be seen is less than whole, no byte is unaccounted for, and the next download succeeds.
`KUBE_CACHE_CRASH_POINTS` sets the number of points (60; 200 in `make test-long`), `KUBE_CACHE_SEED` chooses others.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kube_cache.dataset.remote import Manifest
from kube_cache.errors import SnapshotInUse
from kube_cache.store.disk import Disk
from kube_cache.store.layout import object_id
from kube_cache.store.node_store import NodeStore
from tests.store.crashing import CUT, SURVIVED, Mortal, PowerCut, child
from tests.store.fakes import DictEngine, Source, read_all, settings, snapshot_names
from tests.store.promises import UIDS, Notes

SEED = os.environ.get("KUBE_CACHE_SEED", "")
POINTS = int(os.environ.get("KUBE_CACHE_CRASH_POINTS", "60"))
KILLED = -9


@pytest.fixture
def fast_root() -> Iterator[Path]:
    """In memory: what is durable is decided by the test, not by the medium."""
    base = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="kube-cache-crash-", dir=base))
    (folder / "cache").mkdir()
    yield folder / "cache"
    shutil.rmtree(folder)


def datasets(source: Source) -> list[Manifest]:
    """Revisions that share most of their objects, and one dataset that lies within another's prefix."""
    common = {f"d{number % 3}/f{number}": bytes([number]) * (100 + number) for number in range(9)}
    return [
        source.dataset("a", common | {"config": b"one"}),
        source.dataset("a", common | {"config": b"two", "d0/extra": b"x" * 50, "empty": b""}),
        source.dataset("a/d0", {path[3:]: content for path, content in common.items() if path.startswith("d0/")}),
        source.dataset("single", {"single": b"s" * 300}),
        source.dataset("many", {f"deep/{number}/leaf": b"m%d" % number for number in range(90)}),
    ]


def flip(store_root: Path, chance: random.Random) -> None:
    """A silent bit flip: same inode, size and times."""
    objects = [path for path in sorted(store_root.glob("objects/??/*")) if path.stat().st_size]
    if not objects:
        return
    path = chance.choice(objects)
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(content)
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def act(
    root: Path,
    disk: Mortal,
    source: Source,
    manifests: list[Manifest],
    chance: random.Random,
    notes: Notes,
    *,
    flips: bool,
) -> None:
    engine = DictEngine(source, durable=lambda _: disk.tick(), sync=False)
    engine.journals = True
    store = NodeStore.open(settings(root), disk=disk)
    for _ in range(10):
        manifest = chance.choice(manifests)
        deed = chance.random()
        if deed < 0.4:
            resolved_at = notes.next() - chance.choice([0, 0, 5.5])
            said = (str(store._opened.layout.dataset(manifest.uri)), manifest.digest, resolved_at)
            notes.note("pointing", *said)
            store.download(manifest, engine, resolved_at=resolved_at)
            notes.note("pointed", *said)
        elif deed < 0.6:
            notes.note("evicting", manifest.digest)
            with suppress(SnapshotInUse):
                store.evict(manifest.digest)
        elif deed < 0.75:
            place_pod(store, notes, chance.sample(manifests, chance.choice([1, 2])), chance)
        elif deed < 0.85:
            uid = chance.choice(UIDS)
            notes.note("unlinking", uid, manifest.digest)
            store.unlink_pod(uid, manifest.digest, chance.choice([0, notes.next()]))
        elif deed < 0.9:
            store.reconcile({}, UIDS)
        elif flips:
            flip(root, chance)
            store.scrub(0)
        else:
            store.check(manifest.digest)


def place_pod(store: NodeStore, notes: Notes, wanted: list[Manifest], chance: random.Random) -> None:
    """As `check_disk` does: link, check, put `@current` right."""
    uid, attempt = chance.choice(UIDS), notes.next()
    places = {str(place): manifest.digest for place, manifest in enumerate(wanted)}
    notes.note("linking", uid, attempt, places)
    store.link_pod(uid, attempt, list(places.values()))
    notes.note("linked", uid, attempt, places)
    for place, manifest in enumerate(wanted):
        resolved_at = attempt - chance.choice([0, 0, 5.5])
        said = (str(store._opened.layout.dataset(manifest.uri)), manifest.digest, resolved_at)
        notes.note("pointing", *said)
        if store.check_for_pod(uid, place, manifest.digest, manifest.uri, resolved_at=resolved_at).complete:
            notes.note("pointed", *said)
            notes.note("complete", uid, manifest.digest)


def inspect(store: NodeStore, source: Source, manifests: list[Manifest], *, flips: bool) -> None:
    root = store.root
    if flips:
        account(store)
        store.scrub(0)
    by_digest = {manifest.digest: manifest for manifest in manifests}
    names = snapshot_names(root)
    assert set(names) <= set(by_digest), "half-built things are not left lying about"
    for name in names:
        state = store.check(name)
        if state.complete:
            expected = {obj.path: source.bytes_of(obj) for obj in by_digest[name].objects}
            assert read_all(store, by_digest[name]) == expected
        else:
            assert flips, f"{name[:12]} can be seen and is not whole: {state.problems}"
    for link in (root / "datasets").rglob("@current"):
        assert link.resolve().parent.name in names, f"{link} leads nowhere"
        assert link.exists()
    account(store)


def account(store: NodeStore) -> None:
    """Every byte under the root is an object that the index knows, or in incoming/ or quarantine/."""
    root = store.root
    usage = store.usage()
    objects = {path.stat().st_ino: path.stat().st_size for path in root.glob("objects/??/*")}
    assert (len(objects), sum(objects.values())) == (usage.objects, usage.object_bytes)
    quarantined = {path.stat().st_ino for path in root.glob("quarantine/*")}
    for path in (root / "snapshots").glob("*/data/**/*"):
        if path.is_file():
            known = path.stat().st_ino in objects.keys() | quarantined
            assert known or not store.check(path.relative_to(root / "snapshots").parts[0]).complete, path
    linked = sum(path.stat().st_size for path in root.glob("objects/??/*") if path.stat().st_nlink > 1)
    assert usage.object_bytes - usage.unlinked_bytes == linked
    assert usage.capacity.reserved_bytes == 0


def next_download_fetches_only_what_is_missing(
    store: NodeStore, source: Source, manifest: Manifest, resolved_at: float, *, flips: bool
) -> None:
    root = store.root
    engine = DictEngine(source, sync=False)
    missing = 0
    for obj in manifest.objects:
        name = object_id(obj)
        part, journal = root / "incoming" / f"{name}.part", root / "incoming" / f"{name}.journal"
        there = (root / "objects" / name[:2] / name).exists() or (part.exists() and journal.exists())
        linked = (root / "snapshots" / manifest.digest / "data" / obj.path).exists()
        missing += 0 if there or linked else obj.size
    store.download(manifest, engine, resolved_at=resolved_at)
    if not flips:
        assert engine.total <= missing
    else:  # what flipped while no snapshot linked it, the next scrub finds
        store.scrub(0)
        store.download(manifest, engine, resolved_at=resolved_at)
    assert store.check(manifest.digest).complete
    assert read_all(store, manifest) == {obj.path: source.bytes_of(obj) for obj in manifest.objects}


@pytest.mark.slow
@pytest.mark.parametrize("flips", [pytest.param(False, id="sound-disk"), pytest.param(True, id="flipping-bits")])
@pytest.mark.parametrize("power", [pytest.param(False, id="SIGKILL"), pytest.param(True, id="power-cut")])
def test_whatever_moment_it_ends_at_what_can_be_seen_is_whole_and_every_byte_is_accounted_for(
    fast_root: Path, power: bool, flips: bool
) -> None:
    source = Source()
    manifests = datasets(source)
    chance = random.Random(f"{power}{flips}{SEED}")
    disk_of: Callable[[int], Mortal] = (lambda at: PowerCut(at, fast_root, chance)) if power else Mortal
    notes = Notes(fast_root)
    crashes = 0
    for attempt in range(POINTS * 4):
        if crashes == POINTS // 2:
            break
        at = chance.choice([chance.randrange(1, 60), chance.randrange(1, 600)])
        seed = chance.random()

        def body(at: int = at, seed: float = seed) -> None:
            chance.seed(seed)
            act(fast_root, disk_of(at), source, manifests, chance, notes, flips=flips)

        code = child(body)
        assert code in {SURVIVED, CUT, KILLED}, f"attempt {attempt}: ended with {code}"
        shutil.rmtree(f"{fast_root}.graves", ignore_errors=True)
        crashes += code != SURVIVED
        chance.seed(seed + 1)
        store = NodeStore.open(settings(fast_root), disk=Timeless() if power else Disk())
        try:
            inspect(store, source, manifests, flips=flips)
            notes.read().hold(store, whole=not flips)
            if chance.random() < 0.3:
                resolved_at = attempt * 1000 + 999
                manifest = chance.choice(manifests)
                next_download_fetches_only_what_is_missing(store, source, manifest, resolved_at, flips=flips)
                account(store)
            for pin in store.pins():
                if chance.random() < 0.5:
                    store.unpin(pin.digest, pin.owner)
            notes.begin(store, attempt + 1)
        finally:
            store.close()
    assert crashes == POINTS // 2, "too few runs were cut short for the number of points asked for"


class Timeless(Disk):
    trusts_ctime = False
