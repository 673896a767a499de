"""Counting bytes: how fast they come, and how fast they may."""

from __future__ import annotations

import threading
import time
from collections import deque

# The rate that people see is of the last few seconds: of the whole transfer it would lie after a stall.
_WINDOW_S = 5.0
_BURST_S = 0.25


class Meter:
    """Bytes so far and per second. `total` never falls: bytes that must be fetched again are not counted twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: deque[tuple[float, int]] = deque()
        self._owed = 0
        self.total = 0

    def add(self, count: int) -> None:
        with self._lock:
            now = time.monotonic()
            self._recent.append((now, count))
            while now - self._recent[0][0] > _WINDOW_S:
                self._recent.popleft()
            repaid = min(self._owed, count)
            self._owed -= repaid
            self.total += count - repaid

    def take_back(self, count: int) -> None:
        """These bytes are fetched again: do not count them a second time."""
        with self._lock:
            self._owed += count

    def rate(self) -> float:
        with self._lock:
            now = time.monotonic()
            recent = [(when, count) for when, count in self._recent if now - when <= _WINDOW_S]
            if not recent:
                return 0.0
            return sum(count for _, count in recent) / max(now - recent[0][0], _BURST_S)


class Bucket:
    """A token bucket for the whole node. rate 0: no limit."""

    def __init__(self, bytes_per_s: int) -> None:
        self._rate = bytes_per_s
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    def take(self, count: int) -> float:
        """Seconds that the caller should wait after these bytes."""
        if not self._rate:
            return 0.0
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - _BURST_S) + count / self._rate
            return max(0.0, self._free_at - now)
