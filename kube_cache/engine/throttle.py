"""Two limits: requests per second after the object store throttled, and bytes per second by setting or by a call.

One limit of each kind for all connections, because an object store throttles a prefix or a client, not a connection: if
each connection backed off by itself, their sum would stay at the rate that was just refused. The limiters compute
delays; their callers sleep.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

MIN_BACKOFF_S: Final = 0.1
"""Arbitrary: some round trips."""
MAX_BACKOFF_S: Final = 20.0
"""As in the standard retry mode of AWS's SDKs."""
_CUT_INTERVAL_S: Final = 1.0
"""Refusals within one second are answers to the same rate: the rate is halved once for all of them."""
_RECOVERY_PER_S: Final = 1.05
"""Arbitrary: doubles the rate in 14 s; a rate that is too high again costs one refusal."""
_MIN_REQUESTS_PER_S: Final = 1.0
_BURST_S: Final = 0.25
"""Bandwidth that stayed unused for so long may be caught up, so that a pause between two ranges costs no rate."""


class RequestLimiter:
    """Requests per second: unlimited until the object store throttles, then half as many, and 5 % more each second.

    Drops the limit once it is twice the rate that was refused. Thread-safe.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._recent: deque[float] = deque(maxlen=4096)
        self._rate = 0.0  # requests per second at _cut_at; 0: no limit
        self._refused_rate = 0.0
        self._cut_at = 0.0
        self._next_at = 0.0
        self._closed_until = 0.0

    @property
    def throttled(self) -> bool:
        with self._lock:
            return self._limit(self._clock()) > 0

    def reserve(self) -> float:
        """Count one request and return the seconds to wait before it is sent."""
        with self._lock:
            now = self._clock()
            limit = self._limit(now)
            self._next_at = max(self._next_at, now, self._closed_until)
            wait_s = self._next_at - now if limit or self._closed_until > now else 0.0
            if limit:
                self._next_at += 1 / limit
            self._recent.append(now)
            return wait_s

    def slow_down(self, retry_after_s: float = 0.0) -> None:
        """Halve the rate after a response of 503, 429 or 500, and send nothing for `retry_after_s`."""
        with self._lock:
            now = self._clock()
            self._closed_until = max(self._closed_until, now + retry_after_s)
            if now - self._cut_at < _CUT_INTERVAL_S and self._rate:
                return
            sent = sum(1 for sent_at in self._recent if now - sent_at <= 1.0)
            current = self._limit(now) or max(float(sent), 2 * _MIN_REQUESTS_PER_S)
            self._refused_rate = max(self._refused_rate, current)
            self._rate = max(_MIN_REQUESTS_PER_S, current / 2)
            self._cut_at = now

    def _limit(self, now: float) -> float:
        """Return the limit at `now` in requests per second; 0 if there is none."""
        if not self._rate:
            return 0.0
        limit = self._rate * _RECOVERY_PER_S ** (now - self._cut_at)
        if limit > 2 * self._refused_rate:
            self._rate = self._refused_rate = 0.0
            return 0.0
        return float(limit)


class BandwidthLimiter:
    """Bytes per second, for the whole node or for one call; 0 = no limit. Thread-safe."""

    def __init__(self, bytes_per_s: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = bytes_per_s
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = 0.0

    @property
    def is_limited(self) -> bool:
        return self._rate > 0

    def reserve(self, count: int) -> float:
        """Count received bytes and return the seconds to wait before the next receive."""
        if not self._rate:
            return 0.0
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now - _BURST_S) + count / self._rate
            return max(0.0, self._free_at - now)
