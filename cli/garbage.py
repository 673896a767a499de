"""Python's garbage and the C library's heaps, in a process that holds much and throws away small circles: the operator.

Imported modules stay for good, and the collector's repeated passes over them were a measurable part of a burst. So they
are set aside. Evicted workflows, which are circles, are taken apart elsewhere (`workflow_runner`); what else is one,
such as an error and the frames that it names, must not gather for hours. With the thresholds (20,000, 20, 100) the
oldest generation was not looked at before some 200,000 workflows had ended, gigabytes later.

What Python and Temporal's core free stays with the C library, which gives the system only what is free at the end of
a heap. It makes a heap for each of many threads, and after the first long list it puts lists into heaps, too. So there
are two heaps, long lists stay out of them, and what is free within them is given back now and then.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys

# A workflow makes some 200 objects, so these are at about 50, 500 and 1,000 workflows. The last pass takes 0.2 s.
_THRESHOLDS = (10_000, 10, 2)
# Parameters of glibc's mallopt, from malloc.h.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_HEAPS = 2
# Bytes from which on a block is mapped alone, and unmapped when it is freed. Setting it keeps it from growing.
_ALONE_FROM = 256 << 10
_GIVE_BACK_EVERY_S = 10.0


def tune() -> None:
    """To be called when everything is imported and made that stays."""
    gc.collect()
    gc.freeze()
    gc.collect()  # a full pass waits until a quarter more lives than after the last one, so that one must know of no module
    gc.set_threshold(*_THRESHOLDS)


def share_heaps() -> None:
    """To be called before threads are started. Does nothing where the C library is not glibc."""
    if (libc := _glibc()) is not None:
        libc.mallopt(_M_ARENA_MAX, _HEAPS)
        libc.mallopt(_M_MMAP_THRESHOLD, _ALONE_FROM)


async def keep_giving_back() -> None:
    """Give the system, again and again, what the C library holds and nobody uses. Only where that is glibc."""
    libc = _glibc()
    while True:
        await asyncio.sleep(_GIVE_BACK_EVERY_S)
        if libc is not None:
            await asyncio.to_thread(libc.malloc_trim, 0)  # some milliseconds, without the GIL


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None
