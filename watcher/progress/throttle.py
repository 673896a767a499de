"""The pause of a writer whose writes the API server does not take. Any thread may call."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from kube_cache.backoff import Backoff
from kube_cache.kube.client import ApiError

_log = structlog.get_logger("kube_cache.progress")
_MIN_BACKOFF_S, _MAX_BACKOFF_S = 1.0, 30.0


class Throttle:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._now = clock
        self._backoff = Backoff(_MIN_BACKOFF_S, _MAX_BACKOFF_S)
        self._closed_until = 0.0
        self._lock = threading.Lock()

    def is_closed(self) -> bool:
        return self._now() < self._closed_until

    def note(self, error: ApiError) -> bool:
        """Close for as long as the server asks, or ever longer; False for an error that concerns one object only."""
        if error.status not in (0, 429) and error.status < 500:
            _log.warning("progress refused", error=error.message)
            return False
        with self._lock:
            if not self.is_closed():
                wait_s = max(error.retry_after_s, self._backoff.next_s())
                self._closed_until = self._now() + wait_s
                _log.warning("progress waits for the API server", error=error.message, wait_s=round(wait_s, 1))
        return True

    def reset(self) -> None:
        """A write has succeeded."""
        with self._lock:
            self._backoff.reset()
