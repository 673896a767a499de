"""Computes the checksum of an object from the medium, past the page cache where the file system allows that.

A cached page would hide that the disk has lost its bytes, and a scrub must not evict the pages that Pods read.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable

from kube_cache.dataset.checksums import BASE
from kube_cache.store.beneath import StorePath
from kube_cache.store.disk import Disk

_PIECE = 4 << 20


def crc_of(disk: Disk, path: StorePath, beat: Callable[[int], object], *, inode: int) -> int:
    """Compute the CRC64NVME of the file. Raises OSError, FileNotFoundError also if the path leads to another inode.

    beat: called with the number of bytes after each piece; may raise, to stop.
    """
    fd = _open(disk, path)
    crc = 0
    try:
        found = os.fstat(fd)
        if found.st_ino != inode:
            raise FileNotFoundError(errno.ENOENT, "another file is there")
        size = found.st_size
        with mmap.mmap(-1, min(_PIECE, max(size, 1) + 4096)) as piece, memoryview(piece) as view:
            whole = len(view) // 4096 * 4096
            done = 0
            while done < size:
                with view[:whole] as window:
                    count = os.preadv(fd, [window], done)
                    if count <= 0:
                        break
                    with window[:count] as read:
                        crc = BASE.update(read, crc)
                done += count
                beat(count)
    except OSError as error:
        error.filename = error.filename or f"{disk.root.path}/{path}"
        raise
    finally:
        os.close(fd)
    return crc


def read_piece(disk: Disk, path: StorePath) -> None:
    """Read the beginning of a file from the medium, to see whether that can be done. Raises OSError."""
    fd = _open(disk, path)
    try:
        with mmap.mmap(-1, 4096) as page:
            os.preadv(fd, [page], 0)
    finally:
        os.close(fd)


def _open(disk: Disk, path: StorePath) -> int:
    try:
        return disk.open_to_read(path, os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the answer of tmpfs, and of some overlay and FUSE file systems, to O_DIRECT
            raise
        return disk.open_to_read(path)
