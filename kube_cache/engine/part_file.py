"""The file that an object is fetched into: sized first, written at final offsets, past the page cache where possible.

The page cache is the bottleneck, not the network (15 against 109 Gb/s on a large node). So whole blocks of 4 KiB are
written with O_DIRECT, and unaligned ends through a second descriptor. Where O_DIRECT is refused, buffered writes are
written back and dropped behind the writer, so that dirty pages stay bounded.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import threading
from collections import deque
from pathlib import Path
from typing import Final, NamedTuple

from kube_cache.disk_faults import disk_fault
from kube_cache.engine import files

BLOCK: Final = 4096
"""Alignment of O_DIRECT in bytes, for offset, length and memory; enough for every disk."""
_MAX_DIRTY_BYTES: Final = 64 << 20
"""A buffered writer may leave this much dirty before it waits for the oldest of it."""
_PREALLOCATE_BYTES: Final = 256 << 20
"""Blocks are allocated this far ahead of direct writes.

Into a hole, ext4 lets one writer at a time: of eight, the others spin on the inode's lock for a fifth of the CPU. Into
allocated blocks all write at once. The rest of the file waits, because an abandoned file keeps its blocks a day.
"""
_MIN_PREALLOCATED_BYTES: Final = 8 << 20
"""Smaller files are written by one worker."""
_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4  # flags of sync_file_range(2)

_libc = ctypes.CDLL(None, use_errno=True)


class _Extent(NamedTuple):
    offset: int
    length: int


class PartFile:
    """Writes are positional and may come from many threads. Opening, writing and syncing raise DiskFault."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self._lock = threading.Lock()
        self._buffered = -1
        """Descriptor for unaligned writes; -1 until there is one."""
        self._dirty: deque[_Extent] = deque()
        self._dirty_bytes = 0
        self._allocated = 0
        """Offset up to which blocks are allocated, if they are allocated ahead of writes."""
        try:
            self._fd, self._direct = _open(path, direct=size >= BLOCK)
            try:
                status = os.fstat(self._fd)
                self.inode = status.st_ino
                self.was_sized = status.st_size == size
                """False: the file is new or another one, so that a journal's claims about it are void."""
                # The size comes first: a direct write that does not extend the file takes the inode's lock shared.
                if not self.was_sized:
                    files.FILES.resize(self._fd, size)
                self._preallocates = self._direct and size > _MIN_PREALLOCATED_BYTES
            except BaseException:
                os.close(self._fd)
                raise
        except OSError as error:
            raise disk_fault(error, path) from error

    @property
    def fd(self) -> int:
        return self._fd

    def write(self, view: memoryview, offset: int) -> None:
        """Write all of `view` at `offset`.

        Whole blocks go past the page cache, provided that `view` begins at a page's address plus `offset % BLOCK`.
        """
        try:
            if not self._direct:
                _pwrite(self._fd, view, offset)
                if self.size > _MAX_DIRTY_BYTES // 8:  # smaller files are synced together soon
                    self._write_back(_Extent(offset, len(view)))
                return
            if self._preallocates and offset + len(view) > self._allocated:
                self._preallocate(offset + len(view))
            first = min(-offset % BLOCK, len(view))
            last = first + (len(view) - first) // BLOCK * BLOCK
            if first:
                _pwrite(self._unaligned(), view[:first], offset)
            if first < last:
                self._write_blocks(view[first:last], offset + first)
            if last < len(view):
                _pwrite(self._unaligned(), view[last:], offset + last)
        except OSError as error:
            raise disk_fault(error, self.path) from error

    def _write_blocks(self, view: memoryview, offset: int) -> None:
        """Write whole blocks past the page cache, or through it once the file system has refused that."""
        try:
            _pwrite(self._fd, view, offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._leave_direct()
            _pwrite(self._fd, view, offset)

    def _leave_direct(self) -> None:
        """Use the page cache from now on.

        Disks with larger blocks and some FUSE file systems answer EINVAL to the first transfer and not to the open.
        """
        self._direct = self._preallocates = False
        fcntl.fcntl(self._fd, fcntl.F_SETFL, fcntl.fcntl(self._fd, fcntl.F_GETFL) & ~os.O_DIRECT)

    def read(self, buffer: memoryview, offset: int, length: int) -> memoryview:
        """Read up to `length` bytes at `offset` from the disk, not from the page cache; return their place in `buffer`.

        buffer: begins at a page's address, and has more bytes than a block. The next read at the end of this one is
        aligned. Raises DiskFault, also at the file's end.
        """
        direct = self._direct
        try:
            try:
                return self._read(buffer, offset, length)
            except OSError as error:
                if error.errno != errno.EINVAL or not direct:
                    raise
                self._leave_direct()
                return self._read(buffer, offset, length)
        except OSError as error:
            raise disk_fault(error, self.path) from error

    def _read(self, buffer: memoryview, offset: int, length: int) -> memoryview:
        shift = offset % BLOCK if self._direct else 0
        wanted = min(len(buffer), shift + length)
        if self._direct:
            wanted = min(len(buffer), -(-wanted // BLOCK) * BLOCK)
        else:
            os.fdatasync(self._fd)  # only clean pages can be dropped
            os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_DONTNEED)
        count = os.preadv(self._fd, [buffer[:wanted]], offset - shift)
        if count <= shift:
            raise OSError(errno.EIO, "the file ends too early")  # somebody has cut it
        return buffer[shift : min(count, shift + length)]

    def sync(self) -> None:
        """Make the written bytes durable (fdatasync)."""
        try:
            files.FILES.sync(self._fd)
        except OSError as error:
            raise disk_fault(error, self.path) from error

    def close(self) -> None:
        for fd in (self._fd, self._buffered):
            if fd >= 0:
                with contextlib.suppress(OSError):  # durable data was synced before, and its errors were raised there
                    os.close(fd)
        self._fd = self._buffered = -1

    def preallocated_bytes(self, written_bytes: int) -> int:
        """Return the bytes of allocated blocks beyond the written ones."""
        return max(0, self._allocated - written_bytes)

    def _preallocate(self, end: int) -> None:
        with self._lock:
            if end <= self._allocated:
                return
            target = min(self.size, max(end, self._allocated + _PREALLOCATE_BYTES))
            start, length = ctypes.c_int64(self._allocated), ctypes.c_int64(target - self._allocated)
            if _libc.fallocate(self._fd, 0, start, length) == 0:
                self._allocated = target
                return
            code = ctypes.get_errno()
            if code in {errno.EOPNOTSUPP, errno.ENOSYS}:
                self._preallocates = False  # the file system has holes only
            elif code != errno.EINTR:  # after EINTR the next write asks again
                raise OSError(code, os.strerror(code))

    def _unaligned(self) -> int:
        """Return the buffered descriptor, opened on first use."""
        with self._lock:
            if self._buffered < 0:
                self._buffered = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            return self._buffered

    def _write_back(self, written: _Extent) -> None:
        """Start writing an extent to the disk; wait for those of 64 MiB before, and drop them from the page cache."""
        _sync_range(self._fd, written, _WRITE)
        oldest: list[_Extent] = []
        with self._lock:
            self._dirty.append(written)
            self._dirty_bytes += written.length
            while self._dirty_bytes > _MAX_DIRTY_BYTES:
                extent = self._dirty.popleft()
                self._dirty_bytes -= extent.length
                oldest.append(extent)
        for extent in oldest:
            _sync_range(self._fd, extent, _WAIT_BEFORE | _WRITE | _WAIT_AFTER)
            os.posix_fadvise(self._fd, extent.offset, extent.length, os.POSIX_FADV_DONTNEED)


def sync_filesystem(folder: Path) -> None:
    """Make all files of the folder's file system durable by one syncfs(2). Raises DiskFault.

    Cheaper than an fdatasync for each of many small files.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            files.FILES.sync_all(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise disk_fault(error, folder) from error


def _pwrite(fd: int, view: memoryview, offset: int) -> None:
    written = 0
    while written < len(view):
        written += files.FILES.write(fd, view[written:], offset + written)


def _sync_range(fd: int, extent: _Extent, flags: int) -> None:
    # The result is ignored: fdatasync meets an error of the disk again and reports it.
    _libc.sync_file_range(fd, ctypes.c_int64(extent.offset), ctypes.c_int64(extent.length), flags)


def _open(path: Path, *, direct: bool) -> tuple[int, bool]:
    """Open or create the file; return the descriptor and True if it writes past the page cache."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    if direct:
        try:
            return os.open(path, flags | os.O_DIRECT, 0o600), True
        except OSError as error:
            if error.errno != errno.EINVAL:  # tmpfs and some overlay and FUSE file systems refuse O_DIRECT so
                raise
    return os.open(path, flags, 0o600), False
