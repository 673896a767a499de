"""The workers' common knowledge of servers, and the shape of a body that a worker receives from.

Knows no object: `range_client` asks for ranges, one client a worker.
"""

from __future__ import annotations

import threading
import time
from typing import Final, Protocol

from kube_cache.dataset.source import Request, Server, Trust
from kube_cache.engine import tls
from kube_cache.engine.addresses import Addresses
from kube_cache.engine.connection import MAX_CONNECT_S, Connection
from kube_cache.engine.parked import ParkedConnections
from kube_cache.engine.receiving import Received
from kube_cache.errors import KubeCacheError, SourceUnavailable

_SLOW_PATH_S: Final = 60.0
"""Arbitrary: long enough that trying the fast path again costs nothing, short enough to notice a mended server."""


class Stream(Protocol):
    """The body of one response."""

    leftover: bytes
    """Body bytes that were received together with the head; the caller takes them first and empties the field."""
    tls: bool
    """The CPU time of a receive includes decryption."""

    def receive(self, view: memoryview, crc64: int, crc32c: int, *, with_crc32c: bool) -> Received: ...
    def finish(self) -> None:
        """Release the connection after the last byte of the body."""


class Wire:
    """Shared by all workers: addresses, TLS contexts, and the servers that need the slow path."""

    def __init__(self, stall_s: float) -> None:
        self.stall_s = stall_s
        self.addresses = Addresses()
        self.parked = ParkedConnections(self.addresses)
        self._lock = threading.Lock()
        self._contexts: dict[Trust, tls.Context] = {}
        self._slow_path_until: dict[Server, float] = {}

    def context(self, trust: Trust) -> tls.Context:
        """Return the TLS context for certificates. Raises SourceUnavailable for files that cannot be used now."""
        with self._lock:
            context = self._contexts.get(trust)
            if context is None:
                try:
                    context = self._contexts[trust] = tls.context(trust.authorities, trust.certificate, trust.key)
                except OSError as error:
                    names = ", ".join(filter(None, (trust.authorities, trust.certificate, trust.key)))
                    raise SourceUnavailable(f"the certificates ({names}) cannot be used: {error}") from error
            return context

    def connect(self, request: Request) -> Connection:
        """Open a connection for a request. Raises SourceUnavailable."""
        server, trust = request.server, request.trust
        context = self.context(trust) if trust is not None else None
        address = self.addresses.acquire(server.host, server.port)
        try:
            return Connection(
                server,
                address,
                stall_s=self.stall_s if request.stall_s is None else request.stall_s,
                connect_s=MAX_CONNECT_S if request.stall_s is None else min(MAX_CONNECT_S, request.stall_s),
                context=context,
                remedy=trust.remedy if trust is not None else "",
            )
        except KubeCacheError:
            self.addresses.mark_failed(address)
            self.addresses.release(address)
            raise

    def needs_slow_path(self, server: Server) -> bool:
        return self._slow_path_until.get(server, 0.0) > time.monotonic()

    def use_slow_path(self, server: Server) -> None:
        """Have sources open pieces by themselves for a minute, so that not every range meets the same answer again."""
        self._slow_path_until[server] = time.monotonic() + _SLOW_PATH_S
