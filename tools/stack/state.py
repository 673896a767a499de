"""A stack's folder: claimed by a lock, and removed by the next stack if its own was killed.

A stack of a test run may hold gigabytes; a run that was killed cannot delete them, so the next run does. The process
that uses the stack holds the lock, and the kernel releases it however that process ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO

from tools.stack.processes import StackError

_PREFIX = "kube-cache-stack-"
_LOCK = "stack.lock"


class State:
    """The folder and its lock. path: emptied first, and kept; None for a temporary folder, removed at the end."""

    def __init__(self, path: Path | None = None) -> None:
        self._temporary = path is None
        if path is None:
            _sweep(Path(tempfile.gettempdir()))
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
            self._lock = _claim(self.path)
        else:
            self.path = path.resolve()
            if self.path.exists() and any(self.path.iterdir()) and not (self.path / _LOCK).exists():
                raise StackError(f"{self.path} is not empty and not a stack's folder: name another or empty it")
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _claim(self.path)
            _empty(self.path)

    def close(self) -> None:
        if self._temporary:
            shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _claim(path: Path) -> IO[bytes]:
    handle = (path / _LOCK).open("ab")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise StackError(f"another stack is running in {path}: stop it, or name another folder") from None
    return handle


def _empty(path: Path) -> None:
    for entry in path.iterdir():
        if entry.name == _LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _sweep(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        # A folder without a lock may be one that another stack creates at this moment.
        if not (folder / _LOCK).exists() or folder.stat().st_uid != os.getuid():
            continue
        try:
            handle = _claim(folder)
        except (StackError, OSError):
            continue
        with handle:
            shutil.rmtree(folder, ignore_errors=True)
