"""Two brakes for the whole node: how often it may ask while a store says "slow down", and how many bytes it may take.

One bucket for everybody, because a store throttles a prefix or a client, not a connection: if each connection backed off
for itself, the sum would stay what the store has just refused.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

_CUT_EVERY_S: Final = 1.0  # a storm of refusals within one second is one refusal
_RECOVER_PER_S: Final = 1.05
_MIN_PER_S: Final = 1.0
MIN_BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 20.0
_BURST_S: Final = 0.25


class RequestLimiter:
    """Requests per second. No limit until a store throttles; then half of what was asked, and 5 % more each second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._recent: deque[float] = deque(maxlen=4096)
        self._rate = 0.0  # 0: no limit
        self._before = 0.0
        self._cut_at = 0.0
        self._next = 0.0
        self._closed_until = 0.0

    @property
    def throttled(self) -> bool:
        with self._lock:
            return self._limit(self._clock()) > 0

    def reserve(self) -> float:
        """Seconds to wait before the request that the caller is about to send; it is counted now."""
        with self._lock:
            now = self._clock()
            limit = self._limit(now)
            self._next = max(self._next, now, self._closed_until)
            wait = self._next - now if limit or self._closed_until > now else 0.0
            if limit:
                self._next += 1 / limit
            self._recent.append(now)
            return wait

    def slow_down(self, retry_after_s: float = 0.0) -> None:
        """The store said 503, 429 or 500."""
        with self._lock:
            now = self._clock()
            self._closed_until = max(self._closed_until, now + retry_after_s)
            if now - self._cut_at < _CUT_EVERY_S and self._rate:
                return
            asked = sum(1 for when in self._recent if now - when <= 1.0)
            current = self._limit(now) or max(float(asked), 2 * _MIN_PER_S)
            self._before = max(self._before, current)
            self._rate = max(_MIN_PER_S, current / 2)
            self._cut_at = now

    def _limit(self, now: float) -> float:
        if not self._rate:
            return 0.0
        limit = self._rate * _RECOVER_PER_S ** (now - self._cut_at)
        if limit > 2 * self._before:  # well past what was refused: forget it
            self._rate = self._before = 0.0
            return 0.0
        return float(limit)


class BandwidthLimiter:
    """Bytes per second for the whole node; 0 = no cap."""

    def __init__(self, bytes_per_s: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = bytes_per_s
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = 0.0

    def reserve(self, count: int) -> float:
        """Seconds to wait after receiving `count` bytes."""
        if not self._rate:
            return 0.0
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now - _BURST_S) + count / self._rate
            return max(0.0, self._free_at - now)
