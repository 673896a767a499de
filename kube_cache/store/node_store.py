"""`NodeStore`: what the activities and the CLI do to a node's cache. Disk is truth; the index only remembers.

The invariants, in the order in which they matter:
1. A snapshot that can be seen is whole: it is published by one rename, after every byte was verified and synced.
2. What is pinned is not evicted, and a pin is taken before the disk is looked at.
3. Room is reserved before the first byte is fetched; when it cannot be, the error holds the arithmetic.
4. Two attempts never write one file: one process fetches at a time, and in it each object is claimed by one attempt.

A façade: locks and shared state are in `core`, the work in the modules named after it.
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
from kube_cache.store import capacity as rooms
from kube_cache.store import check as looking
from kube_cache.store import disk_errors as faults
from kube_cache.store import eviction as removal
from kube_cache.store import manifests, mounts, scrub
from kube_cache.store import recovery as scans
from kube_cache.store.capacity import Room, Usage
from kube_cache.store.check import SnapshotState
from kube_cache.store.context import Core, make_folders
from kube_cache.store.damage import BadObject
from kube_cache.store.disk import Disk
from kube_cache.store.disk_errors import translated
from kube_cache.store.download import Warming, WarmResult
from kube_cache.store.index import LOST, Index, Pin
from kube_cache.store.layout import Layout
from kube_cache.store.manifests import Header
from kube_cache.store.recovery import Found
from kube_cache.store.scrub import ScrubResult
from kube_cache.store.settings import StoreSettings

_log = structlog.get_logger("kube_cache.store")
# More than one block, so that a full disk is noticed.
_PROBE = 16384


@dataclass(frozen=True, slots=True)
class Reconciled:
    pinned: int
    unpinned: int


class NodeStore:
    """Thread-safe. Every method raises DiskFault where the disk does, and StoreConflict where another process is slow."""

    def __init__(self, settings: StoreSettings, disk: Disk) -> None:
        """Use `open`."""
        self._settings = settings
        self._disk = disk
        self._layout = Layout(settings.root)
        self._opening = threading.RLock()
        self._owner = False
        self.cache_id = ""
        self.found = Found()
        """What the start-up scan found."""

    @property
    def root(self) -> Path:
        return self._layout.root

    @classmethod
    def open(cls, settings: StoreSettings, *, tidy: bool = True, disk: Disk | None = None) -> NodeStore:
        """Create or open the root. tidy: also clean up what a crash left, unless another process is fetching.

        Raises NodeUnsuitable, DiskFault.
        """
        store = cls(settings, disk or Disk())
        store._owner = tidy
        store._open()
        return store

    @translated
    def _open(self) -> None:
        layout, disk = self._layout, self._disk
        disk.make_folder(layout.root)
        may_create = self._owner or not layout.cache_id.exists()
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
        self._core = Core(self._settings, layout, disk, index)
        if self._owner or fresh:
            self._tidy(rebuild=fresh)

    def _tidy(self, *, rebuild: bool) -> None:
        alone = self._core.try_alone()
        if alone is None:
            _log.info("another process is fetching: the disk is not tidied now", root=str(self.root))
            return
        try:
            with self._core.mutation():
                self._core.index.end_warms_but(-1)
                self.found = scans.scan(self._core, rebuild=rebuild)
                if self.found.rebuilt:
                    for digest in self._core.digests():
                        self._core.index.pin(digest, LOST, None)
        finally:
            os.close(alone)
        _log.info(
            "the disk was looked through",
            root=str(self.root),
            snapshots=self.found.snapshots,
            objects=self.found.objects,
            recovered=self.found.recovered,
            removed=self.found.removed,
            rebuilt=self.found.rebuilt,
            seconds=round(self.found.seconds, 3),
        )

    def _same_disk(self) -> Core:
        """A disk that was wiped or replaced under us is another cache: opened anew, with its own identity."""
        try:
            if self._layout.cache_id.read_bytes().decode(errors="replace").strip() == self.cache_id:
                return self._core
        except FileNotFoundError:
            pass
        with self._opening:
            try:
                if self._layout.cache_id.read_text().strip() == self.cache_id:
                    return self._core
            except FileNotFoundError:
                pass
            _log.error("the disk was wiped or replaced", root=str(self.root), cache_id=self.cache_id)
            before = self._core
            self._open()
            before.close()
            return self._core

    # Looking.

    @translated
    def check(self, digest: str) -> SnapshotState:
        """What is there of a snapshot, by `stat` alone; by nothing at all while it is watched and nothing happened."""
        core = self._same_disk()
        if core.watch.is_clean(digest) and (header := manifests.read_header(self._layout.manifest(digest))):
            core.index.touch(digest)
            return SnapshotState(complete=True, present_bytes=header.bytes)
        state = self._look(core, digest)
        if not state.complete and state.problems:
            # Perhaps somebody was just publishing or removing a snapshot that shares these objects.
            with core.mutation():
                state = self._look(core, digest)
        if state.complete:
            core.index.touch(digest)
        elif state.problems:
            _log.warning("snapshot is damaged", digest=digest, problems=state.problems[:5], count=len(state.problems))
        return state

    def _look(self, core: Core, digest: str) -> SnapshotState:
        number = core.watch.arm(digest, looking.folders(self._layout, digest))
        state = SnapshotState(complete=False, present_bytes=0)
        try:
            state = looking.look(self._layout, self._disk, digest, core.index)
        finally:
            core.watch.seen(digest, number, whole=state.complete)
        return state

    @translated
    def check_full(
        self, digest: str, *, beat: Callable[[], object] = lambda: None, cancelled: Callable[[], bool] = lambda: False
    ) -> SnapshotState:
        """As `check`, and every byte is read against its checksum; what fails is quarantined. Raises Cancelled."""

        def may_stop() -> bool:
            beat()
            return cancelled()

        state = self.check(digest)
        if not state.complete:
            return state
        core = self._same_disk()
        result = scrub.scrub_now(core, digest, may_stop)
        return self.check(digest) if result.bad else state

    def snapshots(self) -> list[Header]:
        """All that can be seen, least recently used first; damaged ones too."""
        core = self._same_disk()
        found = [manifests.read_header(self._layout.manifest(digest)) for digest in core.digests()]
        return [header for header in found if header is not None]

    # Pins.

    @translated
    def pin(self, digest: str, owner: str, *, until: float | None = None) -> None:
        """Keep it, whether it is there yet or not; pinning twice is pinning once. until: seconds since the epoch."""
        self._same_disk().index.pin(digest, owner, until)

    @translated
    def unpin(self, digest: str, owner: str) -> bool:
        """False when there was no such pin."""
        return self._same_disk().index.unpin(digest, owner)

    @translated
    def pins(self) -> list[Pin]:
        return self._same_disk().index.pins()

    @translated
    def reconcile(
        self,
        bound: Iterable[tuple[str, str]],
        living: Collection[str] = (),
        *,
        kind: str = "pod/",
        grace_s: float = 600,
    ) -> Reconciled:
        """Owners of this kind hold what they are bound with, as (digest, owner), and those that are living what they pinned.

        A pin younger than `grace_s` stays: its Pod may be younger than the lists. What a lost index left pinned no longer is.
        """
        index = self._same_disk().index
        wanted = set(bound)
        settled = {owner for _, owner in wanted}
        pins = index.pins()
        there = {(pin.digest, pin.owner): pin for pin in pins if pin.owner.startswith(kind)}
        missing = wanted - there.keys()
        for digest, owner in missing:
            index.pin(digest, owner, None, created=0)  # made from the lists, so the next ones may judge it at once
        # A clock that jumped back makes an age negative: then the pin is old enough to be judged by the lists alone.
        stale = [
            (digest, owner)
            for (digest, owner), pin in there.items()
            if (digest, owner) not in wanted
            and (owner in settled or owner not in living)
            and not 0 <= time.time() - pin.created < grace_s
        ]
        stand_ins = [(pin.digest, pin.owner) for pin in pins if pin.owner == LOST]
        for digest, owner in stale + stand_ins:
            index.unpin(digest, owner)
        return Reconciled(len(missing), len(stale))

    def in_use_by_mounts(self, digest: str) -> bool:
        """Mounted in a mount namespace that this process can see; False proves nothing."""
        return digest in mounts.mounted()

    # Room.

    @translated
    def room(self) -> Room:
        return rooms.room(self._same_disk())

    @translated
    def usage(self) -> Usage:
        """In detail; looks at each file."""
        return rooms.usage(self._same_disk())

    @translated
    def make_room(self, needed: int) -> int:
        """Evict until `needed` bytes can be used; bytes that became free. Raises InsufficientDisk."""
        core = self._same_disk()
        with core.mutation():
            return rooms.make_room(core, needed)

    @translated
    def ensure_could(self, needed: int, *, inodes: int = 0, what: str = "") -> None:
        """Whether room for so much could be made now; evicts nothing. Raises InsufficientDisk."""
        rooms.ensure_could(self._same_disk(), needed, inodes=inodes, what=what)

    @translated
    def probe(self) -> None:
        """Raises DiskFault where the disk cannot be written."""
        path = self._layout.root / "probe"
        self._same_disk()
        try:
            self._disk.write(path, [b"\0" * _PROBE])
        finally:
            self._disk.unlink_if_there(path)

    @translated
    def evict(self, digest: str) -> int:
        """Bytes of the objects that went, which nobody else linked; 0 when it is not there. Raises SnapshotInUse."""
        core = self._same_disk()
        with core.mutation():
            return removal.evict(core, digest) or 0

    # Filling.

    @translated
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
        started = time.monotonic()
        core = self._same_disk()
        warming = Warming(core, manifest, engine, _rising(progress), cancelled, priority)
        header = warming.run()
        if not core.watch.is_clean(manifest.digest):
            self._look(core, manifest.digest)  # so that the next check, at a release, finds it watched
        return WarmResult(warming.fetched, warming.resumed, header.verified, time.monotonic() - started)

    @translated
    def scrub(
        self,
        rate_bytes_per_s: float | None = None,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        on_bad: Callable[[BadObject], None] = lambda _: None,
    ) -> ScrubResult:
        """Once through everything, slowly; for a thread of its own. None: the rate of the settings. Raises Cancelled."""
        rate = self._settings.scrub_bytes_per_s if rate_bytes_per_s is None else rate_bytes_per_s
        return scrub.scrub(self._same_disk(), rate, cancelled, on_bad)

    @translated
    def scrub_if_due(self, cancelled: Callable[[], bool] = lambda: False) -> ScrubResult | None:
        """Begin or continue the background's round if one is due; None if none is. Raises Cancelled."""
        return scrub.scrub_if_due(self._same_disk(), self._settings.scrub_every_s, cancelled)

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
        self._core.close()


def _open_index(layout: Layout, cache_id: str) -> tuple[Index, bool]:
    """The index, and whether it knows nothing of this disk: it was lost, damaged, or came from another one."""
    if layout.index.exists():
        try:
            index = Index(layout.index)
            if index.belongs_to() == cache_id:
                return index, False
            index.close()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and not faults.is_damage(error):
                raise
            _log.warning("the index is damaged and is rebuilt", error=str(error))
    for name in ("", "-wal", "-shm"):
        layout.index.with_name(layout.index.name + name).unlink(missing_ok=True)
    index = Index(layout.index)
    index.claim_for(cache_id)
    return index, True


def _rising(progress: Callable[[FetchProgress], None]) -> Callable[[FetchProgress], None]:
    """Never falls and never exceeds the total, whatever rounds a download takes."""
    most = 0

    def tell(now: FetchProgress) -> None:
        nonlocal most
        most = min(now.total_bytes, max(most, now.done_bytes))
        progress(FetchProgress(most, now.total_bytes, now.bytes_per_s))

    return tell
