"""`NodeStore`: what the activities and the CLI do to a node's cache. The disk is the truth; the index only remembers.

The invariants, in the order in which they matter:
1. A visible snapshot is whole: it is published by one rename, after every byte was verified and synced.
2. A pinned snapshot is not evicted, and a pin is taken before the disk is checked.
3. Space is reserved before the first byte is fetched; the error of a refused reservation holds the arithmetic.
4. Two downloads never write one file: one process downloads at a time, and in it one download claims each object.

A façade without work of its own: locks and shared state are in `context`, the work in the modules named after it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import structlog

from kube_cache.dataset.transfer import FetchProgress, Manifest, TransferEngine
from kube_cache.errors import NodeUnsuitable
from kube_cache.store import check, disk_errors, eviction, manifests, recovery, removal, scrub, usage
from kube_cache.store.check import SnapshotState
from kube_cache.store.context import StoreContext, make_folders
from kube_cache.store.damage import BadObject
from kube_cache.store.disk import Disk
from kube_cache.store.disk_errors import as_disk_faults
from kube_cache.store.download import Download, DownloadResult
from kube_cache.store.index import Index
from kube_cache.store.index_rows import LOST_INDEX_OWNER, Pin
from kube_cache.store.layout import Layout
from kube_cache.store.manifests import Header
from kube_cache.store.recovery import RecoveryReport
from kube_cache.store.scrub import ScrubResult
from kube_cache.store.settings import StoreSettings
from kube_cache.store.usage import Usage

_log = structlog.get_logger("kube_cache.store")
_PROBE_BYTES = 16384  # more than one block, so that a full disk is noticed
_MAX_LOGGED_PROBLEMS = 5


@dataclass(frozen=True, slots=True)
class ReconciledPins:
    pinned: int
    unpinned: int


class NodeStore:
    """Thread-safe. Every method raises DiskFault where the disk fails, StoreConflict where another process is slow."""

    def __init__(self, settings: StoreSettings, disk: Disk) -> None:
        """Use `open`."""
        self._settings = settings
        self._disk = disk
        self._layout = Layout(settings.root)
        self._opening = threading.RLock()
        self._recovers = False
        self.cache_id = ""
        """Identity of the disk."""
        self.recovery = RecoveryReport()
        """What the recovery at start-up found."""

    @property
    def root(self) -> Path:
        return self._layout.root

    @classmethod
    def open(cls, settings: StoreSettings, *, recover: bool = True, disk: Disk | None = None) -> NodeStore:
        """Create or open the cache at the root. Raises NodeUnsuitable, DiskFault.

        recover: also clean up what a crash left, unless another process downloads. False for the CLI.
        """
        store = cls(settings, disk or Disk())
        store._recovers = recover
        store._open()
        return store

    @as_disk_faults
    def _open(self) -> None:
        layout, disk = self._layout, self._disk
        disk.make_folder(layout.root)
        may_create = self._recovers or not layout.cache_id.exists()
        if may_create and not self._settings.allow_root_disk and layout.root.stat().st_dev == Path("/").stat().st_dev:
            raise NodeUnsuitable(
                f"{layout.root} is on the machine's root disk, where a full cache would take the node down; "
                "mount an NVMe there, or set KUBE_CACHE_STORE__ALLOW_ROOT_DISK=true"
            )
        make_folders(layout, disk)
        if not layout.cache_id.exists():
            disk.write_whole(layout.cache_id, [uuid.uuid4().hex[:16].encode()])
        self.cache_id = layout.cache_id.read_text().strip()
        index, fresh = _open_index(layout, self.cache_id)
        self._context = StoreContext(self._settings, layout, disk, index)
        if self._recovers or fresh:
            self._recover(rebuild=fresh)

    def _recover(self, *, rebuild: bool) -> None:
        writer_lock = self._context.try_writer_lock()
        if writer_lock is None:
            _log.info("another process is downloading: the recovery is skipped", root=str(self.root))
            return
        try:
            with self._context.exclusive():
                self._context.index.end_downloads_except(-1)
                self.recovery = recovery.recover(self._context, rebuild=rebuild)
                if self.recovery.rebuilt:
                    for digest in self._context.digests():
                        self._context.index.pin(digest, LOST_INDEX_OWNER, None)
        finally:
            os.close(writer_lock)
        _log.info(
            "recovered the disk",
            root=str(self.root),
            snapshots=self.recovery.snapshots,
            objects=self.recovery.objects,
            recovered=self.recovery.recovered,
            removed=self.recovery.removed,
            rebuilt=self.recovery.rebuilt,
            seconds=round(self.recovery.seconds, 3),
        )

    def _current_context(self) -> StoreContext:
        """Return the context of the disk that is there now.

        A disk that was wiped or replaced under the agent is another cache: it is opened anew, with its own identity.
        """
        if self._is_same_disk():
            return self._context
        with self._opening:
            if self._is_same_disk():
                return self._context
            _log.error("the disk was wiped or replaced", root=str(self.root), cache_id=self.cache_id)
            before = self._context
            self._open()
            before.close()
            return self._context

    def _is_same_disk(self) -> bool:
        try:
            return self._layout.cache_id.read_bytes().decode(errors="replace").strip() == self.cache_id
        except FileNotFoundError:
            return False

    # Checks.

    @as_disk_faults
    def check(self, digest: str) -> SnapshotState:
        """Check a snapshot by `stat` alone. Costs nothing while the snapshot is watched and no event came."""
        context = self._current_context()
        if context.watch.is_clean(digest) and (header := manifests.read_header(self._layout.manifest(digest))):
            context.index.touch(digest)
            return SnapshotState(complete=True, present_bytes=header.bytes)
        state = self._check_and_watch(context, digest)
        if not state.complete and state.problems:
            # A snapshot that shares these objects may just have been published or removed: check again under the lock.
            with context.exclusive():
                state = self._check_and_watch(context, digest)
        if state.complete:
            context.index.touch(digest)
        elif state.problems:
            problems = state.problems[:_MAX_LOGGED_PROBLEMS]
            _log.warning("snapshot is damaged", digest=digest, problems=problems, count=len(state.problems))
        return state

    def _check_and_watch(self, context: StoreContext, digest: str) -> SnapshotState:
        number = context.watch.arm(digest, check.watchable_folders(self._layout, digest))
        state = SnapshotState(complete=False, present_bytes=0)
        try:
            state = check.check_snapshot(self._layout, self._disk, digest, context.index)
        finally:
            context.watch.checked(digest, number, complete=state.complete)
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
        result = scrub.scrub_now(self._current_context(), digest, should_stop)
        return self.check(digest) if result.bad else state

    def snapshots(self) -> list[Header]:
        """Return the headers of all visible snapshots, least recently used first; damaged ones too."""
        digests = self._current_context().digests()
        headers = (manifests.read_header(self._layout.manifest(digest)) for digest in digests)
        return [header for header in headers if header is not None]

    # Pins.

    @as_disk_faults
    def pin(self, digest: str, owner: str, *, until: float | None = None) -> None:
        """Keep a snapshot, whether it is there yet or not. Pinning twice is pinning once.

        until: seconds since the epoch; None: until it is unpinned.
        """
        self._current_context().index.pin(digest, owner, until)

    @as_disk_faults
    def unpin(self, digest: str, owner: str) -> bool:
        """Give a pin back. False if there was none."""
        return self._current_context().index.unpin(digest, owner)

    @as_disk_faults
    def pins(self) -> list[Pin]:
        return self._current_context().index.pins()

    @as_disk_faults
    def reconcile(
        self,
        bound: Iterable[tuple[str, str]],
        living: Collection[str] = (),
        *,
        kind: str = "pod/",
        grace_s: float = 600,
    ) -> ReconciledPins:
        """Make the pins of bound owners those that are expected, and remove the pins of owners that are gone.

        bound: (digest, owner) of each pin that must be there; such an owner holds no others. living: owners that keep
        the pins that they have. kind: beginning of the owners that are judged. grace_s: a younger pin stays, because
        its owner may be younger than the lists. Also removes the temporary pins of a lost index.
        """
        index = self._current_context().index
        wanted = set(bound)
        settled = {owner for _, owner in wanted}
        pins = index.pins()
        present = {(pin.digest, pin.owner): pin for pin in pins if pin.owner.startswith(kind)}
        missing = wanted - present.keys()
        for digest, owner in missing:
            index.pin(digest, owner, None, created=0)  # made from the lists, so the next reconcile may judge it at once
        # A clock that jumped back makes an age negative: then the pin is old enough to be judged by the lists alone.
        stale = [
            (digest, owner)
            for (digest, owner), pin in present.items()
            if (digest, owner) not in wanted
            and (owner in settled or owner not in living)
            and not 0 <= time.time() - pin.created < grace_s
        ]
        temporary = [(pin.digest, pin.owner) for pin in pins if pin.owner == LOST_INDEX_OWNER]
        for digest, owner in stale + temporary:
            index.unpin(digest, owner)
        return ReconciledPins(len(missing), len(stale))

    # Capacity.

    @as_disk_faults
    def usage(self) -> Usage:
        """Compute what the disk holds, and for whom. Stats every file."""
        return usage.usage(self._current_context())

    @as_disk_faults
    def check_fits(self, needed: int, *, inodes: int = 0, subject: str = "") -> None:
        """Check whether `needed` bytes and inodes could be freed now; evicts nothing. Raises InsufficientDisk.

        subject: first words of the error, with a space at the end.
        """
        eviction.check_fits(self._current_context(), needed, inodes=inodes, subject=subject)

    @as_disk_faults
    def probe(self) -> None:
        """Write a file and delete it again. Raises DiskFault where the disk cannot be written."""
        path = self._layout.root / "probe"
        self._current_context()
        try:
            self._disk.write(path, [b"\0" * _PROBE_BYTES])
        finally:
            self._disk.unlink_if_there(path)

    @as_disk_faults
    def evict(self, digest: str) -> int:
        """Remove a snapshot that is not in use. Raises SnapshotInUse.

        Returns the size of the objects that no other snapshot linked, in bytes; 0 if there is no such snapshot.
        """
        context = self._current_context()
        with context.exclusive():
            return removal.evict(context, digest) or 0

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
    ) -> DownloadResult:
        """Bring the snapshot to the disk, verified, and publish it. Objects that are there are not fetched.

        Raises what `TransferEngine.fetch` raises, InsufficientDisk, Cancelled.
        """
        started = time.monotonic()
        context = self._current_context()
        download = Download(context, manifest, engine, _monotonic(progress), cancelled, priority)
        header = download.run()
        if not context.watch.is_clean(manifest.digest):
            self._check_and_watch(context, manifest.digest)  # so that the check at a release finds it watched
        seconds = time.monotonic() - started
        return DownloadResult(download.fetched_bytes, download.resumed_bytes, header.verified, seconds)

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
        return scrub.scrub(self._current_context(), rate, cancelled, on_bad)

    @as_disk_faults
    def scrub_if_due(self, cancelled: Callable[[], bool] = lambda: False) -> ScrubResult | None:
        """Begin or continue the background's round if one is due; None if none is. Raises Cancelled."""
        return scrub.scrub_if_due(self._current_context(), self._settings.scrub_every_s, cancelled)

    def background_scrub(
        self, *, poll_s: float | None = None, on_damage: Callable[[], object] = lambda: None
    ) -> AbstractContextManager[None]:
        """Scrub in a thread while the context lasts; do nothing where the settings give no rate.

        poll_s: seconds between the questions whether a round is due; None: 60, or less where a round is due more often.
        on_damage: called from the thread after a round that quarantined something.
        """
        if self._settings.scrub_bytes_per_s <= 0:
            return nullcontext()
        if poll_s is None:
            poll_s = min(scrub.POLL_S, self._settings.scrub_every_s)
        return scrub.BackgroundScrub(self.scrub_if_due, poll_s=poll_s, on_damage=on_damage)

    def close(self) -> None:
        self._context.close()


def _open_index(layout: Layout, cache_id: str) -> tuple[Index, bool]:
    """Open the index. Returns it, and whether it is fresh: it was lost, corrupt, or came from another disk."""
    if layout.index.exists():
        try:
            index = Index(layout.index)
            if index.cache_id() == cache_id:
                return index, False
            index.close()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and not disk_errors.is_corrupt(error):
                raise
            _log.warning("the index is damaged and is rebuilt", error=str(error))
    for suffix in ("", "-wal", "-shm"):
        layout.index.with_name(layout.index.name + suffix).unlink(missing_ok=True)
    index = Index(layout.index)
    index.set_cache_id(cache_id)
    return index, True


def _monotonic(progress: Callable[[FetchProgress], None]) -> Callable[[FetchProgress], None]:
    """Wrap the callback: done_bytes never falls and never exceeds the total, though a download may start over."""
    max_done = 0

    def report(now: FetchProgress) -> None:
        nonlocal max_done
        max_done = min(now.total_bytes, max(max_done, now.done_bytes))
        progress(FetchProgress(max_done, now.total_bytes, now.bytes_per_s))

    return report
