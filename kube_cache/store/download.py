"""One download of one snapshot: what is missing, room for it, the engine, and the publishing of what came.

An attempt fetches only objects that it has claimed, so two never write one file; what another one fetches it waits for.
It publishes only while it is the process that fetches and was not cancelled: a zombie's work is kept, never shown.
"""

from __future__ import annotations

import os
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import structlog

from kube_cache.dataset.transfer import (
    FetchedObject,
    FetchJob,
    FetchProgress,
    Manifest,
    RemoteObject,
    TransferEngine,
    Verified,
)
from kube_cache.errors import Cancelled, DiskFault, InsufficientDisk
from kube_cache.store import check as looking
from kube_cache.store import eviction as removal
from kube_cache.store import manifests
from kube_cache.store import publish as snapshots
from kube_cache.store.capacity import make_room, reservation, room
from kube_cache.store.context import Core, make_folders
from kube_cache.store.damage import read_damaged
from kube_cache.store.index import ObjectRow, Warm
from kube_cache.store.layout import object_id
from kube_cache.store.manifests import Header
from kube_cache.store.read_back import crc_of
from kube_cache.store.recovery import recover_object
from kube_cache.units import format_bytes

_log = structlog.get_logger("kube_cache.store")
_BATCH = 256
_BATCH_S = 0.5
_WAIT_S = 0.2
_READ_ONLY = 0o444
_TELL_S = 1.0
# Times that objects may vanish between the look and the link before it is called a fault.
_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class WarmResult:
    fetched_bytes: int
    resumed_bytes: int
    verified: Verified
    seconds: float = 0.0


