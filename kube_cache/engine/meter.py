"""Counts bytes and their rate for people: the total never falls, and the rate is that of the last seconds."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Final

_WINDOW_S: Final = 5.0
"""A mean over the whole transfer would show for minutes what a stall of seconds cost."""
_MIN_SPAN_S: Final = 0.25
"""A rate over less would be that of one receive."""


class Meter:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: deque[tuple[float, int]] = deque()
        self._uncounted = 0
        """Bytes to come that the total holds already."""
        self.total = 0

    def add(self, count: int) -> None:
        with self._lock:
            now = time.monotonic()
            self._recent.append((now, count))
            while now - self._recent[0][0] > _WINDOW_S:
                self._recent.popleft()
            self._add_to_total(count)

    def resume(self, count: int) -> None:
        """Count bytes that an earlier call has fetched, in the total but not in the rate."""
        with self._lock:
            self._add_to_total(count)

    def refetch(self, count: int) -> None:
        """Leave the next `count` bytes out of the total, because they are fetched a second time."""
        with self._lock:
            self._uncounted += count

    def rate(self) -> float:
        """Return bytes per second over the last seconds; 0 when nothing came."""
        with self._lock:
            now = time.monotonic()
            recent = [(at, count) for at, count in self._recent if now - at <= _WINDOW_S]
            if not recent:
                return 0.0
            oldest, _ = recent[0]
            return sum(count for _, count in recent) / max(now - oldest, _MIN_SPAN_S)

    def _add_to_total(self, count: int) -> None:
        uncounted = min(self._uncounted, count)
        self._uncounted -= uncounted
        self.total += count - uncounted
