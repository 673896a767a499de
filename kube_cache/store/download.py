"""One download of one snapshot: finds the missing objects, reserves space, has them fetched, publishes the snapshot.

A download fetches only objects that it has claimed, so that two never write one file; it waits for objects that others
fetch. It publishes only while it holds the writer's lock and was not cancelled: the work of a zombie is kept but never
shown. Does not talk to the origin: the engine does.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from kube_cache.dataset.exchange import Exchange
from kube_cache.dataset.remote import Manifest, RemoteObject
from kube_cache.dataset.transfer import FetchedObject, FetchJob, FetchProgress, TransferEngine, Verified
from kube_cache.errors import Cancelled, DiskFault, InsufficientDisk
from kube_cache.store import check, current, manifests, publish, removal
from kube_cache.store.capacity import measure
from kube_cache.store.context import StoreContext, make_folders
from kube_cache.store.eviction import free_space, reservation
from kube_cache.store.index_rows import ActiveDownload, ObjectCtime, ObjectRow
from kube_cache.store.layout import object_id
from kube_cache.store.manifests import Header
from kube_cache.store.present import READ_ONLY, present_objects, relink
from kube_cache.telemetry import prefetch_metrics, store_metrics
from kube_cache.telemetry.stages import Stage
from kube_cache.telemetry.steps import timed
from kube_cache.units import format_bytes

_log = structlog.get_logger("kube_cache.store")
_BATCH = 256  # objects that are looked up, or recorded as landed, at once
_MAX_UNRECORDED_S = 0.5  # an object that landed is recorded at the latest with the next one after this time
_WAIT_S = 0.2
_REPORT_S = 1.0
# Times that objects may go away between their check and their link before that is called a fault.
_MAX_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class DownloadResult:
    fetched_bytes: int
    resumed_bytes: int
    verified: Verified
    """The weakest verification among the files."""
    seconds: float = 0.0
    neighbour_bytes: Mapping[str, int] = field(default_factory=dict)
    """Of `fetched_bytes`, by the name of the node that they came from."""
    origin_bytes: int = 0
    """Of the objects that landed: what came from the origin. `fetched_bytes` also has what was fetched in vain."""

    @property
    def from_neighbours(self) -> int:
        """Bytes that came from all other nodes."""
        return sum(self.neighbour_bytes.values())


class Download:
    """One attempt to bring a snapshot to the disk; used once.

    cancelled: asked often, also from the engine's threads. priority: of the engine. resolved_at: of the snapshot, in
    seconds since the epoch. exchange: with other nodes; None = everything comes from the origin. spare: for a prefetch;
    see `eviction.free_space`. max_bytes_per_s: of this download alone; 0 = no limit.
    """

    def __init__(
        self,
        context: StoreContext,
        manifest: Manifest,
        engine: TransferEngine,
        progress: Callable[[FetchProgress], None],
        cancelled: Callable[[], bool],
        priority: int,
        resolved_at: float,
        exchange: Exchange | None = None,
        *,
        spare: bool = False,
        max_bytes_per_s: int = 0,
    ) -> None:
        self._context = context
        self._manifest = manifest
        self._engine = engine
        self._progress = progress
        self._cancel_requested = cancelled
        self._priority = priority
        self._resolved_at = resolved_at
        self._exchange = exchange
        self._spare = spare
        self._max_bytes_per_s = max_bytes_per_s
        self._token = uuid.uuid4().hex
        self._disk_pressure = threading.Event()
        """Set when others have taken the space that was reserved."""
        self._ids = [object_id(obj) for obj in manifest.objects]
        self._landed: list[ObjectRow] = []
        """Objects that landed and are not in the index yet."""
        self._recorded_at = time.monotonic()
        self._lock = threading.Lock()
        """Guards `_landed`, `_recorded_at`, and the bytes by their source."""
        self._done_bytes = 0
        self.fetched_bytes = 0
        self.resumed_bytes = 0
        self.origin_bytes = 0
        self.neighbour_bytes: dict[str, int] = {}
        """By the neighbour's name."""

    def run(self) -> Header:
        """Bring what is missing and publish. Raises what `TransferEngine.fetch` raises, InsufficientDisk, Cancelled."""
        context = self._context
        with context.writer_lock(self._cancelled), context.claims.protecting(self._ids), self._registered():
            make_folders(context.layout, context.disk)  # a person may have removed one
            relink(context, self._manifest.digest)
            for _ in range(_MAX_ROUNDS):
                self._fetch_missing(dict(zip(self._ids, self._manifest.objects, strict=True)))
                try:
                    with timed(Stage.PUBLISH):
                        return self._publish()
                except publish.ObjectsMissing as error:
                    _log.warning("an object went away before it was linked; it is fetched again", object=str(error))
            raise DiskFault(
                f"{context.layout.root}: objects keep vanishing while they are linked; who else writes there?"
            )

    @contextmanager
    def _registered(self) -> Iterator[None]:
        """List the download in the index, so that nobody evicts its snapshot before it is published."""
        download = ActiveDownload(self._token, self._manifest.digest, str(self._manifest.uri), 0, os.getpid())
        with self._context.exclusive():
            self._context.index.add_download(download)
        try:
            yield
        finally:
            self._context.index.end_download(self._token)

    def _cancelled(self) -> bool:
        return self._disk_pressure.is_set() or self._cancel_requested()

    def _raise_if_cancelled(self) -> None:
        if self._cancel_requested():
            raise Cancelled("cancelled before it was published; what was verified is kept")

    # Fetching.

    def _fetch_missing(self, pending: dict[str, RemoteObject]) -> None:
        """Fetch the unclaimed objects and wait for those that others fetch, until all are there. Empties `pending`."""
        context = self._context
        self._done_bytes = 0
        while pending:
            self._raise_if_cancelled()
            ours, theirs = context.claims.take(pending, self._token)
            try:
                present: set[str] = set()
                for first in range(0, len(ours), _BATCH):
                    present |= present_objects(context, ours[first : first + _BATCH], self._raise_if_cancelled)
                    self._raise_if_cancelled()
                found_bytes = sum(pending.pop(id_).size for id_ in present)
                self._done_bytes += found_bytes
                store_metrics.LANDED_BYTES.labels("present").inc(found_bytes)
                context.claims.release(present, self._token)
                self._offer(present)
                missing = {id_: pending[id_] for id_ in ours if id_ not in present}
                if missing:
                    self._fetch(missing)
                    for id_, obj in missing.items():
                        self._done_bytes += obj.size
                        del pending[id_]
            finally:
                try:
                    self._record_landed()
                finally:  # also where the index cannot be written: others must not wait for our claims
                    context.claims.release(ours, self._token)
            if theirs:
                self._progress(FetchProgress(self._done_bytes, self._manifest.total_bytes, 0.0))
                if not ours:
                    context.claims.wait(_WAIT_S)

    def _fetch(self, missing: dict[str, RemoteObject]) -> None:
        """Have the engine fetch the objects, within a reservation that shrinks with what is written."""
        context, layout = self._context, self._context.layout
        jobs = {
            id_: self._job(id_, obj, layout.absolute(layout.part(id_)), layout.absolute(layout.journal(id_)))
            for id_, obj in missing.items()
        }
        id_of_part = {job.part_path: id_ for id_, job in jobs.items()}
        needed = sum(max(0, obj.size - _allocated(context, id_)) for id_, obj in missing.items())
        inodes = 2 * len(missing)  # a part and a journal; links take none, folders few
        done_before = self._done_bytes
        reported_at = 0.0
        max_done = 0

        def on_object(fetched: FetchedObject) -> None:
            self._land(id_of_part[fetched.job.part_path], fetched)

        def on_progress(now: FetchProgress) -> None:
            nonlocal reported_at, max_done
            self._progress(FetchProgress(done_before + now.done_bytes, self._manifest.total_bytes, now.bytes_per_s))
            if time.monotonic() - reported_at < _REPORT_S:
                return
            reported_at, max_done = time.monotonic(), max(max_done, now.done_bytes)
            unallocated = now.total_bytes - max_done - now.preallocated_bytes
            context.index.set_reserved(self._token, max(0, min(needed, unallocated)))
            self._watch_free_space()

        subject = f"{self._manifest.uri} ({format_bytes(self._manifest.total_bytes)}) "
        with reservation(context, self._token, needed, inodes, subject, spare=self._spare):
            try:
                self._engine.fetch(
                    jobs.values(),
                    on_object=on_object,
                    progress=on_progress,
                    cancelled=self._cancelled,
                    priority=self._priority,
                    max_bytes_per_s=self._max_bytes_per_s,
                )
            except Cancelled:
                if self._disk_pressure.is_set() and not self._cancel_requested():
                    raise DiskFault(
                        f"{context.layout.root}: something else on this disk takes the space that was reserved for"
                        f" {self._manifest.uri}; the download stopped before the kubelet would evict Pods, and goes on"
                        " when there is space"
                    ) from None
                raise
        self._raise_if_cancelled()

    def _job(self, id_: str, obj: RemoteObject, part: Path, journal: Path) -> FetchJob:
        plan = self._exchange.plan(id_, part) if self._exchange is not None else None
        return FetchJob(obj, part, journal, plan)

    def _offer(self, ids: Iterable[str]) -> None:
        """Let other nodes have objects that are in their place."""
        if self._exchange is not None:
            for id_ in ids:
                self._exchange.landed(id_, self._context.layout.absolute(self._context.layout.object(id_)))

    def _watch_free_space(self) -> None:
        """Evict when others use the reserved space; stop the download before the kubelet evicts Pods."""
        now = measure(self._context)
        if now.free_bytes >= 0 or now.disk_free_bytes >= now.kept_bytes:
            return
        try:
            with self._context.exclusive():
                free_space(self._context, 0, spare=self._spare)
        except InsufficientDisk:
            # Between what is kept free (0.20) and where the kubelet acts (0.15): a fifth of the former.
            if self._spare or now.disk_free_bytes < now.kept_bytes * 4 // 5:
                self._disk_pressure.set()

    def _land(self, id_: str, fetched: FetchedObject) -> None:
        """Move the object from incoming/ to objects/.

        Its journal stays until the snapshot is durable: with it, an object that a power cut takes back is resumed.
        """
        context = self._context
        if not context.claims.holds(id_, self._token):
            raise Cancelled("another attempt has taken this object over")
        part, target = context.layout.part(id_), context.layout.object(id_)
        context.disk.set_mode(part, READ_ONLY)
        context.disk.rename(part, target)
        now = context.disk.stat(target)
        row = ObjectRow(
            id_,
            now.st_size,
            fetched.crc64nvme,
            str(fetched.verified),
            now.st_ino,
            now.st_mtime_ns,
            now.st_ctime_ns,
            time.time(),
        )
        origin_bytes = _count(fetched)
        if self._spare:
            prefetch_metrics.BYTES.inc(fetched.job.object.size)
        self._offer([id_])
        with self._lock:
            self._landed.append(row)
            self.fetched_bytes += fetched.fetched_bytes
            self.resumed_bytes += fetched.resumed_bytes
            self.origin_bytes += origin_bytes
            for name, count in fetched.neighbour_bytes.items():
                self.neighbour_bytes[name] = self.neighbour_bytes.get(name, 0) + count
            due = len(self._landed) >= _BATCH or time.monotonic() - self._recorded_at > _MAX_UNRECORDED_S
        if due:
            self._record_landed()

    def _record_landed(self) -> None:
        """Put the landed objects into the index, then release their claims to the downloads that wait for them."""
        with self._lock:
            rows, self._landed = self._landed, []
            self._recorded_at = time.monotonic()
        if rows:
            self._context.index.put_objects(rows)
            self._context.claims.release([row.id for row in rows], self._token)

    # Publishing.

    def _publish(self) -> Header:
        context, digest = self._context, self._manifest.digest
        self._raise_if_cancelled()
        with context.exclusive():
            state = check.check_snapshot(context.layout, context.disk, digest, context.index)
            header = manifests.read_header(context.disk, context.layout.manifest(digest)) if state.complete else None
            linked: list[ObjectCtime] = []
            if header is None:
                header, linked = self._build()
            current.point(context, self._manifest.uri, digest, self._resolved_at)
            # The objects are published and durable now, so their journals are of no more use.
            for id_ in context.index.record_published(digest, self._ids, linked):
                context.disk.unlink_if_there(context.layout.journal(id_))
        return header

    def _build(self) -> tuple[Header, list[ObjectCtime]]:
        """Build or repair the snapshot. Returns its header, and the ctimes that its links left."""
        context, digest = self._context, self._manifest.digest
        index = context.index
        if not context.disk.exists(context.layout.snapshot(digest)):
            index.drop_use(digest)  # if a person removed it: the recovery indexes the snapshots that have no use
        publisher = publish.Publisher(
            context.layout,
            context.disk,
            index.objects,
            index.begin_linking,
            index.end_linking,
            self._raise_if_cancelled,
        )
        try:
            return publisher.publish(self._manifest, self._ids), publisher.linked
        except BaseException:
            with suppress(OSError):
                removal.roll_back(context, digest, self._ids, publisher.linked)
            raise


