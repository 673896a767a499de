"""A collector: a real OTLP gRPC server that keeps the spans that it receives."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)


@dataclass(frozen=True)
class Received:
    name: str
    trace: str
    id: str
    parent: str
    """Empty for a root."""
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    resource: dict[str, Any]
    links: list[tuple[str, str]] = field(default_factory=list)
    error: str = ""
    events: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


class Collector(TraceServiceServicer):  # type: ignore[misc] -- generated without types
    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.endpoint = ""
        self.refuses = False
        """Answer that the spans are not taken, as a collector does that may not."""

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 -- gRPC's
        if self.refuses:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "not yours")
        for of_resource in request.resource_spans:
            resource = _values(of_resource.resource.attributes)
            for scope in of_resource.scope_spans:
                self.spans += [_received(span, resource) for span in scope.spans]
        return ExportTraceServiceResponse()

    def of(self, trace: str) -> list[Received]:
        """Spans of a trace in the order of their start."""
        return sorted((span for span in self.spans if span.trace == trace), key=lambda span: span.start_ns)


@contextmanager
def collector() -> Iterator[Collector]:
    made = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(made, server)
    port = server.add_insecure_port("127.0.0.1:0")
    made.endpoint = f"http://127.0.0.1:{port}"
    server.start()
    try:
        yield made
    finally:
        server.stop(0).wait()


def _received(span: Any, resource: dict[str, Any]) -> Received:
    return Received(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _values(span.attributes),
        resource,
        [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        span.status.message,
        [(event.time_unix_nano, event.name, _values(event.attributes)) for event in span.events],
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
