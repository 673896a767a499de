"""`NodeStore`: what the activities and the CLI do to a node's cache. Disk is truth; the index only remembers use and pins.

The invariants, in the order in which they matter:
1. A snapshot that can be seen is whole: it is published by one rename, after every byte was verified and synced.
2. What is pinned is not evicted, and a pin is taken before the disk is looked at.
3. Room is reserved before the first byte is fetched; when it cannot be, the error holds the arithmetic.
4. Two attempts never write one file: each object being fetched is locked (flock), within a process and between processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from kube_cache.errors import Cancelled, InsufficientDisk, NodeUnsuitable, SnapshotInUse, StoreConflict
from kube_cache.settings import StoreSettings
from kube_cache.storage.engine.files import disk_fault
from kube_cache.storage.store import snapshots
from kube_cache.storage.store.index import Index, Pin
from kube_cache.storage.store.layout import Layout, object_id
from kube_cache.storage.store.snapshots import ObjectRecord, SnapshotRecord, SnapshotState
from kube_cache.storage.transfer import FetchedObject, FetchJob, FetchProgress, Manifest, TransferEngine, Verified
from kube_cache.text import format_bytes

_log = structlog.get_logger("kube_cache.store")
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Room:
    capacity_bytes: int
    free_bytes: int
    """What may be used: free on the file system, less what is kept free, less what is reserved."""
    reserved_bytes: int


@dataclass(frozen=True, slots=True)
class WarmResult:
    fetched_bytes: int
    resumed_bytes: int
    verified: Verified


class NodeStore:
    """Thread-safe. Every method raises DiskFault where the disk does."""

    def __init__(self, settings: StoreSettings, layout: Layout, index: Index, cache_id: str) -> None:
        self._settings = settings
        self._layout = layout
        self._index = index
        self.cache_id = cache_id
        self._lock = threading.RLock()
        self._reserved: dict[str, int] = {}
        self._records: dict[str, SnapshotRecord] = {}

    @classmethod
    def open(cls, settings: StoreSettings) -> NodeStore:
        """Create or open the root, and tidy what a crash left. Raises NodeUnsuitable, DiskFault."""
        layout = Layout(settings.root)
        try:
            layout.root.mkdir(parents=True, exist_ok=True)
            if not settings.allow_root_disk and layout.root.stat().st_dev == Path("/").stat().st_dev:
                raise NodeUnsuitable(
                    f"{layout.root} is on the machine's root disk, where a full cache would take the node down; "
                    "mount an NVMe there, or set KUBE_CACHE_STORE__ALLOW_ROOT_DISK=true"
                )
            for folder in (layout.objects, layout.incoming, layout.snapshots, layout.datasets):
                folder.mkdir(exist_ok=True)
            if not layout.cache_id.exists():
                snapshots.write_durably(layout.cache_id, uuid.uuid4().hex[:16].encode())
            store = cls(settings, layout, Index(layout.index), layout.cache_id.read_text().strip())
            store._tidy()
        except OSError as error:
            raise disk_fault(error, layout.root) from error
        return store

    def _tidy(self) -> None:
        for aside in self._layout.snapshots.glob(".building-*"):
            snapshots.remove_tree(aside)
        known = set(self._index.by_last_use())
        found = {path.name for path in self._layout.snapshots.iterdir()}
        for digest in found - known:
            self._index.touch(digest)
        for digest in known - found:
            self._index.forget(digest)
        for journal in self._layout.incoming.glob("*.journal"):
            if not journal.with_suffix(".part").exists():
                journal.unlink(missing_ok=True)
        self._drop_orphans()

    # Looking.

    def check(self, digest: str) -> SnapshotState:
        """What is there of a snapshot, by `stat` alone."""
        record = self._record(digest)
        if record is None:
            return SnapshotState(complete=False, present_bytes=0)
        try:
            state = snapshots.look(self._layout, record)
        except OSError:
            self._records.pop(digest, None)
            return SnapshotState(complete=False, present_bytes=0)
        if state.complete:
            self._index.touch(digest)
        else:
            _log.warning("snapshot is damaged", digest=digest, problems=state.problems[:5], count=len(state.problems))
            self._withdraw(record, state)
        return state

    def check_full(self, digest: str, *, beat: Callable[[], object] = lambda: None) -> SnapshotState:
        """As `check`, and every byte is read against its checksum; what fails is withdrawn."""
        state = self.check(digest)
        record = self._record(digest)
        if not state.complete or record is None:
            return state
        bad = snapshots.read_through(self._layout, record, beat)
        if not bad:
            return state
        problems = [f"{one.path} does not have its checksum" for one in bad]
        _log.error("snapshot holds wrong bytes", digest=digest, problems=problems[:5])
        damaged = SnapshotState(
            complete=False, present_bytes=record.bytes - sum(one.size for one in bad), problems=problems
        )
        self._withdraw(record, damaged, {one.object for one in bad})
        return damaged

    def _withdraw(self, record: SnapshotRecord, state: SnapshotState, bad: set[str] | None = None) -> None:
        """A damaged snapshot must not be seen as whole; its good objects stay and are linked again."""
        with self._mutation():
            self._records.pop(record.digest, None)
            if bad is None:
                damaged = {problem.split(" ", 1)[0] for problem in state.problems}
                bad = {one.object for one in record.files if one.path in damaged}
            for name in bad:
                self._layout.object(name).unlink(missing_ok=True)
                self._layout.object(name).with_suffix(".json").unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                self._layout.manifest(record.digest).unlink()

    def _record(self, digest: str) -> SnapshotRecord | None:
        record = self._records.get(digest)
        if record is None:
            record = snapshots.read(self._layout, digest)
            if record is not None:
                self._records[digest] = record
        return record

    def snapshots(self) -> list[SnapshotRecord]:
        """All that can be seen, least recently used first."""
        order = {digest: place for place, digest in enumerate(self._index.by_last_use())}
        names = [path.name for path in self._layout.snapshots.iterdir() if not path.name.startswith(".")]
        found = [self._record(name) for name in sorted(names, key=lambda name: order.get(name, -1))]
        return [record for record in found if record is not None]

    # Pins.

    def pin(self, digest: str, owner: str, *, until: float | None = None) -> None:
        """Keep it, whether it is there yet or not; pinning twice is pinning once."""
        self._index.pin(digest, owner, until)

    def unpin(self, digest: str, owner: str) -> None:
        self._index.unpin(digest, owner)

    def pins(self) -> list[Pin]:
        return self._index.pins()

    # Room.

    def room(self) -> Room:
        stat = os.statvfs(self._layout.root)
        capacity = stat.f_blocks * stat.f_frsize
        with self._lock:
            reserved = sum(self._reserved.values())
        kept = int(capacity * self._settings.min_free)
        return Room(capacity, stat.f_bavail * stat.f_frsize - kept - reserved, reserved)

    @contextlib.contextmanager
    def _reservation(self, digest: str, needed: int) -> Iterator[None]:
        with self._mutation():
            self._make_room(digest, needed)
            with self._lock:
                self._reserved[digest] = self._reserved.get(digest, 0) + needed
        try:
            yield
        finally:
            with self._lock:
                self._reserved.pop(digest, None)

    def _make_room(self, digest: str, needed: int) -> None:
        pinned = {pin.digest for pin in self.pins()}
        for record in self.snapshots():
            if self.room().free_bytes >= needed:
                return
            if record.digest not in pinned and record.digest != digest:
                self._remove(record)
        room = self.room()
        if room.free_bytes >= needed:
            return
        held = [record for record in self.snapshots() if record.digest in pinned]
        owners = sorted({pin.owner for pin in self.pins() if pin.digest in {record.digest for record in held}})
        kept = int(room.capacity_bytes * self._settings.min_free)
        raise InsufficientDisk(
            f"needs {format_bytes(needed)}, but {format_bytes(max(0, room.free_bytes))} can be used of {format_bytes(room.capacity_bytes)}: "
            f"{format_bytes(kept)} are kept free, {format_bytes(room.reserved_bytes)} are reserved by other downloads, "
            f"{format_bytes(sum(record.bytes for record in held))} are pinned by {', '.join(owners[:5]) or 'nobody'}; "
            "end what uses them, or use a larger disk",
            needed=needed,
            free=room.free_bytes,
        )

    def evict(self, digest: str) -> int:
        """Bytes freed; 0 when it is not there. Raises SnapshotInUse."""
        with self._mutation():
            owners = [pin.owner for pin in self.pins() if pin.digest == digest]
            if owners:
                raise SnapshotInUse(
                    f"snapshot {digest[:12]} is pinned by {', '.join(owners[:5])}; it can be evicted when they have ended"
                )
            record = self._record(digest)
            if record is None:
                return 0
            before = self.room().free_bytes
            self._remove(record)
            return max(0, self.room().free_bytes - before)

    def _remove(self, record: SnapshotRecord) -> None:
        self._records.pop(record.digest, None)
        snapshots.remove(self._layout, record)
        self._index.forget(record.digest)
        for one in record.files:
            self._drop_object(one.object)
        _log.info("evicted", digest=record.digest, uri=record.uri, bytes=record.bytes)

    def _drop_object(self, name: str) -> None:
        path = self._layout.object(name)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_nlink == 1:
                path.unlink()
                path.with_suffix(".json").unlink(missing_ok=True)

    def _drop_orphans(self) -> None:
        """Objects that no snapshot links: a publish that never came, or an eviction that was cut short."""
        for path in self._layout.objects.glob("*/*"):
            if path.suffix == ".json" and not path.with_suffix("").exists():
                path.unlink(missing_ok=True)

    # Warming.

    def warm(
        self,
        manifest: Manifest,
        engine: TransferEngine,
        *,
        progress: Callable[[FetchProgress], None] = lambda _: None,
        cancelled: Callable[[], bool] = lambda: False,
        priority: int = 0,
    ) -> WarmResult:
        """Bring the snapshot to the disk, verified, and publish it; what is there already is not fetched.

        Raises what `TransferEngine.fetch` raises, InsufficientDisk, Cancelled.
        """
        try:
            return self._warm(manifest, engine, progress, cancelled, priority)
        except OSError as error:
            raise disk_fault(error, self._layout.root) from error

    def _warm(
        self,
        manifest: Manifest,
        engine: TransferEngine,
        progress: Callable[[FetchProgress], None],
        cancelled: Callable[[], bool],
        priority: int,
    ) -> WarmResult:
        objects = {object_id(obj): obj for obj in manifest.objects}
        fetched = resumed = 0
        with self._holding(sorted(objects), cancelled):
            records = {name: known for name in objects if (known := self._object(name)) is not None}
            missing = {name: obj for name, obj in objects.items() if name not in records}
            present = sum(objects[name].size for name in records)
            allocated = sum(_allocated(self._layout.part(name)) for name in missing)
            needed = max(0, sum(obj.size for obj in missing.values()) - allocated)
            jobs = {
                name: FetchJob(obj, self._layout.part(name), self._layout.journal(name))
                for name, obj in missing.items()
            }
            by_job = {job.part_path: name for name, job in jobs.items()}

            def land(done: FetchedObject) -> None:
                nonlocal fetched, resumed
                name = by_job[done.job.part_path]
                record = self._land(name, done)
                with self._lock:
                    records[name] = record
                    fetched += done.fetched_bytes
                    resumed += done.resumed_bytes

            def tell(of_missing: FetchProgress) -> None:
                progress(FetchProgress(present + of_missing.done_bytes, manifest.total_bytes, of_missing.bytes_per_s))

            if missing:
                with self._reservation(manifest.digest, needed):
                    engine.fetch(jobs.values(), on_object=land, progress=tell, cancelled=cancelled, priority=priority)
            if cancelled():
                raise Cancelled("cancelled before it was published; what was verified is kept")
            record = self._publish(manifest, records)
        return WarmResult(fetched, resumed, record.verified)

    def _publish(self, manifest: Manifest, records: dict[str, ObjectRecord]) -> SnapshotRecord:
        with self._mutation():
            found = self._record(manifest.digest)
            if found is None or not snapshots.look(self._layout, found).complete:
                found = snapshots.build(self._layout, manifest, records)
                self._records[manifest.digest] = found
            snapshots.point(self._layout, manifest.uri, manifest.digest)
            self._index.touch(manifest.digest)
            return found

    def _land(self, name: str, done: FetchedObject) -> ObjectRecord:
        """From incoming/ to objects/: the record first, so that an object never lies there without its checksum."""
        target = self._layout.object(name)
        target.parent.mkdir(exist_ok=True)
        record = ObjectRecord(done.crc64nvme, str(done.verified))
        snapshots.write_durably(target.with_suffix(".json"), json.dumps([record.crc64nvme, record.verified]).encode())
        done.job.part_path.chmod(0o444)
        done.job.part_path.replace(target)
        snapshots.sync_folder(target.parent)
        done.job.journal_path.unlink(missing_ok=True)
        return record

    def _object(self, name: str) -> ObjectRecord | None:
        path = self._layout.object(name)
        try:
            if not path.exists():
                return None
            crc, verified = json.loads(path.with_suffix(".json").read_bytes())
            return ObjectRecord(int(crc), str(verified))
        except (OSError, ValueError):
            return None

    # Locks.

    @contextlib.contextmanager
    def _holding(self, names: list[str], cancelled: Callable[[], bool]) -> Iterator[None]:
        """One lock per object, in order of name so that two warms never wait for each other."""
        with contextlib.ExitStack() as stack:
            for name in names:
                fd = os.open(self._layout.object_lock(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                stack.callback(os.close, fd)
                while True:
                    try:
                        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        if cancelled():
                            raise Cancelled("cancelled while another download of the same object ran") from None
                        time.sleep(_POLL_S)
            yield
            for name in names:
                self._layout.object_lock(name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _mutation(self) -> Iterator[None]:
        """Nobody else builds or removes snapshots inside: neither a thread nor the CLI."""
        with self._lock:
            fd = os.open(self._layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                deadline = time.monotonic() + 60
                while True:
                    try:
                        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        if time.monotonic() > deadline:
                            raise StoreConflict(f"another process has held {self._layout.lock} for 60 s") from None
                        time.sleep(0.01)
                yield
            finally:
                os.close(fd)

    def close(self) -> None:
        self._index.close()


def _allocated(path: Path) -> int:
    """Bytes that a part file already takes on the disk; it is sparse until it is filled."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0
