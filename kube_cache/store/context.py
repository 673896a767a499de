"""What the modules of the store share: settings, paths, the index, locks, claims, and the list of visible snapshots.

Lock order, outermost first: `exclusive` (the snapshots), `pods.lock` (links of Pods and datasets), the claims, the
index. The index's lock may be taken under any other. Nothing is fetched or read through while one of them is held.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath

from kube_cache.errors import Cancelled
from kube_cache.names import pin_owner
from kube_cache.store import prefetched
from kube_cache.store.disk import Disk
from kube_cache.store.health import DiskHealth
from kube_cache.store.index import Index
from kube_cache.store.index_rows import Pin
from kube_cache.store.layout import Layout, is_snapshot
from kube_cache.store.locks import POLL_S, ProcessLock, try_lock
from kube_cache.store.pod_links import PodLinks
from kube_cache.store.settings import StoreSettings

_LOCK_TRIES = 3


class StoreContext:
    def __init__(self, settings: StoreSettings, layout: Layout, disk: Disk, index: Index) -> None:
        self.settings = settings
        self.layout = layout
        self.disk = disk
        self.index = index
        self.claims = Claims()
        self.health = DiskHealth()
        self.pods = PodLinks(layout, disk)
        self._exclusive = ProcessLock(disk, layout.lock)
        self._writers = 0
        """Downloads of this process that are under way; they share one lock on the writer's file."""
        self._writers_fd = -1
        self._writers_lock = threading.Lock()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other threads and processes from publishing or removing snapshots. Reentrant. Raises StoreConflict."""
        with self._exclusive.held():
            yield

    @contextlib.contextmanager
    def writer_lock(self, cancelled: Callable[[], bool]) -> Iterator[None]:
        """Be the one process that downloads; threads share the lock. Raises Cancelled.

        Waits for another process: an agent drains while its successor starts.
        """
        while not self._writers_lock.acquire(timeout=POLL_S):  # its holder may wait long for another process
            _raise_if_cancelled(cancelled())
        try:
            if self._writers == 0:
                fd = self.disk.open_lock(self.layout.writer_lock)
                try:
                    while not try_lock(fd):
                        _raise_if_cancelled(cancelled())
                        time.sleep(POLL_S)
                    # The process that held the lock is gone, and its reservations with it.
                    self.index.end_downloads_except(os.getpid())
                except BaseException:
                    os.close(fd)
                    raise
                self._writers_fd = fd
            self._writers += 1
        finally:
            self._writers_lock.release()
        try:
            yield
        finally:
            with self._writers_lock:
                self._writers -= 1
                if self._writers == 0:
                    os.close(self._writers_fd)
                    self._writers_fd = -1

    def is_writer(self) -> bool:
        """Check whether this process downloads, and so holds the writer's lock."""
        return self._writers > 0

    def is_downloading(self) -> bool:
        """Check whether this process or another one downloads."""
        if self._writers > 0:
            return True
        fd = self.disk.open_lock(self.layout.writer_lock)
        try:
            # Shared, and for an instant: a download that begins meanwhile tries again soon.
            return not try_lock(fd, fcntl.LOCK_SH)
        finally:
            os.close(fd)

    def try_writer_lock(self) -> int | None:
        """Take the writer's lock, as a descriptor to close; None while this process or another one downloads."""
        if self._writers > 0:
            return None
        fd = self.disk.open_lock(self.layout.writer_lock)
        for _ in range(_LOCK_TRIES):  # `is_downloading` of another process may hold it for an instant
            if try_lock(fd):
                return fd
            time.sleep(POLL_S)
        os.close(fd)
        return None

    def digests(self) -> list[str]:
        """Return the digests of the visible snapshots in the order of eviction.

        Prefetched ones that nobody wants or has used come first, those that a prefetch wants kept last. Among the
        others: those that the index lacks, then the least recently used.
        """
        order = {digest: place for place, digest in enumerate(self.index.uses())}
        names = filter(is_snapshot, self.disk.names(self.layout.snapshots))
        first, last = prefetched.first_to_go(self.index), prefetched.last_to_go(self.index)
        return sorted(names, key=lambda name: (name not in first, name in last, order.get(name, -1)))

    def pins(self) -> list[Pin]:
        """Return the pins: people's, from the index, and those of the Pods, from their links."""
        pins = self.index.pins()
        for folder in self.pods.folders():
            owner = pin_owner(folder.uid)
            pins += [Pin(digest, owner, folder.changed) for digest in sorted(self.pods.digests(folder))]
        return pins

    def close(self) -> None:
        self.index.close()


class Claims:
    """The objects that are being fetched, each claimed by one download, and those that a running download relies on.

    Within one process: between processes the writer's lock decides. So an object needs neither a lock file nor a
    descriptor of its own. token: of a download.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._claimed: dict[str, str] = {}
        """Id -> token."""
        self._protected: Counter[str] = Counter()

    def take(self, ids: Iterable[str], token: str) -> tuple[list[str], list[str]]:
        """Claim the objects. Returns the ids that are claimed by us, and those that are claimed by others."""
        ours: list[str] = []
        theirs: list[str] = []
        with self._changed:
            for id_ in ids:
                holder = self._claimed.setdefault(id_, token)
                (ours if holder == token else theirs).append(id_)
        return ours, theirs

    def release(self, ids: Iterable[str], token: str) -> None:
        with self._changed:
            for id_ in ids:
                if self._claimed.get(id_) == token:
                    del self._claimed[id_]
            self._changed.notify_all()

    def holds(self, id_: str, token: str) -> bool:
        with self._changed:
            return self._claimed.get(id_) == token

    def wait(self, seconds: float) -> None:
        """Wait until claims are released, or the time is over."""
        with self._changed:
            self._changed.wait(seconds)

    @contextlib.contextmanager
    def protecting(self, ids: Iterable[str]) -> Iterator[None]:
        """Within the context the objects are not deleted as unlinked, though no snapshot links them yet."""
        ids = list(ids)
        with self._changed:
            self._protected.update(ids)
        try:
            yield
        finally:
            with self._changed:
                for id_ in ids:
                    if self._protected[id_] <= 1:
                        del self._protected[id_]
                    else:
                        self._protected[id_] -= 1

    def is_protected(self, id_: str) -> bool:
        """Check whether a download has claimed the object or relies on it."""
        with self._changed:
            return id_ in self._protected or id_ in self._claimed


def _raise_if_cancelled(cancelled: bool) -> None:
    if cancelled:
        raise Cancelled("cancelled while another agent process on this disk was still fetching")


def shard_folders(layout: Layout) -> list[PurePosixPath]:
    """Folders that hold objects: `objects/` and its 256 shards."""
    return [layout.objects, *(layout.objects / f"{number:02x}" for number in range(256))]


def make_folders(layout: Layout, disk: Disk) -> None:
    """Create the missing folders of the cache, durably."""
    PodLinks(layout, disk).prepare()
    missing = [folder for folder in (*layout.folders, *shard_folders(layout)) if not disk.is_folder(folder)]
    for folder in missing:
        disk.make_folder(folder)
    if missing:
        disk.sync_folder(layout.objects)
        disk.sync_folder(layout.top)
