"""The HTTPS server through which a node feeds others: ranges of what it holds, and messages. Read-only.

    GET  /v1/<snapshot>/<object id>   one Range; only verified bytes. A range that is on its way is waited for.
    POST /v1/<snapshot>/have          a message of the swarm; the answer is this node's own

Both need a certificate of a node and a token for that node and that snapshot. There is no plain HTTP: bytes would be
read by whoever listens, and a token with them.

A thread for each connection, which blocks on purpose: OpenSSL encrypts 256 KiB a call without the interpreter's lock.
No connection can keep its thread: a request must come, and its answer be taken, at some minimal pace, and a connection
ends after ten minutes, so that the next one shows a certificate that is valid then. The threads are nicer than the
others of the process: where cores are short, the node's own download goes first.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import structlog

from kube_cache.http_server import HttpServer
from kube_cache.peers.conversation import Conversation, Inbox, Service
from kube_cache.peers.holdings import Holdings
from kube_cache.peers.limits import RateLimit, Slots
from kube_cache.peers.tls import Certificates
from kube_cache.peers.tokens import Verifier
from kube_cache.telemetry import peer_metrics

_log = structlog.get_logger("kube_cache.peers")
HOLD_S: Final = 1.5
"""Seconds that a range which is not here yet is waited for. Below a peer's patience with a silent connection
(`source.STALL_S`), or a node that answers "not yet" would count as one that stalls."""
_PATIENCE_S: Final = 15.0
"""For a handshake, a request, the next request, and for a piece to be taken."""
CONNECTIONS_PER_TRANSFER: Final = 32
"""Those beyond the transfers wait for a range, for their next request, or bring messages."""
_NICENESS: Final = 5


class PeerServer:
    """Serves from its construction until `close`."""

    def __init__(
        self,
        address: str,
        certificates: Certificates,
        tokens: Verifier,
        holdings: Holdings,
        inbox: Inbox,
        *,
        max_transfers: int = 8,
        max_bytes_per_s: int = 0,
        max_message: int = 256 << 10,
        hold_s: float = HOLD_S,
        patience_s: float = _PATIENCE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """address: `host:port`; port 0 takes a free one. clock: seconds since the epoch. Raises InvalidRequest."""
        self._certificates = certificates
        limit = RateLimit(max_bytes_per_s)
        slots = Slots(max_transfers, limit.piece)
        self._service = Service(tokens, holdings, inbox, limit, slots, max_message, hold_s, patience_s, clock)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._http = HttpServer(
            address,
            self._serve,
            what="other nodes",
            setting="KUBE_CACHE_PEERS__ADDRESS",
            max_connections=max_transfers * CONNECTIONS_PER_TRANSFER,
        )

    @property
    def port(self) -> int:
        return self._http.port

    @property
    def connections(self) -> int:
        """Connections that are open and have passed the handshake."""
        with self._lock:
            return len(self._open)

    def close(self) -> None:
        """Stop serving: connections that are open are ended, in the middle of an answer too."""
        self._service.closing.set()
        self._http.close()
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)  # SSLSocket's own would forget its TLS state

    def _serve(self, raw: socket.socket, address: Any, _: object) -> None:
        """Serve one connection until it ends; the beginning of a thread."""
        with contextlib.suppress(OSError):  # not a reason to serve nothing
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        try:
            raw.settimeout(_PATIENCE_S)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secured = self._certificates.get().server.wrap_socket(raw, server_side=True)
        except OSError as error:
            peer_metrics.REFUSED.labels("certificate").inc()
            _log.info("a connection has no valid certificate of a node", client=str(address), error=str(error))
            return
        with self._lock:
            self._open.add(secured)
        try:
            if not self._service.closing.is_set():
                secured.settimeout(self._service.patience_s)
                Conversation(self._service, secured).run()
        except OSError as error:
            _log.debug("a connection ended", client=str(address), error=str(error))
        finally:
            with self._lock:
                self._open.discard(secured)
            secured.close()
