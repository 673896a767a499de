"""`NodeStore`: what the activities and the CLI do to a node's cache. The disk is the truth; the index only remembers.

The invariants, in the order in which they matter:
1. A visible snapshot is whole: it is published by one rename, after every byte was verified and synced.
2. A pinned snapshot is not evicted, and a pin is taken before the disk is checked.
3. Space is reserved before the first byte is fetched; the error of a refused reservation holds the arithmetic.
4. Two downloads never write one file: one process downloads at a time, and in it one download claims each object.

A façade without work of its own: the disk and its identity are in `opened_disk`, locks and shared state in `context`,
the work in the modules named after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import structlog

from kube_cache.dataset.exchange import Exchange
from kube_cache.dataset.remote import Manifest
from kube_cache.dataset.transfer import FetchProgress, TransferEngine
from kube_cache.dataset.uri import DatasetUri
from kube_cache.disk_faults import disk_fault
from kube_cache.store import (
    background,
    check,
    current,
    eviction,
    gauges,
    manifests,
    pins,
    prefetched,
    scrub,
    sweep,
    usage,
)
from kube_cache.store.capacity import Capacity
from kube_cache.store.check import SnapshotState
from kube_cache.store.damage import BadObject
from kube_cache.store.disk import Disk
from kube_cache.store.disk_errors import as_disk_faults
from kube_cache.store.download import Download, DownloadResult, monotonic
from kube_cache.store.filesystem.probe import Capabilities
from kube_cache.store.index_rows import Pin
from kube_cache.store.layout import is_id
from kube_cache.store.manifests import Header
from kube_cache.store.opened_disk import OpenedDisk
from kube_cache.store.pins import ReconciledPins
from kube_cache.store.pod_links import Place
from kube_cache.store.recovery import RecoveryReport
from kube_cache.store.scrub import ScrubResult
from kube_cache.store.settings import StoreSettings
from kube_cache.store.usage import Usage

_log = structlog.get_logger("kube_cache.store")
_PROBE_BYTES = 16384  # more than one block, so that a full disk is noticed
_MAX_LOGGED_PROBLEMS = 5


class NodeStore:
    """Thread-safe. Every method raises DiskFault where the disk fails, StoreConflict where another process is slow."""

    def __init__(self, settings: StoreSettings, opened: OpenedDisk) -> None:
        """Use `open`."""
        self._settings = settings
        self._opened = opened
        self.last_capacity: Capacity | None = None
        """As `show_capacity` measured it last; None = not yet. Whoever reads it never waits for the disk."""

    @classmethod
    def open(cls, settings: StoreSettings, *, recover: bool = True, disk: Disk | None = None) -> NodeStore:
        """Create or open the cache at the root. Raises NodeUnsuitable, DiskFault.

        recover: also clean up what a crash left, unless another process downloads. False for the CLI.
        """
        opened = OpenedDisk(settings, disk or Disk(), recover=recover)
        opened.open()
        return cls(settings, opened)

    @classmethod
    def open_to_read(cls, settings: StoreSettings) -> NodeStore:
        """Open for `snapshots`, `pins`, `prefetched` and `usage` alone; changes nothing. Raises KubeCacheError."""
        opened = OpenedDisk(settings, Disk())
        opened.open_to_read()
        return cls(settings, opened)

    @property
    def root(self) -> Path:
        return self._opened.root

    @property
    def cache_id(self) -> str:
        """Identity of the disk."""
        return self._opened.cache_id

    @property
    def recovery(self) -> RecoveryReport:
        """What the recovery at start-up found."""
        return self._opened.recovery

    @as_disk_faults
    def capabilities(self) -> Capabilities | None:
        """Return what an agent found at its last start that the file system can do; None if none has started yet."""
        return self._opened.capabilities()

    # Checks.

    @as_disk_faults
    def check(self, digest: str, *, touch: bool = True) -> SnapshotState:
        """Check a snapshot: compare what `stat` says of each file with the manifest. touch: the check is a use."""
        context = self._opened.current()
        state = check.check_snapshot(self._opened.layout, self._opened.disk, digest, context.index)
        if not state.complete and state.problems:
            # A snapshot that shares these objects may just have been published or removed: check again under the lock.
            with context.exclusive():
                state = check.check_snapshot(self._opened.layout, self._opened.disk, digest, context.index)
        if state.complete and touch:
            context.index.touch(digest)
        elif state.problems:
            problems = state.problems[:_MAX_LOGGED_PROBLEMS]
            _log.warning("snapshot is damaged", digest=digest, problems=problems, count=len(state.problems))
        return state

    @as_disk_faults
    def check_full(
        self, digest: str, *, beat: Callable[[], object] = lambda: None, cancelled: Callable[[], bool] = lambda: False
    ) -> SnapshotState:
        """Check as `check` does, and read every byte against its checksum. Raises Cancelled.

        A bad object is quarantined. beat: called often while it reads.
        """

        def should_stop() -> bool:
            beat()
            return cancelled()

        state = self.check(digest)
        if not state.complete:
            return state
        result = scrub.scrub_now(self._opened.current(), digest, should_stop)
        return self.check(digest) if result.bad else state

    @as_disk_faults
    def check_for_pod(
        self,
        uid: str,
        place: int,
        digest: str,
        uri: DatasetUri,
        *,
        resolved_at: float = 0,
        full: bool = False,
        beat: Callable[[], object] = lambda: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> SnapshotState:
        """Check what the Pod will mount, and put its dataset's `@current` right. Call after `link_pod`.

        Complete only if the snapshot is, the Pod's link at this place leads to it, and `@current` names it or one that
        was resolved later. full, beat, cancelled: see `check_full`. Raises DiskFault where the link does not lead
        there, and Cancelled.
        """
        self._opened.current().health.raise_if_dying()
        state = self.check_full(digest, beat=beat, cancelled=cancelled) if full else self.check(digest)
        header = manifests.read_header(self._opened.disk, self._opened.layout.manifest(digest))
        if not state.complete or header is None:
            return replace(state, complete=False)
        context = self._opened.current()
        prefetched.use(context.index, digest)
        current.point(context, uri, digest, resolved_at)
        context.pods.verify(uid, place, digest)
        return replace(state, verified=str(header.verified))

    def snapshots(self) -> list[Header]:
        """Return the headers of all visible snapshots, in the order of eviction; damaged ones too."""
        digests = self._opened.current().digests()
        headers = (manifests.read_header(self._opened.disk, self._opened.layout.manifest(digest)) for digest in digests)
        return [header for header in headers if header is not None]

    @as_disk_faults
    def objects(self, digest: str) -> dict[str, tuple[int, Path]] | None:
        """Return size and path of each object of a visible snapshot, by id; None where there is none, or a torn one.

        What is found may be gone, or have become damaged, by the time that it is read.
        """
        if not is_id(digest):  # it comes from another node
            return None
        layout, found = self._opened.layout, dict[str, tuple[int, Path]]()
        try:
            for chunk in manifests.read_chunks(self._opened.disk, layout.manifest(digest)):
                for id_, size in zip(chunk.ids, chunk.sizes, strict=True):
                    found[id_] = size, layout.absolute(layout.object(id_))
        except (FileNotFoundError, manifests.TornManifest):
            return None
        return found

    # Pins.

    @as_disk_faults
    def pin(self, digest: str, owner: str, *, until: float | None = None) -> None:
        """Keep a snapshot, whether it is there yet or not. Pinning twice is pinning once.

        until: seconds since the epoch; None: until it is unpinned.
        """
        self._opened.current().index.pin(digest, owner, until)

    @as_disk_faults
    def unpin(self, digest: str, owner: str) -> bool:
        """Give a pin back. False if there was none."""
        return pins.unpin(self._opened.current(), digest, owner)

    @as_disk_faults
    def pins(self) -> list[Pin]:
        return self._opened.current().pins()

    @as_disk_faults
    def link_pod(self, uid: str, attempt: int, digests: Sequence[str], keep_current: Iterable[Place] = ()) -> None:
        """Give the Pod its links, which it mounts and which pin; see `PodLinks.link`. Raises StalePlacement."""
        self._opened.current().pods.link(uid, attempt, digests, keep_current)

    @as_disk_faults
    def unlink_pod(self, uid: str, digest: str, attempt: int = 0) -> bool:
        """Remove the Pod's links to the snapshot, of this placement or an earlier one; 0: of any. False: none."""
        return self._opened.current().pods.unlink(uid, digest, attempt)

    @as_disk_faults
    def reconcile(
        self,
        receipts: Mapping[str, Sequence[str]],
        living: Collection[str] = (),
        bound: Mapping[str, Collection[str]] | None = None,
        ended: Collection[str] | None = None,
        grace_s: float = 600,
    ) -> ReconciledPins:
        """Make lost links again, remove the pins of Pods that are gone, and dead `@current` links; see `pins`."""
        return pins.reconcile(self._opened.current(), receipts, living, bound or {}, grace_s, ended)

    def disk_fault(self) -> str:
        """Say which fault of the disk the scrub has met lately, with the remedy; '' if none."""
        fault = self._opened.current().health.fault()
        return disk_fault(fault, self.root).message if fault else ""

    # Prefetches.

    @as_disk_faults
    def hold_prefetched(self, digest: str, owner: str, until: float) -> SnapshotState:
        """Check a snapshot without counting that as a use, and keep it for a prefetch; see `prefetched`.

        until: seconds since the epoch. Twice is once.
        """
        state = self.check(digest, touch=False)
        prefetched.hold(self._opened.current().index, digest, owner, until, present=state.complete)
        return state

    @as_disk_faults
    def release_prefetched(self, digest: str, owner: str) -> None:
        """Let a prefetched snapshot go: it is evicted first unless a Pod has used it. Twice is once."""
        prefetched.release(self._opened.current().index, digest, owner)

    @as_disk_faults
    def prefetched(self) -> Mapping[str, prefetched.Mark]:
        """Return the marks of prefetches, by digest; also of snapshots that never came."""
        return prefetched.marks(self._opened.current().index)

    # Capacity.

    @as_disk_faults
    def usage(self) -> Usage:
        """Compute what the disk holds, and for whom. Stats every file."""
        return usage.usage(self._opened.current())

    @as_disk_faults
    def check_fits(self, needed: int, *, inodes: int = 0, subject: str = "", spare: bool = False) -> None:
        """Check whether `needed` bytes and inodes could be freed now; evicts nothing. Raises InsufficientDisk.

        subject: first words of the error, with a space at the end. spare: for a prefetch; see `eviction.free_space`.
        """
        eviction.check_fits(self._opened.current(), needed, inodes=inodes, subject=subject, spare=spare)

    @as_disk_faults
    def probe(self) -> None:
        """Write a file and delete it again. Raises DiskFault where the disk cannot be written."""
        self._opened.current().health.raise_if_dying()
        try:
            self._opened.disk.write("probe", [b"\0" * _PROBE_BYTES])
        finally:
            self._opened.disk.unlink_if_there("probe")

    @as_disk_faults
    def evict(self, digest: str) -> int:
        """Remove a snapshot that is not in use. Raises SnapshotInUse.

        Returns the size of the objects that no other snapshot linked, in bytes; 0 if there is no such snapshot.
        """
        context = self._opened.current()
        with context.exclusive():
            return eviction.evict_by_request(context, digest)

    # Downloads.

    @as_disk_faults
    def download(
        self,
        manifest: Manifest,
        engine: TransferEngine,
        *,
        progress: Callable[[FetchProgress], None] = lambda _: None,
        cancelled: Callable[[], bool] = lambda: False,
        priority: int = 0,
        resolved_at: float = 0,
        exchange: Exchange | None = None,
        spare: bool = False,
        max_bytes_per_s: int = 0,
    ) -> DownloadResult:
        """Bring the snapshot to the disk, verified, and publish it. Objects that are there are not fetched.

        resolved_at: seconds since the epoch when the snapshot was resolved; 0: now, for an operator that does not say.
        exchange: with other nodes. spare: for a prefetch; see `eviction.free_space`. max_bytes_per_s: of this download
        alone; 0 = no limit.
        Raises what `TransferEngine.fetch` raises, InsufficientDisk, Cancelled.
        """
        resolved_at = resolved_at or time.time()
        started = time.monotonic()
        context = self._opened.current()
        context.health.raise_if_dying()
        download = Download(
            context,
            manifest,
            engine,
            monotonic(progress),
            cancelled,
            priority,
            resolved_at,
            exchange,
            spare=spare,
            max_bytes_per_s=max_bytes_per_s,
        )
        header = download.run()
        seconds = time.monotonic() - started
        return DownloadResult(
            download.fetched_bytes,
            download.resumed_bytes,
            header.verified,
            seconds,
            download.neighbour_bytes,
            download.origin_bytes,
        )

    # Scrubs.

    @as_disk_faults
    def scrub(
        self,
        rate_bytes_per_s: float | None = None,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        on_bad: Callable[[BadObject], None] = lambda _: None,
    ) -> ScrubResult:
        """Read every object once against its checksum, slowly; for a thread of its own. Raises Cancelled.

        rate_bytes_per_s: None: that of the settings; 0: no limit.
        """
        rate = self._settings.scrub_bytes_per_s if rate_bytes_per_s is None else rate_bytes_per_s
        return scrub.scrub(self._opened.current(), rate, cancelled, on_bad)

    @as_disk_faults
    def scrub_if_due(self, cancelled: Callable[[], bool] = lambda: False) -> ScrubResult | None:
        """Begin or continue the background's round if one is due; None if none is. Raises Cancelled."""
        return scrub.scrub_if_due(self._opened.current(), self._settings.scrub_every_s, cancelled)

    @as_disk_faults
    def sweep(self) -> int:
        """Delete what nobody will use any more; see `sweep`. Returns the number of deleted files."""
        return sweep.sweep(self._opened.current())

    @as_disk_faults
    def show_capacity(self) -> None:
        """Bring the metrics of the disk up to date. Asks the file system, which may hang."""
        self.last_capacity = gauges.show(self._opened.current())

    def background(
        self, *, poll_s: float | None = None, on_damage: Callable[[], object] = lambda: None
    ) -> AbstractContextManager[None]:
        """Sweep, scrub and measure in threads while the context lasts; see `background.threads`."""
        return background.threads(self._settings, self.sweep, self.scrub_if_due, self.show_capacity, on_damage, poll_s)

    def close(self) -> None:
        self._opened.context.close()
