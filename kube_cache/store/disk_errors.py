"""Translates what the disk or SQLite says to a method of the store; `kube_cache.disk_faults` has the remedies."""

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

_SQLITE: Final = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_PERM: errno.EACCES,
}


def of_sqlite(error: sqlite3.Error, root: Path) -> DiskFault | StoreConflict:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreConflict(f"{root}/index.sqlite: another process has held it for too long; it is tried again")
    if code == sqlite3.SQLITE_CANTOPEN and (reason := _why_closed(root)):
        return disk_fault(OSError(reason, str(error), str(root / "index.sqlite")), root)
    if code in _SQLITE:
        return disk_fault(OSError(_SQLITE[code], str(error), str(root / "index.sqlite")), root)
    return DiskFault(
        f"{root}/index.sqlite: {error}; remove it and restart the agent: it is rebuilt from the directories",
        path=str(root / "index.sqlite"),
    )


def _why_closed(root: Path) -> int:
    """SQLite does not tell why it cannot open a file."""
    try:
        if os.statvfs(root).f_flag & os.ST_RDONLY:
            return errno.EROFS
    except OSError as error:
        return error.errno or errno.EIO
    return 0 if os.access(root, os.W_OK) else errno.EACCES


def is_damage(error: sqlite3.Error) -> bool:
    """The file is no database any more; anything else may pass."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class _Rooted(Protocol):
    @property
    def root(self) -> Path: ...


_Self = TypeVar("_Self", bound=_Rooted)
_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


def translated(
    method: Callable[Concatenate[_Self, _Args], _Result],
) -> Callable[Concatenate[_Self, _Args], _Result]:
    """For the public methods of what has a `root`."""

    @functools.wraps(method)
    def wrapper(self: _Self, *args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        try:
            return method(self, *args, **kwargs)
        except OSError as error:
            raise disk_fault(error, self.root) from error
        except sqlite3.Error as error:
            raise of_sqlite(error, self.root) from error

    return cast("Callable[Concatenate[_Self, _Args], _Result]", wrapper)
