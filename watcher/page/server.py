"""HTTP server of the page: GET only, a thread for each connection (kube_cache.http_server).

The event loop, on which releases depend, never sees a viewer; an asyncio server would have to be kept off that
loop, too. Nothing can be changed here, and nothing is shown that `kubectl get pods,nodes` does not show. There is no
login, so the address is of the loopback unless somebody names another. The Host header is not checked: a name that
leads here from elsewhere finds what the address finds.
"""

from __future__ import annotations

import contextlib
import gzip
import select
import socket
from http.server import BaseHTTPRequestHandler
from typing import Any, Final, Self

from kube_cache.http_server import HttpServer
from watcher.page.hub import Hub, TooManyViewers
from watcher.page.render import STATIC
from watcher.page.view import parse_query

MAX_VIEWERS: Final = 100
# Connections besides the viewers': for pages, styles and scripts.
_MORE_CONNECTIONS: Final = 30
# Seconds for a request to come, and for a viewer to take what it was sent.
_PATIENCE_S: Final = 10
# Bytes that a viewer may be behind before its patience begins: the kernel would take megabytes.
_SEND_BUFFER: Final = 1 << 17
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_LOOPBACK: Final = "127.0.0.1"


class PageServer:
    """A context manager. address: `host:port`; without a host of the loopback; empty = nothing is served."""

    def __init__(self, address: str, hub: Hub, *, patience_s: float = _PATIENCE_S) -> None:
        self._address = address
        self._hub = hub
        self._patience_s = patience_s
        self._server: HttpServer | None = None

    def __enter__(self) -> Self:
        if self._address:
            self._server = HttpServer(
                self._address,
                _handler(self._hub, self._patience_s),
                what="the page",
                setting="KUBE_CACHE_OPERATOR__PAGE_ADDRESS",
                max_connections=MAX_VIEWERS + _MORE_CONNECTIONS,
                default_host=_LOOPBACK,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._hub.stop()
        if self._server is not None:
            self._server.close()

    @property
    def port(self) -> int:
        """Port that is served; 0 for none."""
        return self._server.port if self._server else 0


def _has_gone(connection: socket.socket) -> bool:
    """Whether the peer has closed the connection: a viewer has nothing to say after its request."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _handler(hub: Hub, patience_s: float) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = patience_s
        server_version, sys_version = "kube-cache", ""

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            with contextlib.suppress(ConnectionError, TimeoutError):
                match path:
                    case "/":
                        html = hub.page(parse_query(query)).encode()
                        self._send(200, html, "text/html; charset=utf-8", "no-store")
                    case "/events":
                        self._stream(query)
                    case "/page.css" | "/page.js":
                        content, kind = STATIC[path[1:]]
                        self._send(200, content, kind, "public, max-age=31536000, immutable")
                    case _:
                        self._send(404, b"the page is at /\n", "text/plain", "no-store")

        def refuse(self) -> None:
            with contextlib.suppress(ConnectionError, TimeoutError):
                self._send(405, b"the page is read-only: GET\n", "text/plain", "no-store", {"Allow": "GET"})

        def _stream(self, query: str) -> None:
            wanted = parse_query(query)
            try:
                events = hub.events(wanted)
            except TooManyViewers:
                more = {"Retry-After": "30"}
                self._send(503, b"too many viewers; try again later\n", "text/plain", "no-store", more)
                return
            try:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
                self._head(200, "text/event-stream", "no-store", {"X-Accel-Buffering": "no"})
                for event in events:
                    if _has_gone(self.connection):
                        break
                    self.wfile.write(event)
            finally:
                hub.leave(wanted)

        def _send(self, status: int, body: bytes, kind: str, caching: str, more: dict[str, str] | None = None) -> None:
            more = dict(more or {})
            if len(body) > 1000 and "gzip" in self.headers.get("Accept-Encoding", ""):
                body = gzip.compress(body, 3)
                more |= {"Content-Encoding": "gzip"}
            self._head(status, kind, caching, {**more, "Content-Length": str(len(body)), "Vary": "Accept-Encoding"})
            if self.command != "HEAD":
                self.wfile.write(body)

        def _head(self, status: int, kind: str, caching: str, more: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Cache-Control": caching, **_HEADERS, **more}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the library's word
            """Keep each look out of the log."""

    for method in ("HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        setattr(Handler, f"do_{method}", Handler.refuse)
    return Handler
