"""The engine's memory: one anonymous mapping, one page-aligned slot for each worker, taken for good and used again.

Memory is never given back and asked for anew while fetching, since a page's first touch costs more CPU than receiving into
it. Untouched slots cost nothing. With more connections each needs less: what matters is some 16 MiB in flight. Measured on two
cores and ext4, 8 connections: 2 MiB each is within noise of 4 MiB; 1 MiB costs a tenth more CPU on disk, 512 KiB a fifth.

While there are few, each slot is one huge page where the kernel has some: 3 to 16 % quicker, since a receive walks fewer page
tables and a direct write pins fewer pages.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import threading
from typing import Final

MIB: Final = 1 << 20
SLOT_BYTES: Final = 2 * MIB
_SMALL_SLOT_BYTES: Final = MIB
_MANY_CONNECTIONS: Final = 16


def buffer_size(connections: int) -> int:
    """Bytes that each of `connections` workers uses."""
    return SLOT_BYTES if connections < _MANY_CONNECTIONS else _SMALL_SLOT_BYTES


class Buffers:
    def __init__(self, slots: int) -> None:
        # Reserved, not touched; with room to begin at a huge page's boundary.
        self._map = mmap.mmap(-1, (slots + 1) * SLOT_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._begin = -ctypes.addressof(ctypes.c_char.from_buffer(self._map)) % SLOT_BYTES
        with contextlib.suppress(OSError):  # a kernel without huge pages
            self._map.madvise(mmap.MADV_HUGEPAGE, self._begin, min(slots, _MANY_CONNECTIONS - 1) * SLOT_BYTES)
        self._view = memoryview(self._map)[self._begin :]
        self._lock = threading.Lock()
        self._free = list(range(slots - 1, -1, -1))

    def acquire(self) -> tuple[int, memoryview]:
        """(slot, its SLOT_BYTES bytes)."""
        with self._lock:
            slot = self._free.pop()
        return slot, self._view[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES]

    def shrink(self, slot: int) -> None:
        """The worker uses only the smaller size from now on; the rest's pages go back to the system."""
        at = self._begin + slot * SLOT_BYTES
        with contextlib.suppress(OSError):  # a kernel without huge pages
            self._map.madvise(
                mmap.MADV_NOHUGEPAGE, at, SLOT_BYTES
            )  # or the first touch would bring the whole one again
        self._map.madvise(mmap.MADV_DONTNEED, at + _SMALL_SLOT_BYTES, SLOT_BYTES - _SMALL_SLOT_BYTES)

    def release(self, slot: int) -> None:
        self._map.madvise(mmap.MADV_DONTNEED, self._begin + slot * SLOT_BYTES, SLOT_BYTES)
        with self._lock:
            self._free.append(slot)

    def close(self) -> None:
        """After the workers' end. An error that somebody keeps may hold a piece; then the memory goes with that."""
        self._view.release()
        with contextlib.suppress(BufferError):
            self._map.close()
