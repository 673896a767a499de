"""What a receive is, whoever does it: bytes into a buffer, and the CRCs continued over them.

Plain sockets and native TLS do a whole buffer in one call in C (`_receive.h`). Where neither is at hand (Python's `ssl`, a body
of botocore's) `in_python` does one piece, with the same answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from kube_cache.dataset.checksums import UPDATE, Algorithm

_crc64 = UPDATE[Algorithm.CRC64NVME]
_crc32c = UPDATE[Algorithm.CRC32C]


class Received(NamedTuple):
    """`length` bytes; both CRCs over them and all before them; seconds. The native calls answer with a plain tuple of these."""

    length: int
    crc64: int
    crc32c: int
    """As it was given, where it is not asked for."""
    receive_s: float
    verify_s: float
    receive_cpu_s: float
    """CPU of receiving: the kernel's copy, and with TLS decryption, which is far more of it."""


def in_python(
    receive: Callable[[memoryview], int], view: memoryview, crc64: int, crc32c: int, *, with_crc32c: bool
) -> Received:
    """One call of `receive`, whose errors pass."""
    cpu, start = time.thread_time(), time.perf_counter()
    length = receive(view)
    middle = time.perf_counter()
    worked = time.thread_time() - cpu
    crc64 = _crc64(view[:length], crc64)
    if with_crc32c:
        crc32c = _crc32c(view[:length], crc32c)
    return Received(length, crc64, crc32c, middle - start, time.perf_counter() - middle, worked)
