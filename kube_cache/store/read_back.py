"""Computes the checksum of an object from the medium, past the page cache where the file system allows that.

A cached page would hide that the disk has lost its bytes, and a scrub must not evict the pages that Pods read.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path

from kube_cache.dataset.checksums import UPDATE, Algorithm

_PIECE = 4 << 20
_crc64 = UPDATE[Algorithm.CRC64NVME]


def crc_of(path: Path | str, beat: Callable[[int], object]) -> int:
    """Compute the CRC64NVME of the file. Raises OSError.

    beat: called with the number of bytes after each piece; may raise, to stop.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the answer of tmpfs, and of some overlay and FUSE file systems, to O_DIRECT
            raise
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    crc = 0
    try:
        size = os.fstat(fd).st_size
        with mmap.mmap(-1, min(_PIECE, max(size, 1) + 4096)) as piece, memoryview(piece) as view:
            whole = len(view) // 4096 * 4096
            done = 0
            while done < size:
                with view[:whole] as window:
                    count = os.preadv(fd, [window], done)
                    if count <= 0:
                        break
                    with window[:count] as read:
                        crc = _crc64(read, crc)
                done += count
                beat(count)
    finally:
        os.close(fd)
    return crc
