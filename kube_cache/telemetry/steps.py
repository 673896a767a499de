"""One way to say that a stage takes place here: for the metrics always, for the trace while something is traced."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from kube_cache.telemetry import metrics, spans
from kube_cache.telemetry.stages import Stage


@contextmanager
def timed(stage: Stage) -> Iterator[None]:
    """Observe the seconds of a stage, also of one that fails; a span below the one that is open here."""
    started = time.perf_counter()
    try:
        with spans.span(stage):
            yield
    finally:
        metrics.STAGE_SECONDS.labels(stage).observe(time.perf_counter() - started)
