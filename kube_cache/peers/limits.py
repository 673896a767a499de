"""How much a node gives: bytes a second of all answers together, and how many answers at once."""

from __future__ import annotations

import threading
import time
from typing import Final

_BURST_S: Final = 0.05
"""Seconds of sending that may be made up for; less than a peer's patience by far."""
_MAX_PIECE: Final = 256 << 10
_MIN_PIECE: Final = 16 << 10
"""Bytes; the most that one record of TLS holds."""


class RateLimit:
    """One budget for all threads. Each reserves its turn and waits for it, so that all get their share in order."""

    def __init__(self, bytes_per_s: float) -> None:
        """bytes_per_s: 0 = no limit."""
        self._bytes_per_s = bytes_per_s
        self._lock = threading.Lock()
        self._free_at = 0.0
        # A hundredth of a second each, so that a slow link still sends to many at once.
        self.piece = max(_MIN_PIECE, min(_MAX_PIECE, int(bytes_per_s / 100))) if bytes_per_s else _MAX_PIECE
        """Bytes to send at once."""

    def reserve(self, count: int) -> float:
        """Reserve `count` bytes; return the seconds to wait before they are sent."""
        if not self._bytes_per_s:
            return 0.0
        with self._lock:
            now = time.monotonic()
            start = max(self._free_at, now - _BURST_S)
            self._free_at = start + count / self._bytes_per_s
            return max(0.0, start - now)


class Slots:
    """Places for answers that are sent at once, each with the buffer that its bytes go through. Thread-safe."""

    def __init__(self, count: int, buffer_bytes: int) -> None:
        self._lock = threading.Lock()
        self._buffer_bytes = buffer_bytes
        self._unused = count
        """Places that never had a buffer."""
        self._free: list[memoryview] = []

    def take(self) -> memoryview | None:
        """Return the buffer of a free place; None where there is none."""
        with self._lock:
            if self._free:
                return self._free.pop()
            if not self._unused:
                return None
            self._unused -= 1
        return memoryview(bytearray(self._buffer_bytes))

    def give_back(self, buffer: memoryview) -> None:
        with self._lock:
            self._free.append(buffer)