class Warming:
    """One attempt; used once."""

    def __init__(
        self,
        core: Core,
        manifest: Manifest,
        engine: TransferEngine,
        progress: Callable[[FetchProgress], None],
        cancelled: Callable[[], bool],
        priority: int,
    ) -> None:
        self._core = core
        self._manifest = manifest
        self._engine = engine
        self._progress = progress
        self._asked = cancelled
        self._priority = priority
        self._token = uuid.uuid4().hex
        self._squeezed = threading.Event()
        self._ids = [object_id(obj) for obj in manifest.objects]
        self._landed: list[ObjectRow] = []
        self._landed_at = time.monotonic()
        self._lock = threading.Lock()
        self._done = 0
        self.fetched = 0
        self.resumed = 0

    def run(self) -> Header:
        with self._core.writing(self._cancelled), self._core.claims.needing(self._ids), self._registered():
            pending = dict(zip(self._ids, self._manifest.objects, strict=True))
            make_folders(self._core.layout, self._core.disk)  # one may have been removed by hand
            self._adopt()
            for _ in range(_ROUNDS):
                self._bring(pending)
                try:
                    return self._publish()
                except snapshots.ObjectsMissing as error:
                    _log.warning("an object went away before it was linked; it is brought again", object=str(error))
                    pending = dict(zip(self._ids, self._manifest.objects, strict=True))
            raise DiskFault(
                f"{self._core.layout.root}: objects keep vanishing while they are linked; who else writes there?"
            )

    @contextmanager
    def _registered(self) -> Iterator[None]:
        """Known as a download from the first look to the publishing, so that nobody evicts what it counts on."""
        warm = Warm(self._token, self._manifest.digest, str(self._manifest.uri), 0, os.getpid())
        with self._core.mutation():
            self._core.index.set_warm(warm)
        try:
            yield
        finally:
            self._core.index.end_warm(self._token)

    def _cancelled(self) -> bool:
        return self._squeezed.is_set() or self._asked()

    def _stop_if_cancelled(self) -> None:
        if self._asked():
            raise Cancelled("cancelled before it was published; what was verified is kept")

    # What is there.

    def _adopt(self) -> None:
        """Objects that only the snapshot itself still links are linked back, so that they need not be fetched."""
        digest = self._manifest.digest
        data = self._core.layout.files(digest)
        bad = {line.rpartition(" | ")[0] for line in read_damaged(self._core, digest)}
        with suppress(FileNotFoundError, manifests.TornManifest):
            for chunk in manifests.read_chunks(self._core.layout.manifest(digest)):
                rows: list[ObjectRow] = []
                for place, name in enumerate(chunk.ids):
                    target = self._core.layout.object(name)
                    if target.exists() or chunk.paths[place] in bad:
                        continue
                    path = data / chunk.paths[place]
                    with suppress(FileNotFoundError, NotADirectoryError):
                        now = os.stat(path, follow_symlinks=False)
                        if (now.st_ino, now.st_size, now.st_mtime_ns) != (
                            chunk.inodes[place],
                            chunk.sizes[place],
                            chunk.mtimes[place],
                        ):
                            continue
                        self._core.disk.link(path, target)
                        # Trusted as far as before: an inode time that was not ours sends it to be read again.
                        same = now.st_ctime_ns == chunk.ctimes[place]
                        ctime = os.stat(target).st_ctime_ns if same else -1
                        rows.append(
                            ObjectRow(
                                name,
                                now.st_size,
                                chunk.crcs[place],
                                chunk.verified[place],
                                now.st_ino,
                                now.st_mtime_ns,
                                ctime,
                                time.time(),
                            )
                        )
                self._core.index.put_objects(rows)

    def _present(self, names: Sequence[str]) -> set[str]:
        """Those whose bytes are there. What does not match what is known of it is removed; what may not, is read."""
        core = self._core
        found: set[str] = set()
        rows = core.index.objects(names)
        for name in names:
            path = str(core.layout.object(name))
            row = rows.get(name)
            try:
                now = os.stat(path, follow_symlinks=False)
            except FileNotFoundError:
                if row is not None:
                    core.index.drop_objects([name])
                continue
            if row is None and core.disk.links(now) == 1 and recover_object(core, name):
                continue  # it came, and the index could not be told of it: its journal says what of it is good
            if row is None or (now.st_ino, now.st_size, now.st_mtime_ns) != (row.inode, row.size, row.mtime):
                _log.warning("an object is not what it was and is fetched anew", object=name)
            elif now.st_ctime_ns == row.ctime or not core.disk.trusts_ctime or self._same_after_all(name, path):
                found.add(name)
                continue
            elif (ctime := self._sound(path, now, row.crc64nvme)) is not None:
                core.index.set_ctimes([(name, ctime)])
                found.add(name)
                continue
            else:
                _log.error("an object holds wrong bytes and is fetched anew", object=name)
            core.disk.unlink_if_there(path)
            core.index.drop_objects([name])
        return found

    def _sound(self, path: str, now: os.stat_result, crc: int) -> int | None:
        """The inode time of an object whose bytes, read from the disk, are right; its mode is made right."""
        if stat.S_IMODE(now.st_mode) != _READ_ONLY:
            self._core.disk.set_mode(path, _READ_ONLY)
            now = os.stat(path, follow_symlinks=False)
        return now.st_ctime_ns if crc_of(path, lambda _: self._stop_if_cancelled()) == crc else None

    def _same_after_all(self, name: str, path: str) -> bool:
        """Whether the inode time changed because somebody just published or removed a snapshot that shares the object."""
        with self._core.mutation():
            row = self._core.index.objects([name]).get(name)
            try:
                return row is not None and os.stat(path, follow_symlinks=False).st_ctime_ns == row.ctime
            except FileNotFoundError:
                return False

    # What is missing.

    def _bring(self, pending: dict[str, RemoteObject]) -> None:
        """Until all are there: what is free is claimed and fetched, what others fetch is waited for."""
        self._done = 0
        while pending:
            self._stop_if_cancelled()
            ours, theirs = self._core.claims.take(pending, self._token)
            try:
                here: set[str] = set()
                for first in range(0, len(ours), _BATCH):
                    here |= self._present(ours[first : first + _BATCH])
                    self._stop_if_cancelled()
                for name in here:
                    self._done += pending.pop(name).size
                self._core.claims.give_back(here, self._token)
                missing = {name: pending[name] for name in ours if name not in here}
                if missing:
                    self._fetch(missing)
                    for name, obj in missing.items():
                        self._done += obj.size
                        del pending[name]
            finally:
                try:
                    self._flush()
                finally:  # also where the index cannot be written: whoever comes next must not wait for us
                    self._core.claims.give_back(ours, self._token)
            if theirs:
                self._progress(FetchProgress(self._done, self._manifest.total_bytes, 0.0))
                if not ours:
                    self._core.claims.wait(_WAIT_S)

    def _fetch(self, missing: dict[str, RemoteObject]) -> None:
        core = self._core
        jobs = {name: FetchJob(obj, core.layout.part(name), core.layout.journal(name)) for name, obj in missing.items()}
        by_part = {job.part_path: name for name, job in jobs.items()}
        needed = sum(max(0, obj.size - _allocated(jobs[name].part_path)) for name, obj in missing.items())
        inodes = 2 * len(missing)  # a part and a journal; links take none, folders few
        already = self._done
        told = 0.0
        arrived = 0

        def land(done: FetchedObject) -> None:
            self._land(by_part[done.job.part_path], done)

        def tell(now: FetchProgress) -> None:
            nonlocal told, arrived
            self._progress(FetchProgress(already + now.done_bytes, self._manifest.total_bytes, now.bytes_per_s))
            if time.monotonic() - told < _TELL_S:
                return
            told, arrived = time.monotonic(), max(arrived, now.done_bytes)
            yet_to_allocate = now.total_bytes - arrived - now.preallocated_bytes
            core.index.set_reserved(self._token, max(0, min(needed, yet_to_allocate)))
            self._mind_others()

        what = f"{self._manifest.uri} ({format_bytes(self._manifest.total_bytes)}) "
        with reservation(core, self._token, needed, inodes, what):
            try:
                self._engine.fetch(
                    jobs.values(), on_object=land, progress=tell, cancelled=self._cancelled, priority=self._priority
                )
            except Cancelled:
                if self._squeezed.is_set() and not self._asked():
                    raise DiskFault(
                        f"{core.layout.root}: something else on this disk takes the room that was reserved for"
                        f" {self._manifest.uri}; the download stopped before the kubelet would evict Pods, and goes on"
                        " when there is room"
                    ) from None
                raise
        self._stop_if_cancelled()

    def _mind_others(self) -> None:
        """Others may eat what was reserved: make room again, and stop short of what makes the kubelet evict Pods."""
        now = room(self._core)
        if now.free_bytes >= 0 or now.disk_free_bytes >= now.kept_bytes:
            return
        try:
            with self._core.mutation():
                make_room(self._core, 0)
        except InsufficientDisk:
            # Between what is kept free (0.20) and where the kubelet acts (0.15): a fifth of the former.
            if now.disk_free_bytes < now.kept_bytes * 4 // 5:
                self._squeezed.set()

    def _land(self, name: str, done: FetchedObject) -> None:
        """From incoming/ to objects/. The journal stays until the snapshot is durable: what is lost, it brings back."""
        core = self._core
        if not core.claims.holds(name, self._token):
            raise Cancelled("another attempt has taken this object over")
        part = str(done.job.part_path)
        target = str(core.layout.object(name))
        core.disk.set_mode(part, _READ_ONLY)
        core.disk.rename(part, target)
        now = os.stat(target)
        row = ObjectRow(
            name,
            now.st_size,
            done.crc64nvme,
            str(done.verified),
            now.st_ino,
            now.st_mtime_ns,
            now.st_ctime_ns,
            time.time(),
        )
        with self._lock:
            self._landed.append(row)
            self.fetched += done.fetched_bytes
            self.resumed += done.resumed_bytes
            due = len(self._landed) >= _BATCH or time.monotonic() - self._landed_at > _BATCH_S
        if due:
            self._flush()

    def _flush(self) -> None:
        """Tell the index of what landed, and let those go on who wait for it."""
        with self._lock:
            rows, self._landed = self._landed, []
            self._landed_at = time.monotonic()
        if rows:
            self._core.index.put_objects(rows)
            self._core.claims.give_back([row.id for row in rows], self._token)

    # Publishing.

    def _publish(self) -> Header:
        core, digest = self._core, self._manifest.digest
        self._stop_if_cancelled()
        with core.mutation():
            state = looking.look(core.layout, core.disk, digest, core.index)
            header = manifests.read_header(core.layout.manifest(digest)) if state.complete else None
            linked: list[tuple[str, int]] = []
            if header is None:
                core.watch.disarm(digest)
                header, linked = self._build()
            snapshots.point(core.layout, core.disk, self._manifest.uri, digest)
            # Published and durable: their journals are of no more use.
            for name in core.index.publish(digest, self._ids, linked):
                core.disk.unlink_if_there(core.layout.journal(name))
        return header

    def _build(self) -> tuple[Header, list[tuple[str, int]]]:
        core, digest = self._core, self._manifest.digest
        index = core.index
        if not core.layout.snapshot(digest).exists():
            index.forget(digest)  # were it removed by hand: a start-up learns from those whose use is not noted
        publisher = snapshots.Publisher(
            core.layout, core.disk, index.objects, index.begin_linking, index.end_linking, self._stop_if_cancelled
        )
        try:
            return publisher.publish(self._manifest, self._ids), publisher.linked
        except BaseException:
            with suppress(OSError):
                removal.abandon(core, digest, self._ids)
            raise


def _allocated(path: os.PathLike[str]) -> int:
    """Bytes that a part file already takes on the disk; it is sparse until it is filled."""
    try:
        return os.stat(path).st_blocks * 512
    except FileNotFoundError:
        return 0
