"""Opens what lies beneath the cache root: no path leads out of the root, and no symbolic link is followed on the way.

A container that mounts its snapshot writably can swap a folder for a link at any moment, also between two system calls
of ours. So a path is resolved in one call, openat2(2), and what follows works on the open folder. Where the kernel
(before 5.6) or a seccomp profile refuses openat2, each folder of the path is opened by itself, without following links.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Self

StorePath = PurePosixPath | str
"""A path relative to the cache root."""

FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
"""Flags to open a folder in which names are looked up. Needs no permission to list the folder."""
_OPENAT2 = 437  # the number of the system call, the same on every architecture
_RESOLVE = 0x08 | 0x04 | 0x01  # RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV
_NOT_BENEATH = {errno.ELOOP, errno.EXDEV, errno.ENOTDIR, errno.ENAMETOOLONG}
_REFUSED = {errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG}
_CURRENT_FOLDER = -100  # AT_FDCWD
_MAX_TRIES = 100  # of a resolution that the kernel gave up because folders were renamed meanwhile
_NO_NAMES = {"", ".", ".."}
_MAX_KEPT = 400  # more than the 256 shards of the objects; far fewer than a process may open

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _openat2(folder: int, path: str, flags: int) -> int:
    how = _OpenHow(flags, 0, _RESOLVE)
    for _ in range(_MAX_TRIES):
        fd: int = _libc.syscall(_OPENAT2, folder, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0:
            return fd
        if (code := ctypes.get_errno()) not in {errno.EAGAIN, errno.EINTR}:
            break
    raise OSError(code, os.strerror(code), path)


def _open_each(folder: int, path: str, flags: int) -> int:
    """Do as `_openat2`, one component at a time."""
    *folders, name = path.split("/")
    if path.startswith("/") or ".." in {*folders, name}:
        raise OSError(errno.EXDEV, "a path that leads up is not beneath a folder", path)
    fd = folder
    try:
        for each, opened in [*((each, FOLDER) for each in folders), (name, flags)]:
            above, fd = fd, os.open(each or ".", opened | os.O_NOFOLLOW, dir_fd=fd)
            if above != folder:
                os.close(above)
    except BaseException:
        if fd != folder:
            os.close(fd)
        raise
    return fd


def has_openat2() -> bool:
    """Ask the kernel."""
    try:
        os.close(_openat2(_CURRENT_FOLDER, ".", FOLDER))
    except OSError as error:
        return error.errno not in _REFUSED
    return True


USES_OPENAT2 = has_openat2()


def open_beneath(folder: int, path: str, flags: int = FOLDER) -> int:
    """Open what the path leads to beneath the folder; the last name is not followed either.

    Raises FileNotFoundError also where a link, a mount or a file is in the way: there is no such path beneath.
    """
    resolve: Callable[[int, str, int], int] = _openat2 if USES_OPENAT2 else _open_each
    try:
        return resolve(folder, path, flags | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NOT_BENEATH:
            raise FileNotFoundError(errno.ENOENT, "nothing is there, or a link is in the way", path) from error
        raise


class Root:
    """The open root folder; closed when the last user lets it go, so that its number never names another folder."""

    def __init__(self, path: str) -> None:
        self.fd = -1
        self.path = path
        self.fd = os.open(path, FOLDER)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def is_at_its_path(self) -> bool:
        """Check that no other folder has taken the root's path since it was opened."""
        here = os.fstat(self.fd)
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return False
        return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


class KeptFolders:
    """Folders beneath a folder, each open by its path until the outermost `with` block ends; for one thread.

    Closes the one that was opened first when they are too many. An OSError that leaves a block gets the whole path
    of the last name that was found.
    """

    def __init__(self, folder: int, root: Root | None = None) -> None:
        self._folder = folder
        self._root = root  # held, so that its descriptor stays what it is
        self._fds: dict[str, int] = {}
        self._dropped = -1
        """Taken out last; closed later, because a call with two paths may be about to use it."""
        self._last = ""
        self._depth = 0

    def find(self, path: StorePath) -> tuple[int, str]:
        """Return the open folder of the path, which the caller does not close, and the last name of the path."""
        self._last = path = str(path)
        folder, slash, name = path.rpartition("/")
        if name in _NO_NAMES or (slash and not folder):
            raise OSError(errno.EXDEV, "this path does not lead to a name beneath the root", path)
        fd = self._fds.get(folder)
        return (self._open(folder) if fd is None else fd), name

    def _open(self, folder: str) -> int:
        if not folder:
            return self._folder
        fd = open_beneath(self._folder, folder)
        if len(self._fds) >= _MAX_KEPT:
            if self._dropped >= 0:
                os.close(self._dropped)
            self._dropped = self._fds.pop(next(iter(self._fds)))
        self._fds[folder] = fd
        return fd

    def forget(self, path: StorePath) -> None:
        """Close the folder and those below it, because the path leads elsewhere now."""
        path, below = str(path), f"{path}/"
        for kept in [kept for kept in self._fds if kept == path or kept.startswith(below)]:
            os.close(self._fds.pop(kept))

    def __enter__(self) -> Self:
        self._depth += 1
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self._depth -= 1
        if not self._depth:
            while self._fds:
                os.close(self._fds.popitem()[1])
            if self._dropped >= 0:
                os.close(self._dropped)
                self._dropped = -1
        if self._root and isinstance(error, OSError) and not str(error.filename).startswith("/"):
            error.filename = f"{self._root.path}/{self._last}"
