"""16 actors, thousands of random operations, one store, a model: what is pinned and was found whole stays whole.

`KUBE_CACHE_FUZZ_OPERATIONS` sets their number (3,000; 10,000 in `make test-long`), `KUBE_CACHE_SEED` chooses others.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kube_cache.dataset.remote import Manifest
from kube_cache.errors import Cancelled, InsufficientDisk, SnapshotInUse
from kube_cache.store.node_store import NodeStore
from tests.store.fakes import DictEngine, Source, free_space, read_all, reserved_bytes, settings
from tests.store.test_crash import SEED, account

ACTORS = 16
OPERATIONS = int(os.environ.get("KUBE_CACHE_FUZZ_OPERATIONS", "3000"))
CAPACITY = 400_000
# Truncations that one download may meet. Each can cost it a round, and a download that runs out of rounds gives up.
MAX_ROTS = 5


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
        self.clock = 0
        self.rots_met: dict[str, int] = {}
        """Name of an actor that downloads the rotten dataset -> truncations since it began."""

    def count(self, deed: str) -> None:
        with self.lock:
            self.deeds[deed] += 1

    def now(self) -> int:
        """A time of a resolve, greater than any before."""
        with self.lock:
            self.clock += 1
            return self.clock

    def promise(self, digest: str, change: int) -> None:
        with self.lock:
            self.promised[digest] += change

    @contextmanager
    def meeting_rot(self, actor: str) -> Iterator[None]:
        """Within the context the actor downloads the rotten dataset, whose file is truncated at most MAX_ROTS times."""
        with self.lock:
            self.rots_met[actor] = 0
        try:
            yield
        finally:
            with self.lock:
                del self.rots_met[actor]

    def rot(self, path: Path) -> None:
        """Truncate the file, unless a download that is under way has met enough of it. Raises FileNotFoundError."""
        with self.lock:
            if max(self.rots_met.values(), default=0) >= MAX_ROTS:
                return
            os.truncate(path, 1)
            self.deeds["rotted in mid-download" if self.rots_met else "rotted"] += 1
            for actor in self.rots_met:
                self.rots_met[actor] += 1


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
            self.store.reconcile({pod: [manifest.digest] for manifest, pod in self.held})
        elif deed < 0.97:
            self.make_room()
        else:
            reserved_bytes(self.store)
        self.model.count("operations")

    def use(self, count: int) -> None:
        """What a release does: pin, check, warm on a miss."""
        manifest = self.chance.choice(self.manifests)
        pod = f"{self.number:08x}-0000-4000-8000-{count:012x}"
        self.store.link_pod(pod, 1, [manifest.digest])
        if not self.store.check_for_pod(pod, 0, manifest.digest, manifest.uri, resolved_at=self.model.now()).complete:
            try:
                self.store.download(manifest, self.engine, resolved_at=self.model.now())
                self.model.count("downloaded")
            except InsufficientDisk as error:
                assert "needs" in error.message
                self.model.count("refused")
                self.store.unlink_pod(pod, manifest.digest, 1)
                return
        else:
            self.model.count("hits")
        self.model.promise(manifest.digest, 1)
        self.held.append((manifest, pod))
        self.look_at_what_is_held()

    def look_at_what_is_held(self) -> None:
        manifest, pod = self.chance.choice(self.held)
        mounted = self.store.root / "snapshots" / "pods" / pod / "0"
        assert mounted.resolve().parent.name == manifest.digest
        assert self.store.check(manifest.digest).complete, "what is pinned and was whole is whole"
        assert read_all(self.store, manifest) == {obj.path: self.source.bytes_of(obj) for obj in manifest.objects}

    def let_go(self) -> None:
        manifest, pod = self.held.pop(self.chance.randrange(len(self.held)))
        self.model.promise(manifest.digest, -1)
        assert self.store.unlink_pod(pod, manifest.digest, 1)

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
        """Somebody truncates a file of a dataset that nobody else uses: it must be noticed, and mended.

        Also while others mend it, but not without end: of such a disk the store rightly says that others write there.
        """
        try:
            with self.model.meeting_rot(self.name):
                self.store.download(self.rotten, self.engine)
        except InsufficientDisk:
            return
        with suppress(FileNotFoundError):  # evicted meanwhile
            self.model.rot(self.store.root / "snapshots" / self.rotten.digest / "data" / "r")

    def make_room(self) -> None:
        try:
            free_space(self.store, self.chance.randrange(CAPACITY))
        except InsufficientDisk:
            self.model.count("no room")


@pytest.mark.slow
@pytest.mark.timeout(600)
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
        actor.join(540)
        assert not actor.is_alive(), f"{actor.name} hangs"
    for actor in actors:
        if actor.error is not None:
            raise actor.error
    print(dict(model.deeds))
    assert model.deeds["operations"] == OPERATIONS // ACTORS * ACTORS
    expected = ("hits", "downloaded", "evicted", "in use", "refused", "given up", "rotted", "rotted in mid-download")
    assert [deed for deed in expected if not model.deeds[deed]] == []
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
