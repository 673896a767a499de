"""What is read from mounted files, and read again when they change.

Kubernetes replaces the files of a mounted Secret under a running process, all at once, by one link; cert-manager and
people do so one by one. So a new set that does not fit together (a key of another certificate) is not taken, and the
old one stays until it does.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

T = TypeVar("T")
_log = structlog.get_logger("kube_cache.peers")
LOOK_S: Final = 1.0
"""The files are looked at no more often: a busy server asks with each connection."""

Stamp = tuple[tuple[int, int, int], ...]


class Reloaded(Generic[T]):
    """Thread-safe. load: reads the files and builds the value; raises OSError or ValueError."""

    def __init__(self, paths: Sequence[Path], load: Callable[[], T]) -> None:
        """Load once. Raises what `load` raises."""
        self._paths = paths
        self._load = load
        self._lock = threading.Lock()
        self._stamp = self._read_stamp()
        self._looked_at = time.monotonic()
        self._value = load()
        self.error = ""
        """Why the files that are there now are not used; empty while they are."""

    def get(self) -> T:
        """Return the value of the last files that could be loaded."""
        with self._lock:
            if time.monotonic() - self._looked_at >= LOOK_S:
                self._look()
            return self._value

    def _look(self) -> None:
        try:
            stamp = self._read_stamp()
            if stamp != self._stamp or self.error:
                self._value = self._load()
                self._stamp = stamp
                _log.info("read anew", files=[str(path) for path in self._paths])
            self.error = ""
        except (OSError, ValueError) as error:
            if str(error) != self.error:
                _log.warning(
                    "cannot use the new files; goes on with the old ones",
                    files=[str(path) for path in self._paths],
                    error=str(error),
                )
            self.error = str(error)
        self._looked_at = time.monotonic()

    def _read_stamp(self) -> Stamp:
        """Identify the files' contents as they are now. The stamp is taken before the files are read, never after."""
        return tuple((found.st_ino, found.st_size, found.st_mtime_ns) for found in map(os.stat, self._paths))


def put(path: Path, data: bytes) -> None:
    """Put a file in place at once, for us alone to read. Raises OSError."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    new.replace(path)
