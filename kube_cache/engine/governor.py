"""Looks at the engine twice a second while it works: sets the number of connections and hedges slow ranges.

Takes the figures and carries the decisions out; `concurrency` and `hedge` decide.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Final, NamedTuple, Protocol

from kube_cache.engine.concurrency import ConcurrencyController, Window
from kube_cache.engine.cores import usable_cores
from kube_cache.engine.hedge import WATCH_S, SlowDetector
from kube_cache.engine.throttle import RequestLimiter
from kube_cache.engine.work_queue import Attempt
from kube_cache.engine.worker import Worker

_TICK_S: Final = 0.5
_WINDOW_TICKS: Final = 2
"""Ticks of the window that `ConcurrencyController` judges: 1 s."""
_CONNECTIONS_FOR_SMALL: Final = 16
"""Many small objects mostly wait for a first byte or the disk: over loopback a third quicker than 8 connections."""


class _Sums(NamedTuple):
    """Sums since the start of the process; differences make a window."""

    at_s: float
    cpu_s: float
    received_bytes: int
    write_s: float


class _Sample(NamedTuple):
    received: int
    attempt: Attempt | None


class Governed(Protocol):
    """The engine, as the governor sees it."""

    request_limiter: RequestLimiter
    idle: int
    """Workers without work."""
    capped: bool
    """A bandwidth limit is set."""

    def workers(self) -> list[Worker]: ...
    def received_bytes(self) -> int: ...
    def resize(self) -> None:
        """Start the workers that `Governor.connections` allows, or let those beyond it end."""


class Governor:
    def __init__(self, engine: Governed, start: int, max_connections: int) -> None:
        self._engine = engine
        self._controller = ConcurrencyController(start, max_connections)
        self.hedges = 0
        """Ranges that were offered to a second worker, since the start."""
        self._slow_detector = SlowDetector()
        self._samples: deque[dict[Worker, _Sample]] = deque(maxlen=int(WATCH_S / _TICK_S) + 1)
        self._cores = usable_cores()
        self._stop = threading.Event()
        self._busy = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def connections(self) -> int:
        """The number of connections that the engine should have."""
        return self._controller.connections

    def work_begins(self, *, many_small: bool) -> None:
        if many_small:
            self._controller.raise_to(_CONNECTIONS_FOR_SMALL)
        self._busy.set()
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="engine-governor", daemon=True)
            thread.start()
            self._thread = thread  # only now: close joins it

    def work_ends(self) -> None:
        self._busy.clear()

    def close(self) -> None:
        self._stop.set()
        self._busy.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        ticks = 0
        before = self._sums()
        while not self._stop.wait(_TICK_S):
            if not self._busy.is_set():
                self._busy.wait()
                self._samples.clear()
                ticks, before = 0, self._sums()
                continue
            self._hedge()
            ticks += 1
            if ticks == _WINDOW_TICKS:
                ticks = 0
                now = self._sums()
                self._adapt(before, now)
                before = now

    def _sums(self) -> _Sums:
        write_s = sum(worker.write_s for worker in self._engine.workers())
        return _Sums(time.monotonic(), time.process_time(), self._engine.received_bytes(), write_s)

    def _adapt(self, before: _Sums, now: _Sums) -> None:
        """Let the controller judge a window, and resize the engine."""
        wall_s = now.at_s - before.at_s
        workers = max(1, len(self._engine.workers()))
        window = Window(
            bytes_per_s=(now.received_bytes - before.received_bytes) / wall_s,
            idle=self._engine.idle,
            disk=(now.write_s - before.write_s) / (wall_s * workers),
            cpu=(now.cpu_s - before.cpu_s) / (wall_s * self._cores),
            throttled=self._engine.request_limiter.throttled,
        )
        connections = self._controller.connections
        if self._controller.step(window) != connections:
            self._engine.resize()

    def _hedge(self) -> None:
        """Offer the ranges of slow connections to a second worker."""
        self._samples.append({worker: _Sample(worker.received, worker.attempt) for worker in self._engine.workers()})
        if len(self._samples) < (self._samples.maxlen or 0) or self._engine.request_limiter.throttled:
            return
        if self._engine.capped:
            return  # our own limit makes a worker look slow, and a hedge would fetch the same bytes twice under it
        first, last = self._samples[0], self._samples[-1]
        busy = {
            worker: (sample.received - first[worker].received) / WATCH_S
            for worker, sample in last.items()
            if worker in first and _is_compared(sample) and _is_compared(first[worker])
        }
        rates = {worker: rate for worker, rate in busy.items() if first[worker].attempt is last[worker].attempt}
        for worker in self._slow_detector.find_slow(rates, busy.values()):
            attempt = worker.attempt
            if attempt is not None:
                self.hedges += attempt.queue.hedge(attempt.state, attempt.byte_range)


def _is_compared(sample: _Sample) -> bool:
    """Leave out objects with a plan: they are not hedged, and neighbours are quicker or slower than the origin."""
    return sample.attempt is not None and sample.attempt.state.planned is None
