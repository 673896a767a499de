"""The system calls by which part files and journals change, and become durable.

The seam where tests cut the power: they substitute calls that forget what was not synced. So nothing here decides
anything, and `part_file` and `journal` change the bytes of a file in no other way. The store has a seam of its own.
"""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)


class Files:
    """Thread-safe. Every method raises OSError."""

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        """Write at `offset`. Returns the number of bytes written, perhaps fewer than all."""
        return os.pwrite(fd, data, offset)

    def resize(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Make the file's bytes, and its size, durable."""
        os.fdatasync(fd)

    def sync_all(self, fd: int) -> None:
        """Make every file of the descriptor's file system durable: one syncfs(2)."""
        if _libc.syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


FILES = Files()
"""What the process uses; looked up at each call, so that a test can put another in its place."""