def _count(fetched: FetchedObject) -> int:
    """Count an object that landed: once, for it is in its place now and no later attempt fetches it.

    Returns its bytes from the origin.
    """
    obj = fetched.job.object
    resumed = min(fetched.resumed_bytes, obj.size)  # more where a resumed range was fetched again after all
    neighbours = min(sum(fetched.neighbour_bytes.values()), obj.size - resumed)
    origin = obj.size - resumed - neighbours
    store_metrics.LANDED_BYTES.labels("origin").inc(origin)
    store_metrics.LANDED_BYTES.labels("neighbours").inc(neighbours)
    store_metrics.LANDED_BYTES.labels("resumed").inc(resumed)
    store_metrics.BUCKET_BYTES.labels(obj.bucket).inc(origin)
    store_metrics.PROVED_BYTES.labels(fetched.verified).inc(obj.size)
    return origin


def monotonic(progress: Callable[[FetchProgress], None]) -> Callable[[FetchProgress], None]:
    """Wrap the callback: done_bytes never falls and never exceeds the total, though a download may start over."""
    max_done = 0

    def report(now: FetchProgress) -> None:
        nonlocal max_done
        max_done = min(now.total_bytes, max(max_done, now.done_bytes))
        progress(FetchProgress(max_done, now.total_bytes, now.bytes_per_s))

    return report


def _allocated(context: StoreContext, id_: str) -> int:
    """Return the bytes that a part file takes on the disk already; it is sparse until it is filled."""
    try:
        return context.disk.stat(context.layout.part(id_)).st_blocks * 512
    except FileNotFoundError:
        return 0
