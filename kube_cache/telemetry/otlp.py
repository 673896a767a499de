"""Sends spans by OTLP over gRPC, with OpenTelemetry's SDK: its batches, sampler, resource and `OTEL_*` variables.

Nobody who emits a span waits: the queue is bounded, a span that finds it full is dropped, and so is a batch that the
collector does not take within the exporter's timeout. Both are counted.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from kube_cache.telemetry import metrics
from kube_cache.telemetry.otlp_encoding import OtlpExporter, QueuedSpan
from kube_cache.telemetry.spans import Span

_EXPORTER_LOGGER: Final = "opentelemetry.exporter.otlp.proto.grpc.exporter"
_QUEUE: Final = "OTEL_BSP_MAX_QUEUE_SIZE"
_DEFAULT_QUEUE: Final = 8192
"""Spans; OpenTelemetry's 2,048 are fewer than a large download ends with at once. One takes about a KiB."""
_CLOSE_S: Final = 3.0
"""The last spans are worth that much of a process that is to end; a dead collector would take 30 s."""
_VERSION: Final = version("kube-cache")
_SCOPE: Final = InstrumentationScope("kube_cache", _VERSION)
_MAX_DECISIONS: Final = 1024
"""Traces whose decision of the sampler is kept: more than a process has open at once."""


def endpoint(environment: Mapping[str, str]) -> str:
    """Return the address of the collector, for the log."""
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return next((found for name in names if (found := environment.get(name))), "http://localhost:4317")


class _OncePerOutage(logging.Filter):
    """Lets the exporter's log say once why the collector takes no spans, and no more until it has taken some."""

    def __init__(self) -> None:
        super().__init__()
        self._has_spoken = False

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.ERROR or self._has_spoken:
            return False
        self._has_spoken = True
        return True

    def is_over(self) -> None:
        self._has_spoken = False


_once_per_outage: Final = _OncePerOutage()
# The exporter logs each try of each batch, which is several lines a second while the collector is away.
logging.getLogger(_EXPORTER_LOGGER).addFilter(_once_per_outage)


class Sender:
    """Thread-safe; nothing but `close` waits."""

    def __init__(
        self, exporter: SpanExporter, resource: Mapping[str, str], *, max_queued: int = _DEFAULT_QUEUE
    ) -> None:
        self._max_queued = max_queued
        self._queued = 0
        self._lock = threading.Lock()
        self._resource = Resource.create(dict(resource))
        self._sampler = TracerProvider(resource=self._resource, shutdown_on_exit=False).sampler
        self.is_sampled = lru_cache(_MAX_DECISIONS)(self._decide)
        """Whether the spans of a trace are sent."""
        # A batch is not larger than a small queue; OTEL_BSP_MAX_EXPORT_BATCH_SIZE of more is refused by the SDK.
        self._processor = BatchSpanProcessor(
            _Counting(exporter, self._taken),
            max_queue_size=max_queued,
            max_export_batch_size=None if max_queued >= _DEFAULT_QUEUE else max(1, max_queued // 4),
        )

    @classmethod
    def from_environment(cls, service: str, resource: Mapping[str, str]) -> Sender:
        """resource: beside the service's name and version; OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME add to it."""
        named = {"service.name": os.environ.get("OTEL_SERVICE_NAME") or service, "service.version": _VERSION}
        return cls(OtlpExporter(), {**named, **resource}, max_queued=_max_queued(os.environ))

    def send(self, span: Span) -> None:
        """Queue a span that has ended, unless its trace is not sampled; drop it when the queue is full."""
        if not self.is_sampled(span.place.trace):
            return
        with self._lock:
            full = self._queued >= self._max_queued
            if not full:
                self._queued += 1
        if full:
            metrics.SPANS_DROPPED.labels("full").inc()
            return
        self._processor.on_end(QueuedSpan(span, self._resource, _SCOPE))

    def close(self, within_s: float = _CLOSE_S) -> None:
        """Send what is queued, for so many seconds at most."""
        closing = threading.Thread(target=self._processor.shutdown, name="spans-close", daemon=True)
        closing.start()
        closing.join(within_s)

    def _taken(self, count: int) -> None:
        with self._lock:
            self._queued -= count

    def _decide(self, trace: int) -> bool:
        # By the trace id alone, so that both processes decide alike. The parent is of another process, or not sent yet.
        return self._sampler.should_sample(None, trace, "").decision is Decision.RECORD_AND_SAMPLE


class _Counting(SpanExporter):
    """Counts what becomes of each batch."""

    def __init__(self, exporter: SpanExporter, taken: Callable[[int], None]) -> None:
        """taken: told of the number of spans that have left the queue."""
        self._exporter = exporter
        self._taken = taken

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._taken(len(spans))
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            if result is SpanExportResult.SUCCESS:
                metrics.SPANS_SENT.inc(len(spans))
                _once_per_outage.is_over()
            else:
                metrics.SPANS_DROPPED.labels("refused").inc(len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _max_queued(environment: Mapping[str, str]) -> int:
    """Return the bound of the queue; a value that is none is OpenTelemetry's to complain about."""
    try:
        return max(1, int(environment.get(_QUEUE, "") or _DEFAULT_QUEUE))
    except ValueError:
        return _DEFAULT_QUEUE
