"""Looks at the engine twice a second while it works: how many connections it should have, and which ranges to hedge."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import Final, NamedTuple, Protocol

from kube_cache.engine.concurrency import ConcurrencyController, Window
from kube_cache.engine.hedge import WATCH_S, SlowDetector
from kube_cache.engine.throttle import RequestLimiter
from kube_cache.engine.worker import Worker

_TICK_S: Final = 0.5
_WINDOW_TICKS: Final = 2
_FOR_SMALL: Final = 16
"""Connections for many small objects, which mostly wait for a first byte or for the disk: over loopback a third quicker than 8."""


class Figures(NamedTuple):
    """Sums since the start of the process, of which the governor takes differences."""

    at_s: float
    cpu_s: float
    received_bytes: int
    write_s: float


class Governed(Protocol):
    """The engine, as the governor sees it."""

    request_limiter: RequestLimiter
    idle: int
    """Workers without work."""
    capped: bool
    """A bandwidth cap is set."""

    def workers(self) -> list[Worker]: ...
    def received_bytes(self) -> int: ...
    def resize(self) -> None:
        """Start the workers that `Governor.connections` allows, or let those beyond it end."""


class Governor:
    def __init__(self, engine: Governed, start: int, max_connections: int) -> None:
        self._engine = engine
        self._controller = ConcurrencyController(start, max_connections)
        self._slow_detector = SlowDetector()
        self._samples: deque[dict[Worker, tuple[int, object]]] = deque(maxlen=int(WATCH_S / _TICK_S) + 1)
        self._cores = len(os.sched_getaffinity(0))
        self._stop = threading.Event()
        self._busy = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def connections(self) -> int:
        return self._controller.connections

    def work_begins(self, *, many_small: bool) -> None:
        if many_small:
            self._controller.raise_to(_FOR_SMALL)
        self._busy.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="engine-governor", daemon=True)
            self._thread.start()

    def work_ends(self) -> None:
        self._busy.clear()

    def close(self) -> None:
        self._stop.set()
        self._busy.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        ticks = 0
        before = self._figures()
        while not self._stop.wait(_TICK_S):
            if not self._busy.is_set():
                self._busy.wait()
                self._samples.clear()
                ticks, before = 0, self._figures()
                continue
            self._hedge()
            ticks += 1
            if ticks == _WINDOW_TICKS:
                ticks = 0
                now = self._figures()
                self._adapt(before, now)
                before = now

    def _figures(self) -> Figures:
        write_s = sum(worker.write_s for worker in self._engine.workers())
        return Figures(time.monotonic(), time.process_time(), self._engine.received_bytes(), write_s)

    def _adapt(self, before: Figures, now: Figures) -> None:
        wall_s = now.at_s - before.at_s
        workers = max(1, len(self._engine.workers()))
        window = Window(
            bytes_per_s=(now.received_bytes - before.received_bytes) / wall_s,
            idle=self._engine.idle,
            disk=(now.write_s - before.write_s) / (wall_s * workers),
            cpu=(now.cpu_s - before.cpu_s) / (wall_s * self._cores),
            throttled=self._engine.request_limiter.throttled,
        )
        was = self._controller.connections
        if self._controller.step(window) != was:
            self._engine.resize()

    def _hedge(self) -> None:
        workers = self._engine.workers()
        self._samples.append({worker: (worker.received, worker.attempt) for worker in workers})
        if len(self._samples) < (self._samples.maxlen or 0) or self._engine.request_limiter.throttled:
            return
        if self._engine.capped:
            return  # whoever waits for our own cap looks slow, and a hedge would fetch the same bytes twice under it
        first, last = self._samples[0], self._samples[-1]
        rates = {
            worker: (received - first[worker][0]) / WATCH_S
            for worker, (received, at) in last.items()
            if at is not None and worker in first and first[worker][1] is at
        }
        for worker in self._slow_detector.find_slow(rates):
            attempt = worker.attempt
            if attempt is not None:
                attempt.queue.hedge(attempt.state, attempt.byte_range)
