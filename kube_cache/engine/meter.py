"""How many bytes have come, and how fast, as people see it."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Final

_WINDOW_S: Final = 5.0  # of the whole transfer it would lie after a stall
_MIN_SPAN_S: Final = 0.25


class Meter:
    """`total` never falls: bytes that must be fetched again are not counted twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: deque[tuple[float, int]] = deque()
        self._refetched_bytes = 0
        self.total = 0

    def add(self, count: int) -> None:
        with self._lock:
            now = time.monotonic()
            self._recent.append((now, count))
            while now - self._recent[0][0] > _WINDOW_S:
                self._recent.popleft()
            self._count(count)

    def resume(self, count: int) -> None:
        """Count bytes that an earlier call has fetched; they are in the total, not in the rate."""
        with self._lock:
            self._count(count)

    def refetch(self, count: int) -> None:
        """These bytes are fetched again: do not count them a second time."""
        with self._lock:
            self._refetched_bytes += count

    def rate(self) -> float:
        with self._lock:
            now = time.monotonic()
            recent = [(when, count) for when, count in self._recent if now - when <= _WINDOW_S]
            if not recent:
                return 0.0
            return sum(count for _, count in recent) / max(now - recent[0][0], _MIN_SPAN_S)

    def _count(self, count: int) -> None:
        repaid = min(self._refetched_bytes, count)
        self._refetched_bytes -= repaid
        self.total += count - repaid
