"""The file that an object is fetched into: sized first, written at final offsets, past the page cache where possible.

The page cache is the wall, not the network (15 against 109 Gb/s on a large node): O_DIRECT for whole 4 KiB blocks, a second
descriptor for what is not aligned, and where O_DIRECT is refused, buffered writes that are pushed out and dropped behind
the writer so that dirty pages stay bounded.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import threading
from collections import deque
from pathlib import Path

from kube_cache.disk_faults import disk_fault

BLOCK = 4096
# How much a buffered writer may leave dirty before it waits for the oldest of it.
_MAX_DIRTY_BYTES = 64 << 20
# Blocks are allocated this far ahead of direct writes. Into a hole, ext4 lets one writer at a time (the others spin on the inode's
# lock: a fifth of the CPU with eight); into allocated blocks, all at once. Not the whole file, since what is given up keeps
# its blocks for a day.
_PREALLOCATE_BYTES = 256 << 20
_MIN_PREALLOCATED_BYTES = 8 << 20  # less is one write
_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4  # sync_file_range(2)

_libc = ctypes.CDLL(None, use_errno=True)


class PartFile:
    """Writes are positional and may come from many threads. Every method raises DiskFault."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self._lock = threading.Lock()
        self._buffered = -1
        self._dirty: deque[tuple[int, int]] = deque()
        self._dirty_bytes = 0
        self._allocated = 0
        """Blocks are there up to this offset, where they are allocated ahead."""
        try:
            self._fd, self._direct = _open(path, direct=size >= BLOCK)
            try:
                found = os.fstat(self._fd)
                self.inode = found.st_ino
                self.was_sized = found.st_size == size
                """False: what a journal says about this file cannot be true."""
                # The size first: a direct write that does not extend the file takes the inode's lock shared.
                if not self.was_sized:
                    os.ftruncate(self._fd, size)
                self._allocates = self._direct and size > _MIN_PREALLOCATED_BYTES
            except BaseException:
                os.close(self._fd)
                raise
        except OSError as error:
            raise disk_fault(error, path) from error

    @property
    def fd(self) -> int:
        return self._fd

    def write(self, view: memoryview, offset: int) -> None:
        """All of `view` at `offset`. Direct are the whole blocks, if `view` is at a page plus `offset % BLOCK`."""
        try:
            if not self._direct:
                _pwrite(self._fd, view, offset)
                if self.size > _MAX_DIRTY_BYTES // 8:  # the small ones are synced together soon
                    self._push_out(offset, len(view))
                return
            if self._allocates and offset + len(view) > self._allocated:
                self._allocate(offset + len(view))
            first = min(-offset % BLOCK, len(view))
            last = first + (len(view) - first) // BLOCK * BLOCK
            if first:
                _pwrite(self._unaligned(), view[:first], offset)
            if first < last:
                _pwrite(self._fd, view[first:last], offset + first)
            if last < len(view):
                _pwrite(self._unaligned(), view[last:], offset + last)
        except OSError as error:
            raise disk_fault(error, self.path) from error

    def sync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise disk_fault(error, self.path) from error

    def close(self) -> None:
        for fd in (self._fd, self._buffered):
            if fd >= 0:
                with contextlib.suppress(OSError):  # what matters was synced, and said so, before
                    os.close(fd)
        self._fd = self._buffered = -1

    def preallocated_bytes(self, written: int) -> int:
        """Bytes that blocks were allocated for, beyond the `written` ones."""
        return max(0, self._allocated - written)

    def _allocate(self, end: int) -> None:
        with self._lock:
            if end <= self._allocated:
                return
            upto = min(self.size, max(end, self._allocated + _PREALLOCATE_BYTES))
            start, length = ctypes.c_int64(self._allocated), ctypes.c_int64(upto - self._allocated)
            if _libc.fallocate(self._fd, 0, start, length) == 0:
                self._allocated = upto
                return
            code = ctypes.get_errno()
            if code in {errno.EOPNOTSUPP, errno.ENOSYS}:
                self._allocates = False  # this file system only knows holes
            elif code != errno.EINTR:  # after which the next write asks again
                raise OSError(code, os.strerror(code))

    def _unaligned(self) -> int:
        with self._lock:
            if self._buffered < 0:
                self._buffered = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            return self._buffered

    def _push_out(self, offset: int, length: int) -> None:
        """Begin writing this piece out; wait for, and drop from the cache, what came 64 MiB earlier."""
        _sync_range(self._fd, offset, length, _WRITE)
        done: list[tuple[int, int]] = []
        with self._lock:
            self._dirty.append((offset, length))
            self._dirty_bytes += length
            while self._dirty_bytes > _MAX_DIRTY_BYTES:
                done.append(self._dirty.popleft())
                self._dirty_bytes -= done[-1][1]
        for start, count in done:
            _sync_range(self._fd, start, count, _WAIT_BEFORE | _WRITE | _WAIT_AFTER)
            os.posix_fadvise(self._fd, start, count, os.POSIX_FADV_DONTNEED)


def sync_filesystem(folder: Path) -> None:
    """One syncfs(2) for all files below, cheaper than an fdatasync for each of many small ones. Raises DiskFault."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _libc.syncfs(fd) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(fd)
    except OSError as error:
        raise disk_fault(error, folder) from error


def sync_file(path: Path) -> None:
    """Raises DiskFault."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise disk_fault(error, path) from error


def _pwrite(fd: int, view: memoryview, offset: int) -> None:
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)


def _sync_range(fd: int, offset: int, length: int, flags: int) -> None:
    # Only a hint: an error of the disk is met again, and reported, by fdatasync.
    _libc.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(length), flags)


def _open(path: Path, *, direct: bool) -> tuple[int, bool]:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    if direct:
        try:
            return os.open(path, flags | os.O_DIRECT, 0o600), True
        except OSError as error:
            if error.errno != errno.EINVAL:  # what tmpfs and some overlay and FUSE file systems say to O_DIRECT
                raise
    return os.open(path, flags, 0o600), False
