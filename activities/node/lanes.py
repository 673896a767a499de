"""Two lanes of a node's downloads: those that a Pod waits for, and prefetches, which run only while the first is empty.

A prefetch that must yield ends its attempt, so that it holds neither a slot of the agent nor room on the disk; Temporal
tries it again later, and it resumes from its journals. Does not order the Pods' downloads among themselves: the engine
does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from kube_cache.errors import PrefetchYielded
from kube_cache.telemetry import prefetch_metrics

RETRY_S: Final = 5.0
"""Seconds after which a prefetch that yielded looks again; arbitrary."""
_MAX_YIELD_S: Final = 2.0
"""The engine ends a cancelled call within this time. A Pod's download waits no longer: both then run side by side."""
_POLL_S: Final = 0.05


class Lanes:
    """Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pods = 0
        self._prefetches = 0

    @contextmanager
    def for_pod(self) -> Iterator[None]:
        """Make prefetches yield from now on, while the context lasts."""
        with self._changed:
            self._pods += 1
        try:
            yield
        finally:
            with self._changed:
                self._pods -= 1

    def wait_for_prefetches(self, cancelled: Callable[[], bool]) -> None:
        """Wait until no prefetch runs: what it reserved on the disk is free then. At most `_MAX_YIELD_S`."""
        deadline = time.monotonic() + _MAX_YIELD_S
        with self._changed:
            while self._prefetches and time.monotonic() < deadline and not cancelled():
                self._changed.wait(_POLL_S)

    @contextmanager
    def for_prefetch(self) -> Iterator[None]:
        """Be the one prefetch of the node that runs. Raises PrefetchYielded while a Pod or another prefetch does."""
        with self._changed:
            if self._pods or self._prefetches:
                prefetch_metrics.YIELDS.labels("begin").inc()
                raise yielded("another download runs on this node")
            self._prefetches += 1
        try:
            yield
        finally:
            with self._changed:
                self._prefetches -= 1
                self._changed.notify_all()

    def must_yield(self) -> bool:
        """Whether a prefetch that runs must end its attempt."""
        return self._pods > 0


def yielded(why: str) -> PrefetchYielded:
    error = PrefetchYielded(f"{why}; the prefetch goes on later, and nothing is fetched twice")
    error.retry_after_s = RETRY_S
    return error
