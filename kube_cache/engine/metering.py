"""Carries an engine's sums into the metrics, when somebody looks: the engine itself counts in plain numbers.

So a range costs the metrics nothing, and a program that only fetches does not load their library.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter

from kube_cache.engine.engine import Engine
from kube_cache.engine.totals import Totals
from kube_cache.telemetry import metrics, peer_metrics
from kube_cache.telemetry.stages import Stage

_FIELDS: Final = {
    Stage.WAIT: "wait_s",
    Stage.FIRST_BYTE: "first_byte_s",
    Stage.NETWORK: "network_s",
    Stage.DECRYPT: "decrypt_s",
    Stage.VERIFY: "verify_s",
    Stage.WRITE: "write_s",
}


class EngineMeter:
    """For one caller at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._shown = Totals()
        self._origin_bytes = 0
        """Maximum so far: of bytes that a neighbour is sending, the two sums are not read at the same moment."""

    def update(self) -> None:
        """Add to the counters what has come since the last call."""
        now, shown = self._engine.totals(), self._shown
        self._shown = now
        origin_bytes = max(self._origin_bytes, now.received_bytes - now.neighbour_bytes)
        _increase(metrics.RECEIVED_BYTES, origin_bytes - self._origin_bytes)
        self._origin_bytes = origin_bytes
        _increase(peer_metrics.RECEIVED_BYTES, now.neighbour_bytes - shown.neighbour_bytes)
        _increase(metrics.WRITTEN_BYTES, now.written_bytes - shown.written_bytes)
        _increase(metrics.RANGE_HEDGES, now.hedges - shown.hedges)
        for cause, count in now.retries.items():
            _increase(metrics.RANGE_RETRIES.labels(cause), count - shown.retries[cause])
        for stage, field in _FIELDS.items():
            seconds = getattr(now.timings, field) - getattr(shown.timings, field)
            _increase(metrics.TRANSFER_SECONDS.labels(stage), seconds)
        metrics.CURRENT_SPEED.set(self._engine.bytes_per_s())
        metrics.CONNECTIONS.set(len(self._engine.workers()))


def _increase(counter: Counter, amount: float) -> None:
    counter.inc(max(0, amount))  # a network time can fall by the rounding of two clocks
