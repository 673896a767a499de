"""Files under which the power is cut before their n-th change or sync: what was not synced is lost, kept or torn.

For each page that was written since its file was synced last, the content of before is kept. At the cut each such page
comes back as it was, stays, or is mixed of both; a size goes back, or stays. That is as bad as POSIX allows.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from pathlib import Path
from typing import NamedTuple

from kube_cache.engine.files import Files

PAGE = 32 << 10
"""Larger than a page of memory, to be quicker."""
SECTOR = 512


class _File(NamedTuple):
    path: str
    size: int
    """Durable size in bytes."""
    pages: dict[int, bytes]
    """Number -> durable content, of the pages that were written since."""


class PowerCut(Files):
    """After the cut every call raises EIO.

    at, at_sync: number of the change, or sync, before which the cut comes; 0 = none. Before a sync most is at stake.
    all_is_lost: nothing survives that was not synced; else chance decides for each page.
    """

    def __init__(self, chance: random.Random, *, at: int = 0, at_sync: int = 0, all_is_lost: bool = False) -> None:
        self._at = at
        self._at_sync = at_sync
        self._chance = chance
        self._all_is_lost = all_is_lost
        self._lock = threading.Lock()
        self._files: dict[int, _File] = {}
        """By inode: the files with changes that are not durable."""
        self.changes = 0
        self.syncs = 0
        self.is_cut = False

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        with self._lock:
            self._tick()
            self._remember(fd, offset, len(data))
            return super().write(fd, data, offset)

    def resize(self, fd: int, size: int) -> None:
        with self._lock:
            self._tick()
            now = os.fstat(fd).st_size
            self._remember(fd, min(size, now), max(0, now - size))
            super().resize(fd, size)

    def sync(self, fd: int) -> None:
        with self._lock:
            self._tick(sync=True)
            self._files.pop(os.fstat(fd).st_ino, None)

    def sync_all(self, fd: int) -> None:
        with self._lock:
            self._tick(sync=True)
            self._files.clear()

    def _tick(self, *, sync: bool = False) -> None:
        self.changes += 1
        self.syncs += sync
        if self.changes == self._at or (sync and self.syncs == self._at_sync):
            self.is_cut = True
        if self.is_cut:
            raise OSError(errno.EIO, "the power is cut")

    def _remember(self, fd: int, offset: int, length: int) -> None:
        status = os.fstat(fd)
        path = str(Path(f"/proc/self/fd/{fd}").readlink())
        file = self._files.setdefault(status.st_ino, _File(path, status.st_size, {}))
        reader = os.open(path, os.O_RDONLY)
        try:
            for page in range(offset // PAGE, -(-(offset + length) // PAGE)):
                if page not in file.pages:
                    file.pages[page] = os.pread(reader, PAGE, page * PAGE)
        finally:
            os.close(reader)

    def lose(self) -> None:
        """Make the files what the disk holds after the cut. For when nobody writes any more."""
        for file in self._files.values():
            with Path(file.path).open("r+b") as now:
                size = os.fstat(now.fileno()).st_size
                for page, before in file.pages.items():
                    after = os.pread(now.fileno(), PAGE, page * PAGE)
                    os.pwrite(now.fileno(), self._survivor(before.ljust(PAGE, b"\0"), after), page * PAGE)
                sizes = [file.size] if self._all_is_lost else [file.size, size]
                now.truncate(self._chance.choice(sizes))
        self._files.clear()

    def _survivor(self, before: bytes, after: bytes) -> bytes:
        if self._all_is_lost:
            return before
        whole = self._chance.randrange(3)
        kept = (0, self._chance.randrange(PAGE // SECTOR) * SECTOR, PAGE)[whole]
        return after[:kept] + before[kept:]
