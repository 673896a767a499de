"""Turns errors of the disk and of SQLite into the project's own, at the public methods of the store.

SQLite's codes are mapped to errnos here; reasons and remedies are those of `kube_cache.disk_faults`.
"""

from __future__ import annotations

import errno
import functools
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, Protocol, TypeVar, cast

from kube_cache.disk_faults import disk_fault
from kube_cache.errors import DiskFault, StoreConflict

_ERRNO_OF_SQLITE: Final = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_PERM: errno.EACCES,
}


def sqlite_fault(error: sqlite3.Error, root: Path) -> DiskFault | StoreConflict:
    """Build the project's error for one of SQLite: a fault of the disk, a lock held by others, or a broken index."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreConflict(f"{root}/index.sqlite: another process has held it for too long; it is tried again")
    if code == sqlite3.SQLITE_CANTOPEN and (errno_ := _errno_of_open(root)):
        return disk_fault(OSError(errno_, str(error), str(root / "index.sqlite")), root)
    if code in _ERRNO_OF_SQLITE:
        return disk_fault(OSError(_ERRNO_OF_SQLITE[code], str(error), str(root / "index.sqlite")), root)
    return DiskFault(
        f"{root}/index.sqlite: {error}; remove it and restart the agent: it is rebuilt from the directories",
        path=str(root / "index.sqlite"),
    )


def _errno_of_open(root: Path) -> int:
    """Find the errno that SQLite does not give when it cannot open a file; 0 if nothing explains it."""
    try:
        if os.statvfs(root).f_flag & os.ST_RDONLY:
            return errno.EROFS
    except OSError as error:
        return error.errno or errno.EIO
    return 0 if os.access(root, os.W_OK) else errno.EACCES


def is_useless(error: sqlite3.Error) -> bool:
    """Check whether the file is no database any more, or has no tables that we understand. Other errors may pass."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}


class _Rooted(Protocol):
    @property
    def root(self) -> Path: ...


_Self = TypeVar("_Self", bound=_Rooted)
_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


def as_disk_faults(
    method: Callable[Concatenate[_Self, _Args], _Result],
) -> Callable[Concatenate[_Self, _Args], _Result]:
    """Decorate a method of an object with a `root`: OSError and sqlite3.Error become DiskFault or StoreConflict."""

    @functools.wraps(method)
    def wrapper(self: _Self, *args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        try:
            return method(self, *args, **kwargs)
        except OSError as error:
            raise disk_fault(error, self.root) from error
        except sqlite3.Error as error:
            raise sqlite_fault(error, self.root) from error

    return cast("Callable[Concatenate[_Self, _Args], _Result]", wrapper)
