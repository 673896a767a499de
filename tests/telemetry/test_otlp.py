"""What a collector receives, and what a collector that is away, slow or unwilling costs: counted spans, no time."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from kube_cache.telemetry import spans
from kube_cache.telemetry.otlp import Sender
from kube_cache.telemetry.otlp_encoding import OtlpExporter
from kube_cache.telemetry.spans import Event, Place, Span
from tests.telemetry.collector import collector
from tests.telemetry.scrape import Changes

_PATIENCE_S = 90.0  # a machine that stands still may use up the seconds that a process gives its last spans
NOW = 1_700_000_000_000_000_000


def span(name: str = "step", uid: str = "uid", **more: object) -> Span:
    place = spans.pod_place(uid)
    return Span(name, spans.new_place(place.trace), place.span, NOW, NOW + 5, **more)  # type: ignore[arg-type]


class _Hanging(SpanExporter):
    """A collector that takes the connection and answers nothing."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.entered.set()
        self.go.wait()
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        pass


def test_ids_times_links_events_and_errors_arrive_as_they_were_given() -> None:
    changes = Changes()
    with collector() as found:
        sender = Sender(OtlpExporter(endpoint=found.endpoint), {"service.name": "test"})
        root = spans.pod_place("uid")
        sender.send(Span("pod", root, 0, NOW, NOW + 10, {"kube_cache.hit": True, "kube_cache.bytes": 7}))
        event = Event(NOW + 2, "key", {"kube_cache.seconds": 0.5})
        sender.send(span(links=(Place(1, 2),), error="DiskFault: no", events=[event]))
        sender.close(_PATIENCE_S)
        pod, step = sorted(found.spans, key=lambda each: each.name)
    assert (pod.trace, pod.id, pod.parent) == (f"{root.trace:032x}", f"{root.span:016x}", "")
    assert pod.attributes == {"kube_cache.hit": True, "kube_cache.bytes": 7}
    assert (step.parent, step.start_ns, step.end_ns) == (pod.id, NOW, NOW + 5)
    assert step.links == [(f"{1:032x}", f"{2:016x}")]
    assert step.error == "DiskFault: no"
    assert step.events == [event]
    assert pod.resource["service.name"] == step.resource["service.name"] == "test"
    assert changes.of("kube_cache_spans_sent_total") == 2
    assert not changes.any_of("kube_cache_spans_dropped_total")


def test_a_collector_that_hangs_costs_neither_time_nor_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    changes, hanging = Changes(), _Hanging()
    sender = Sender(hanging, {}, max_queued=100)
    try:
        for _ in range(100):
            sender.send(span())
        assert hanging.entered.wait(60)
        for _ in range(20_000):
            sender.send(span())
        # All but the batch that hangs and the queue behind it.
        dropped = changes.of("kube_cache_spans_dropped_total", reason="full")
        assert 20_100 - 225 <= dropped < 20_100
        monkeypatch.setattr(BatchSpanProcessor, "shutdown", lambda _: hanging.go.wait())
        sender.close()  # returns, although the SDK would wait for the collector
    finally:
        hanging.go.set()
        monkeypatch.undo()
        sender.close(_PATIENCE_S)


def test_a_collector_that_is_away_is_counted() -> None:
    changes = Changes()
    sender = Sender(OtlpExporter(endpoint="http://127.0.0.1:1", timeout=0.2), {})
    for _ in range(10):
        sender.send(span())
    sender.close(_PATIENCE_S)
    assert changes.of("kube_cache_spans_dropped_total", reason="refused") == 10


def test_a_collector_that_refuses_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    changes = Changes()
    with collector() as found:
        found.refuses = True
        for _ in range(3):
            sender = Sender(OtlpExporter(endpoint=found.endpoint), {})
            sender.send(span())
            sender.close(_PATIENCE_S)
        assert changes.of("kube_cache_spans_dropped_total", reason="refused") == 3
        told = [record for record in caplog.records if "PERMISSION_DENIED" in record.getMessage()]
        assert len(told) <= 1
        found.refuses = False
        sender = Sender(OtlpExporter(endpoint=found.endpoint), {})
        sender.send(span())
        sender.close(_PATIENCE_S)
        assert changes.of("kube_cache_spans_sent_total") == 1


def test_both_processes_sample_the_same_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    taken: list[set[str]] = []
    for _ in range(2):
        with collector() as found:
            sender = Sender(OtlpExporter(endpoint=found.endpoint), {})
            for number in range(100):
                sender.send(span(uid=f"pod-{number}"))
            sender.close(_PATIENCE_S)
            taken.append({each.trace for each in found.spans})
    assert taken[0] == taken[1]
    assert 20 < len(taken[0]) < 80
