"""Switches tracing on by OpenTelemetry's own variables, `OTEL_*`. Off, nothing of OpenTelemetry is imported."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Final

import structlog

from kube_cache.errors import InvalidRequest
from kube_cache.telemetry import spans

_log = structlog.get_logger("kube_cache.tracing")
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Decide by the variables whether spans are sent. Raises InvalidRequest for an exporter that there is none of."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter == "none" or not (exporter or any(environment.get(name) for name in _ENDPOINTS)):
        return False
    if exporter not in ("", "otlp"):
        raise InvalidRequest(f"OTEL_TRACES_EXPORTER is {exporter!r}; spans are sent by `otlp`, or not at all by `none`")
    for name in _PROTOCOLS:
        protocol = environment.get(name, "").strip()
        if protocol:
            if protocol != "grpc":
                raise InvalidRequest(f"{name} is {protocol!r}; spans are sent by `grpc` only, as a rule to port 4317")
            break
    return True


@contextlib.contextmanager
def tracing(service: str, **resource: str) -> Iterator[None]:
    """Send spans while the context is open, if the variables say so. resource: attributes of every span's resource.

    Raises InvalidRequest.
    """
    if not is_wanted(os.environ):
        yield
        return
    from kube_cache.telemetry import otlp  # noqa: PLC0415 -- memory and start of those who want no traces

    sender = otlp.Sender.from_environment(service, resource)
    spans.set_sink(sender.send, sender.is_sampled)
    _log.info("traces are sent", endpoint=otlp.endpoint(os.environ), service=service)
    try:
        yield
    finally:
        spans.set_sink(None)
        sender.close()
