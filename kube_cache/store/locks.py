"""`ProcessLock`: a lock between threads and processes, which the kernel drops when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator

from kube_cache.errors import StoreConflict
from kube_cache.store.beneath import StorePath
from kube_cache.store.disk import Disk

POLL_S = 0.05
_TIMEOUT_S = 60.0


class ProcessLock:
    """flock(2) on a file, and between the threads of this process an RLock. Reentrant."""

    def __init__(self, disk: Disk, path: StorePath) -> None:
        self._disk = disk
        self._path = path
        self._threads = threading.RLock()
        self._depth = 0
        self._holder = ""
        """Name of the thread of this process that holds the lock, or held it last."""

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock. Raises StoreConflict when another thread or process has held it for a minute."""
        deadline = time.monotonic() + _TIMEOUT_S
        if not self._threads.acquire(timeout=_TIMEOUT_S):
            raise StoreConflict(
                f"thread {self._holder} of this agent has held {self._path} for more than {_TIMEOUT_S:.0f} s;"
                " it is tried again"
            )
        try:
            if self._depth:
                yield
                return
            self._holder = threading.current_thread().name
            fd = self._disk.open_lock(self._path)
            try:
                while not try_lock(fd):
                    if time.monotonic() > deadline:
                        raise StoreConflict(
                            f"another process has held {self._path} for {_TIMEOUT_S:.0f} s; it is tried again"
                        )
                    time.sleep(POLL_S)
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1
            finally:
                os.close(fd)
        finally:
            self._threads.release()


def try_lock(fd: int, operation: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
