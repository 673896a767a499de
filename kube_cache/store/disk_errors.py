"""What the disk or SQLite said, as a `DiskFault` that names the path, the reason and the remedy; it ends on the user's Pod."""

from __future__ import annotations

import errno
import functools
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, Protocol, TypeVar, cast

from kube_cache.errors import DiskFault, StoreConflict

_REMEDY: Final = {
    errno.ENOSPC: "the disk is full in spite of the reservation: something else writes to it; make room, or raise KUBE_CACHE_STORE__MIN_FREE",
    errno.EDQUOT: "raise the quota of the cache directory",
    errno.EROFS: "the file system is read-only, perhaps because the kernel found it ill (dmesg): remount it read-write",
    errno.EIO: "the disk is failing: look at dmesg and drain the node",
    errno.EACCES: "give the agent's user write permission on the cache root",
    errno.EPERM: "give the agent's user write permission on the cache root",
    errno.EMFILE: "raise the agent's limit of open files",
    errno.EMLINK: "an object has more links than the file system allows: evict old snapshots",
}
_SQLITE: Final = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_PERM: errno.EACCES,
}


def of_os(error: OSError, root: Path) -> DiskFault:
    """Inode exhaustion is told from a full disk, though both are ENOSPC."""
    code = error.errno or 0
    path = str(error.filename or root)
    name = f"{errno.errorcode.get(code, type(error).__name__)} ({os.strerror(code) if code else error})"
    remedy = _REMEDY.get(code, "look at the agent's log and dmesg")
    if code == errno.ENOSPC and _out_of_inodes(root):
        name = "ENOSPC (no inodes left)"
        remedy = "the file system has bytes but no inodes: remove small files, or make it anew with more inodes"
    return DiskFault(f"{path}: {name}; {remedy}", path=path, errno=code)


def of_sqlite(error: sqlite3.Error, root: Path) -> DiskFault | StoreConflict:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreConflict(f"{root}/index.sqlite: another process has held it for too long; it is tried again")
    if code == sqlite3.SQLITE_CANTOPEN and (reason := _why_closed(root)):
        return of_os(OSError(reason, str(error), str(root / "index.sqlite")), root)
    if code in _SQLITE:
        return of_os(OSError(_SQLITE[code], str(error), str(root / "index.sqlite")), root)
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


def _out_of_inodes(root: Path) -> bool:
    try:
        found = os.statvfs(root)
    except OSError:
        return False
    return found.f_files > 0 and found.f_favail == 0


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
            raise of_os(error, self.root) from error
        except sqlite3.Error as error:
            raise of_sqlite(error, self.root) from error

    return cast("Callable[Concatenate[_Self, _Args], _Result]", wrapper)
