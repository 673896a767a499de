"""The text that one kind of process answers to Prometheus: its own metrics, and figures that are read at the scrape."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import structlog
from prometheus_client import Metric, ProcessCollector, generate_latest
from prometheus_client.registry import Collector

from kube_cache.telemetry import metrics
from kube_cache.telemetry.declarations import Process

_log = structlog.get_logger("kube_cache.metrics")


class Exposition(Collector):
    """before_scrape: called before each text, in turn; must be quick and wait for nobody. Thread-safe."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._memory = ProcessCollector(registry=None)  # memory, CPU, file descriptors, start time
        self._lock = threading.Lock()
        self.before_scrape: list[Callable[[], None]] = []

    def text(self) -> bytes:
        with self._lock:
            for refresh in self.before_scrape:
                try:
                    refresh()
                except Exception:  # the other figures are owed all the same
                    _log.exception("cannot refresh metrics")
            return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        yield from self._memory.collect()
        for declared in metrics.DECLARED.of(self._process):
            yield from declared.collector.collect()
