"""The socket, the threads and the places of each HTTP server that we have; what is answered is the handler's matter.

A thread for each connection: one that waits costs next to nothing, and one that writes to a slow client holds up nobody
else. The places bound the threads; a connection beyond them is closed at once, and its client tries again.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Any

import structlog

from kube_cache.errors import InvalidRequest

_PAUSE_S = 0.1
_log = structlog.get_logger("kube_cache.http")


class HttpServer(ThreadingHTTPServer):
    """Serves from its construction until `close`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        address: str,
        handler: Callable[[Any, Any, Any], Any],
        *,
        what: str,
        setting: str,
        max_connections: int,
        default_host: str = "",
    ) -> None:
        """Listen and serve. Raises InvalidRequest where the address cannot be had.

        address: `host:port`; port 0 takes a free one. handler: called with (socket, client's address, server) in a
        thread of its own. what, setting: what is served and which setting names the address, for messages.
        """
        host, _, port = address.rpartition(":")
        host = host.strip("[]") or default_host
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._places = threading.BoundedSemaphore(max_connections)
        self._what = what
        try:
            super().__init__((host, int(port)), handler)
        except (OSError, ValueError, OverflowError) as error:
            raise InvalidRequest(
                f"cannot serve {what} on {address!r}: {error}; set {setting} to a free host:port, or to nothing"
            ) from error
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._accept, name=f"serves {what}", daemon=True)
        self._thread.start()
        _log.info(f"serving {what}", host=host, port=self.port)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def close(self) -> None:
        """Accept no more connections. Those that are open end by themselves."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join()
        self.server_close()

    def _accept(self) -> None:
        """Accept connections until `close`. Blocks, where the library's own loop would wake twice a second."""
        while True:
            try:
                request, client_address = self.get_request()
            except OSError:  # closed; or no descriptor is left, which passes
                if self._closing.wait(_PAUSE_S):
                    return
                continue
            try:
                self.process_request(request, client_address)
            except Exception:  # no thread can be started, for example: the next connection may be luckier
                self.handle_error(request, client_address)
                self.shutdown_request(request)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's would ask DNS for a name that nobody reads

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        _log.exception(f"cannot answer a client of {self._what}", client=str(client_address))
