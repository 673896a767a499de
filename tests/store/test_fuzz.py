"""16 actors, 10,000 random operations, one store, against a model: what is pinned and was found whole stays whole.

`KUBE_CACHE_FUZZ_OPERATIONS` sets the number of operations, `KUBE_CACHE_SEED` chooses others.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from kube_cache.dataset.transfer import Manifest
from kube_cache.errors import Cancelled, InsufficientDisk, SnapshotInUse
from kube_cache.store.node_store import NodeStore
from tests.store.fakes import DictEngine, Source, free_space, read_all, reserved_bytes, settings
from tests.store.test_crash import SEED, account

ACTORS = 16
OPERATIONS = int(os.environ.get("KUBE_CACHE_FUZZ_OPERATIONS", "10000"))
CAPACITY = 400_000


@pytest.fixture
def fast_root() -> Iterator[Path]:
    base = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="kube-cache-fuzz-", dir=base))
    yield folder / "cache"
    shutil.rmtree(folder)


class Model:
    """What must hold: a pin under which the snapshot was found, or made, whole is a promise until it is given back."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.promised: Counter[str] = Counter()
        self.deeds: Counter[str] = Counter()

    def count(self, deed: str) -> None:
        with self.lock:
            self.deeds[deed] += 1

    def promise(self, digest: str, change: int) -> None:
        with self.lock:
            self.promised[digest] += change


class Actor(threading.Thread):
    def __init__(self, number: int, store: NodeStore, source: Source, engine: DictEngine, manifests: list[Manifest],
                 rotten: Manifest, model: Model) -> None:  # fmt: skip
        super().__init__(name=f"actor-{number}", daemon=True)
        self.chance = random.Random(f"{number}{SEED}")
        self.number, self.store, self.source, self.engine = number, store, source, engine
        self.manifests, self.rotten, self.model = manifests, rotten, model
        self.held: list[tuple[Manifest, str]] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for count in range(OPERATIONS // ACTORS):
                self.act(count)
            while self.held:
                self.let_go()
        except BaseException as error:
            self.error = error

    def act(self, count: int) -> None:
        deed = self.chance.random()
        if deed < 0.35 and len(self.held) < 2:
            self.use(count)
        elif deed < 0.50 and self.held:
            self.look_at_what_is_held()
        elif deed < 0.75 and self.held:
            self.let_go()
        elif deed < 0.85:
            self.evict()
        elif deed < 0.90:
            self.give_up()
        elif deed < 0.93:
            self.rot()
        elif deed < 0.95:
            self.store.usage()
            self.store.snapshots()
        elif deed < 0.97:
            self.make_room()
        else:
            reserved_bytes(self.store)
        self.model.count("operations")

    def use(self, count: int) -> None:
        """What a release does: pin, check, warm on a miss."""
        manifest = self.chance.choice(self.manifests)
        owner = f"pod/{self.number}-{count}"
        self.store.pin(manifest.digest, owner)
        if not self.store.check(manifest.digest).complete:
            try:
                self.store.download(manifest, self.engine)
                self.model.count("downloaded")
            except InsufficientDisk as error:
                assert "needs" in error.message
                self.model.count("refused")
                self.store.unpin(manifest.digest, owner)
                return
        else:
            self.model.count("hits")
        self.model.promise(manifest.digest, 1)
        self.held.append((manifest, owner))
        self.look_at_what_is_held()

    def look_at_what_is_held(self) -> None:
        manifest, _ = self.chance.choice(self.held)
        assert self.store.check(manifest.digest).complete, "what is pinned and was whole is whole"
        assert read_all(self.store, manifest) == {obj.path: self.source.bytes_of(obj) for obj in manifest.objects}

    def let_go(self) -> None:
        manifest, owner = self.held.pop(self.chance.randrange(len(self.held)))
        self.model.promise(manifest.digest, -1)
        assert self.store.unpin(manifest.digest, owner)

    def evict(self) -> None:
        manifest = self.chance.choice([*self.manifests, self.rotten])
        try:
            if self.store.evict(manifest.digest):
                self.model.count("evicted")
        except SnapshotInUse as error:
            assert "pinned by" in error.message
            self.model.count("in use")

    def give_up(self) -> None:
        """A download that is cancelled in the middle."""
        manifest = self.chance.choice(self.manifests)
        left = self.chance.randrange(1, 12)

        def cancelled() -> bool:
            nonlocal left
            left -= 1
            return left < 0

        try:
            self.store.download(manifest, self.engine, cancelled=cancelled)
        except (Cancelled, InsufficientDisk):
            self.model.count("given up")

    def rot(self) -> None:
        """Somebody truncates a file of a dataset that nobody else uses: it must be noticed, and mended."""
        try:
            self.store.download(self.rotten, self.engine)
            path = self.store.root / "snapshots" / self.rotten.digest / "data" / "r"
            os.truncate(path, 1)
            self.model.count("rotted")
        except (InsufficientDisk, FileNotFoundError):
            return

    def make_room(self) -> None:
        try:
            free_space(self.store, self.chance.randrange(CAPACITY))
        except InsufficientDisk:
            self.model.count("no room")


@pytest.mark.slow
def test_sixteen_actors_never_lose_what_one_of_them_holds(fast_root: Path) -> None:
    source = Source()
    shared = {f"s{number}": bytes([number]) * 20_000 for number in range(6)}
    manifests = [
        source.dataset(f"set{number}", {f"own{part}": bytes([part, number]) * 10_000 for part in range(4)})
        for number in range(6)
    ]
    manifests += [source.dataset("rev", shared | {"v": b"%d" % revision * 2000}) for revision in range(4)]
    manifests += [source.dataset("rev/sub", {"x": b"x" * 100})]
    rotten = source.dataset("rotten", {"r": b"rotten" * 50, "fine": b"fine"})
    engine = DictEngine(source, sync=False)
    store = NodeStore.open(settings(fast_root, capacity_bytes=CAPACITY))
    model = Model()
    actors = [Actor(number, store, source, engine, manifests, rotten, model) for number in range(ACTORS)]
    for actor in actors:
        actor.start()
    for actor in actors:
        actor.join(240)
        assert not actor.is_alive(), f"{actor.name} hangs"
    for actor in actors:
        if actor.error is not None:
            raise actor.error
    print(dict(model.deeds))
    assert model.deeds["operations"] == OPERATIONS // ACTORS * ACTORS
    assert all(
        model.deeds[deed] for deed in ("hits", "downloaded", "evicted", "in use", "refused", "given up", "rotted")
    )
    assert not +model.promised
    assert not store.pins()
    free_space(store, rotten.total_bytes)
    store.download(rotten, engine)  # mended, so that sizes are what the index says
    account(store)
    for manifest in [*manifests, rotten]:
        free_space(store, manifest.total_bytes)
        store.download(manifest, engine)
        assert read_all(store, manifest) == {obj.path: source.bytes_of(obj) for obj in manifest.objects}
    store.close()
    again = NodeStore.open(settings(fast_root, capacity_bytes=CAPACITY))
    account(again)
    for manifest in [*manifests, rotten]:
        again.evict(manifest.digest)
    free_space(again, CAPACITY)
    assert again.usage().object_bytes == 0
    assert not list(fast_root.glob("objects/??/*"))
    again.close()
