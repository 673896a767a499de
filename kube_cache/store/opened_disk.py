"""The disk of a node's cache, opened: its identity, its index, and what a crash left on it put in order.

A disk that is wiped or replaced under the agent is another cache: the next call finds that out and opens it anew, with
an identity of its own.
"""

from __future__ import annotations

import os
import threading
import uuid
from contextlib import suppress
from pathlib import Path

import structlog

from kube_cache.store import pins, recovery
from kube_cache.store.context import StoreContext, make_folders
from kube_cache.store.disk import Disk
from kube_cache.store.disk_errors import as_disk_faults
from kube_cache.store.filesystem.probe import Capabilities, examine
from kube_cache.store.index_opening import open_index
from kube_cache.store.index_reader import IndexReader
from kube_cache.store.layout import Layout
from kube_cache.store.recovery import RecoveryReport
from kube_cache.store.settings import StoreSettings

_log = structlog.get_logger("kube_cache.store")
_CAPABILITIES_KEY = "capabilities"  # in the index, for the command line


class OpenedDisk:
    """Thread-safe, once it was opened."""

    def __init__(self, settings: StoreSettings, disk: Disk, *, recover: bool = False) -> None:
        """recover: opening it also cleans up what a crash left, unless another process downloads."""
        self._settings = settings
        self._recovers = recover
        self._opening = threading.RLock()
        self.disk = disk
        self.layout = Layout(settings.root)
        self.context: StoreContext
        """Of the disk as it was opened last."""
        self.cache_id = ""
        """Identity of the disk."""
        self.recovery = RecoveryReport()
        """What the recovery at start-up found."""

    @property
    def root(self) -> Path:
        return self.layout.root

    @as_disk_faults
    def open_to_read(self) -> None:
        """Open without changing anything. Raises KubeCacheError."""
        layout = self.layout
        self.disk.open(layout.root, create=False)
        self.cache_id = self.disk.read(layout.cache_id).decode().strip()
        self.context = StoreContext(self._settings, layout, self.disk, IndexReader(layout.absolute(layout.index)))

    @as_disk_faults
    def open(self) -> None:
        """Create or open the cache. Raises NodeUnsuitable, DiskFault."""
        layout, disk = self.layout, self.disk
        disk.open(layout.root)
        may_create = self._recovers or not disk.exists(layout.cache_id)
        capabilities = examine(layout.root, self._settings) if may_create else None
        make_folders(layout, disk)
        if not disk.exists(layout.cache_id):
            disk.write_whole(layout.cache_id, [uuid.uuid4().hex[:16].encode()])
        self.cache_id = disk.read(layout.cache_id).decode().strip()
        index, fresh = open_index(layout, disk, self.cache_id, convert=self._recovers)
        if capabilities is not None:
            index.set_meta(_CAPABILITIES_KEY, capabilities.to_json())
        self.context = StoreContext(self._settings, layout, disk, index)
        if self._recovers or fresh:
            self._recover(rebuild=fresh)
        pins.adopt(self.context)

    def _recover(self, *, rebuild: bool) -> None:
        root = str(self.root)
        writer_lock = self.context.try_writer_lock()
        if writer_lock is None:
            _log.info("another process is downloading: the recovery is skipped", root=root)
            return
        try:
            with self.context.exclusive():
                self.context.index.end_downloads_except(-1)
                self.recovery = recovery.recover(self.context, rebuild=rebuild)
        finally:
            os.close(writer_lock)
        _log.info(
            "recovered the disk",
            root=root,
            snapshots=self.recovery.snapshots,
            objects=self.recovery.objects,
            recovered=self.recovery.recovered,
            removed=self.recovery.removed,
            rebuilt=self.recovery.rebuilt,
            seconds=round(self.recovery.seconds, 3),
        )

    def current(self) -> StoreContext:
        """Return the context of the disk that is there now."""
        if self._is_same_disk():
            return self.context
        with self._opening:
            if self._is_same_disk():
                return self.context
            _log.error("the disk was wiped or replaced", root=str(self.root), cache_id=self.cache_id)
            before = self.context
            self.open()
            before.close()
            return self.context

    def _is_same_disk(self) -> bool:
        with suppress(FileNotFoundError):
            cache_id = self.disk.read(self.layout.cache_id).decode(errors="replace").strip()
            return self.disk.is_current() and cache_id == self.cache_id
        return False

    def capabilities(self) -> Capabilities | None:
        """Return what an agent found at its last start that the file system can do; None if none has started yet."""
        return Capabilities.of_json(self.current().index.get_meta(_CAPABILITIES_KEY))
