"""The result of one receive: bytes in a buffer, and the CRCs continued over them.

Plain sockets and native TLS fill a whole buffer in one call in C (`_receive.h`). For Python's `ssl` and for botocore's
bodies `receive_in_python` receives one piece, with the same result.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from kube_cache.dataset.checksums import BASE, PROOFS, Algorithm

FUSED_AUX: Final = PROOFS[Algorithm.CRC32C]
"""The proof that C computes beside `BASE` while it receives; a worker computes any other one of each piece."""
_crc64 = BASE.update
_crc32c = FUSED_AUX.update


class Received(NamedTuple):
    """Length in bytes, CRCs over these and all earlier bytes, and seconds. C returns these fields as a plain tuple."""

    length: int
    crc64: int
    crc32c: int
    """The given value where a CRC32C is not wanted."""
    receive_s: float
    verify_s: float
    receive_cpu_s: float
    """CPU time of receiving: the kernel's copy, and with TLS the decryption, which takes most of it."""


def receive_in_python(
    receive: Callable[[memoryview], int], view: memoryview, crc64: int, crc32c: int, *, with_crc32c: bool
) -> Received:
    """Call `receive` once and continue the CRCs. Raises what `receive` raises."""
    cpu, start = time.thread_time(), time.perf_counter()
    length = receive(view)
    received = time.perf_counter()
    receive_cpu_s = time.thread_time() - cpu
    crc64 = _crc64(view[:length], crc64)
    if with_crc32c:
        crc32c = _crc32c(view[:length], crc32c)
    return Received(length, crc64, crc32c, received - start, time.perf_counter() - received, receive_cpu_s)
