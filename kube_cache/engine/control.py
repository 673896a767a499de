"""Stops one call of `fetch`, lets its threads wait, and counts its progress; shared by queue, workers and finisher.

The first error ends a call: workers stop at their next check, and threads that wait for time or for bytes are woken. A
control knows neither objects nor workers and decides nothing, so that all other parts of a call may depend on it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from kube_cache.dataset.transfer import FetchProgress
from kube_cache.engine.meter import Meter
from kube_cache.engine.throttle import BandwidthLimiter
from kube_cache.errors import Cancelled


class Control:
    def __init__(
        self,
        lock: threading.Condition,
        total_bytes: int,
        on_stop: Callable[[], None],
        bandwidth_limiter: BandwidthLimiter | None = None,
    ) -> None:
        """lock: the engine's one lock. on_stop: called once, after the first error, without the lock."""
        self.bandwidth_limiter = bandwidth_limiter or BandwidthLimiter(0)
        """Of this call, beside the engine's."""
        self.lock = lock
        self.error: BaseException | None = None
        """The first error; set under the lock, read without."""
        self.last_byte_at = time.monotonic()
        self.meter = Meter()
        self.refetched = 0
        """Ranges that were fetched again because their object's checksum did not match; the finisher counts."""
        self._total_bytes = total_bytes
        self._shown_bytes = 0
        self._on_stop = on_stop
        self._stopped = threading.Event()
        self._ended = threading.Event()
        self._attention = threading.Event()
        """The thread that waits for the end has something to look at."""

    def fail(self, error: BaseException) -> None:
        """Stop the call with `error`, unless another error came first or the call has ended."""
        with self.lock:
            if self.error is not None or self._ended.is_set():
                return
            self.error = error
            self._stopped.set()
        self._on_stop()

    def check(self) -> None:
        """Raises Cancelled once the call has failed."""
        if self.error is not None:
            raise Cancelled("the transfer has ended")

    def pause(self, seconds: float) -> None:
        """Sleep. Raises Cancelled as soon as the call has failed."""
        if self._stopped.wait(seconds):
            raise Cancelled("the transfer has ended")

    def sleep(self, seconds: float) -> None:
        """Sleep, at most until the call fails."""
        self._stopped.wait(seconds)

    def end(self) -> None:
        """Mark the call as ended: all objects are durable, or their files are closed or abandoned after an error."""
        self._ended.set()
        self._attention.set()

    def wake(self) -> None:
        """End a `wait` under way, or the next one, early. Takes no lock of the engine."""
        self._attention.set()

    def wait(self, seconds: float) -> bool:
        """Wait for the end of the call, or for `wake`; True once the call has ended."""
        self._attention.wait(seconds)
        self._attention.clear()
        return self._ended.is_set()

    def received(self, count: int) -> None:
        """Count bytes that were written to a file."""
        self.last_byte_at = time.monotonic()
        self.meter.add(count)

    def progress(self, preallocated_bytes: int) -> FetchProgress:
        """Return the progress, whose `done_bytes` never falls and never exceeds the total."""
        self._shown_bytes = max(self._shown_bytes, min(self._total_bytes, self.meter.total))
        return FetchProgress(self._shown_bytes, self._total_bytes, self.meter.rate(), preallocated_bytes)
