"""Looks at the engine twice a second while it works: how many connections it should have, and which ranges to hedge."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from kube_cache.engine.concurrency import Adaptive, Window
from kube_cache.engine.hedge import WATCH_S, SlowWatch

if TYPE_CHECKING:
    from kube_cache.engine.engine import Engine
    from kube_cache.engine.worker import Worker

_TICK_S: Final = 0.5
_WINDOW_TICKS: Final = 2
_FOR_SMALL: Final = 16
"""Connections for many small objects, which mostly wait for a first byte or for the disk: over loopback a third quicker than 8."""


class Governor:
    def __init__(self, engine: Engine, start: int, most: int) -> None:
        self._engine = engine
        self._adaptive = Adaptive(start, most)
        self._slow = SlowWatch()
        self._samples: deque[dict[Worker, tuple[int, object]]] = deque(maxlen=int(WATCH_S / _TICK_S) + 1)
        self._cores = len(os.sched_getaffinity(0))
        self._stop = threading.Event()
        self._busy = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def connections(self) -> int:
        return self._adaptive.connections

    def work_begins(self, *, many_small: bool) -> None:
        if many_small:
            self._adaptive.at_least(_FOR_SMALL)
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

    def _figures(self) -> tuple[float, float, int, float]:
        workers = self._engine.workers()
        received = self._engine.received_before + sum(worker.received for worker in workers)
        return time.monotonic(), time.process_time(), received, sum(worker.write_s for worker in workers)

    def _adapt(self, before: tuple[float, float, int, float], now: tuple[float, float, int, float]) -> None:
        wall = now[0] - before[0]
        workers = max(1, len(self._engine.workers()))
        window = Window(
            bytes_per_s=(now[2] - before[2]) / wall,
            idle=self._engine.idle,
            disk=(now[3] - before[3]) / (wall * workers),
            cpu=(now[1] - before[1]) / (wall * self._cores),
            throttled=self._engine.pace.throttled,
        )
        was = self._adaptive.connections
        if self._adaptive.step(window) != was:
            self._engine.resize()

    def _hedge(self) -> None:
        workers = self._engine.workers()
        self._samples.append({worker: (worker.received, worker.at) for worker in workers})
        if len(self._samples) < (self._samples.maxlen or 0) or self._engine.pace.throttled:
            return
        if self._engine.capped:
            return  # whoever waits for our own cap looks slow, and a hedge would fetch the same bytes twice under it
        first, last = self._samples[0], self._samples[-1]
        rates = {
            worker: (received - first[worker][0]) / WATCH_S
            for worker, (received, at) in last.items()
            if at is not None and worker in first and first[worker][1] is at
        }
        for worker in self._slow.slow(rates):
            at = worker.at
            if at is not None:
                self._engine.hedge(*at)
