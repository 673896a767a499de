"""The file that an object is fetched into: sized first, written at final offsets, past the page cache where possible.

The page cache is the wall, not the network (109 against 15 Gb/s on a large node): O_DIRECT for whole 4 KiB blocks, a
second descriptor for the unaligned tail, and where O_DIRECT is refused, buffered writes that are pushed out behind the
writer so that dirty pages stay bounded.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from kube_cache.errors import DiskFault

BLOCK = 4096
# How much a buffered writer may leave dirty before it is written out.
_BEHIND = 64 << 20
_SYNC_FILE_RANGE_WRITE = 2

_libc = ctypes.CDLL(None, use_errno=True)
_REMEDY = {
    errno.ENOSPC: "make room, or lower what else uses this disk",
    errno.EDQUOT: "raise the quota of the cache directory",
    errno.EROFS: "remount the disk read-write; the kernel may have found it ill (dmesg)",
    errno.EIO: "the disk is failing: look at dmesg, drain the node",
    errno.EACCES: "give the agent's user write permission on the cache root",
    errno.EPERM: "give the agent's user write permission on the cache root",
}


def disk_fault(error: OSError, path: Path | str) -> DiskFault:
    """Names the path, the reason and the remedy."""
    code = error.errno or 0
    reason = f"{errno.errorcode.get(code, 'OSError')} ({os.strerror(code) if code else error})"
    return DiskFault(
        f"{path}: {reason}; {_REMEDY.get(code, 'look at the agent log and dmesg')}", path=str(path), errno=code
    )


class PartFile:
    """Thread-safe: all writes are positional. Raises DiskFault from every method."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self._direct = -1
        self._written_behind = 0
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                # The size first: a direct write that does not extend the file takes the inode's lock shared.
                if os.fstat(self._fd).st_size != size:
                    os.ftruncate(self._fd, size)
                if size >= BLOCK:
                    self._direct = _open_direct(path)
            except BaseException:
                os.close(self._fd)
                raise
        except OSError as error:
            raise disk_fault(error, path) from error

    @property
    def fd(self) -> int:
        return self._fd

    def write(self, view: memoryview, offset: int) -> None:
        """All of `view` at `offset`; direct where `view`, `offset` and the length allow it."""
        try:
            done = 0
            if self._direct >= 0 and offset % BLOCK == 0:
                whole = len(view) - len(view) % BLOCK
                while done < whole:
                    done += os.pwrite(self._direct, view[done:whole], offset + done)
            while done < len(view):
                done += os.pwrite(self._fd, view[done:], offset + done)
            if self._direct < 0:
                self._push_out(offset, len(view))
        except OSError as error:
            raise disk_fault(error, self.path) from error

    def _push_out(self, offset: int, length: int) -> None:
        self._written_behind += length
        if self._written_behind >= _BEHIND:
            self._written_behind = 0
            _libc.sync_file_range(
                self._fd, ctypes.c_int64(max(0, offset - _BEHIND)), ctypes.c_int64(_BEHIND), _SYNC_FILE_RANGE_WRITE
            )

    def sync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise disk_fault(error, self.path) from error

    def close(self) -> None:
        os.close(self._fd)
        if self._direct >= 0:
            os.close(self._direct)


def _open_direct(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EINVAL:  # tmpfs and some overlay and FUSE file systems refuse it
            return -1
        raise
