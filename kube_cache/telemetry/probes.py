"""HTTP endpoint of a process: `/healthz` and `/readyz` for Kubernetes' probes, `/metrics` for Prometheus.

Liveness says that the event loop turns, and never asks Temporal, Kubernetes or object storage: a restart mends none of
them, and a restart of everything at once makes an outage longer. Served by threads of its own, so that a loop that
hangs is noticed.
"""

from __future__ import annotations

import time
from http.server import BaseHTTPRequestHandler
from typing import Any, Final, Self

from prometheus_client import CONTENT_TYPE_LATEST

from kube_cache.http_server import HttpServer
from kube_cache.telemetry.exposition import Exposition

# Seconds without a beat after which the event loop counts as hung. A busy operator's loop is late by less than one.
_MAX_SILENCE_S = 60.0
# Of kubelets and scrapers there are a few; a place is held for at most the handler's timeout.
_MAX_CONNECTIONS: Final = 64


class Health:
    """What the probes answer. Any thread may read."""

    def __init__(self) -> None:
        self._beat_at = time.monotonic()
        self.waits_for = "the start"
        """What the process lacks to be ready, in words; empty when it is ready."""

    @property
    def ready(self) -> bool:
        return not self.waits_for

    def beat(self) -> None:
        """Tell, from the event loop, that it turns."""
        self._beat_at = time.monotonic()

    @property
    def alive(self) -> bool:
        return time.monotonic() - self._beat_at < _MAX_SILENCE_S


class ProbeServer:
    """A context manager. address: `host:port`; port 0 takes a free one, an empty address serves nothing."""

    def __init__(self, address: str, health: Health, exposition: Exposition) -> None:
        self._address = address
        self._exposition = exposition
        self._health = health
        self._server: HttpServer | None = None

    def __enter__(self) -> Self:
        if self._address:
            self._server = HttpServer(
                self._address,
                _handler(self._health, self._exposition),
                what="health and metrics",
                setting="KUBE_CACHE_TELEMETRY__HTTP_ADDRESS",
                max_connections=_MAX_CONNECTIONS,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()

    @property
    def port(self) -> int:
        """Port that is served; 0 for none."""
        return self._server.port if self._server else 0


def _handler(health: Health, exposition: Exposition) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # a peer that sends nothing must not hold a thread for ever

        def do_GET(self) -> None:
            match self.path.partition("?")[0]:
                case "/healthz":
                    self._answer(health.alive, "the event loop turns", "the event loop hangs")
                case "/readyz":
                    self._answer(health.ready, "ready", f"not ready: waits for {health.waits_for}")
                case "/metrics":
                    self._send(200, exposition.text(), CONTENT_TYPE_LATEST)
                case _:
                    self._send(404, b"/healthz, /readyz or /metrics\n", "text/plain")

        def _answer(self, well: bool, yes: str, no: str) -> None:
            self._send(200 if well else 503, f"{yes if well else no}\n".encode(), "text/plain")

        def _send(self, status: int, body: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the library's word
            """Keep a probe every few seconds out of the log."""

    return Handler
