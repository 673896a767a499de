"""Sends messages to other nodes' servers. Bytes of objects do not go this way: those are fetched by the engine.

Connections are kept, because the handshake costs more than the message; the members of a small swarm stay connected,
and of a large one the connections that were used last. Python's own `ssl` will do for a kilobyte.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections import OrderedDict
from typing import Final

from kube_cache.errors import SourceUnavailable
from kube_cache.peers import tls
from kube_cache.peers.tls import Certificates

_TIMEOUT_S: Final = 2.0
"""To connect, and for each step after; a node that takes longer is told the news with a later message."""
MAX_KEPT: Final = 32
MAX_ANSWER: Final = 256 << 10

Key = tuple[str, str, int]
"""Address, node and generation of the certificates: who changed its certificate shows the new one."""


class PeerClient:
    """Thread-safe. A connection is used by one thread at a time."""

    def __init__(self, certificates: Certificates, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._certificates = certificates
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._kept: OrderedDict[Key, _Connection] = OrderedDict()

    def exchange(self, address: str, node: str, snapshot: str, token: str, message: bytes) -> tuple[str, bytes]:
        """Send a message to a node; return the node's name and its answer.

        node: whose certificate must be shown; empty = of any node, as for a seed whose name nobody knows yet. Raises
        SourceUnavailable, whatever the reason.
        """
        key = (address, node, self._certificates.get().generation)
        try:
            connection = self._take(key)
            if connection is not None:
                try:
                    return self._exchange(connection, key, snapshot, token, message)
                except (OSError, http.client.HTTPException):
                    connection.close()  # it was kept too long; a new one tells whether the node lives
            return self._exchange(self._connect(address, node), key, snapshot, token, message)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise SourceUnavailable(f"node {node or 'unknown'} at {address} takes no message: {error}") from error

    def close(self) -> None:
        with self._lock:
            connections = list(self._kept.values())
            self._kept.clear()
        for connection in connections:
            connection.close()

    def _exchange(
        self, connection: _Connection, key: Key, snapshot: str, token: str, message: bytes
    ) -> tuple[str, bytes]:
        try:
            connection.request("POST", f"/v1/{snapshot}/have", message, {"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            body = answer.read(
                MAX_ANSWER
            )  # of a longer one the connection is not kept, and the beginning is no message
        except BaseException:
            connection.close()
            raise
        if answer.isclosed() and connection.sock is not None:
            self._keep(key, connection)
        else:
            connection.close()
        if answer.status != http.client.OK:
            raise ValueError(f"{answer.status} {body[:200].decode(errors='replace').strip()}")
        return connection.node, body

    def _connect(self, address: str, node: str) -> _Connection:
        connection = _Connection(address, node, self._certificates.get().client, self._timeout_s)
        connection.connect()
        return connection

    def _take(self, key: Key) -> _Connection | None:
        with self._lock:
            return self._kept.pop(key, None)

    def _keep(self, key: Key, connection: _Connection) -> None:
        with self._lock:
            surplus = [self._kept.pop(key, None)]
            self._kept[key] = connection
            if len(self._kept) > MAX_KEPT:
                surplus.append(self._kept.popitem(last=False)[1])
        for old in surplus:
            if old is not None:
                old.close()


class _Connection(http.client.HTTPConnection):
    """Goes to an address, and checks there that the certificate is the node's."""

    def __init__(self, address: str, node: str, context: ssl.SSLContext, timeout_s: float) -> None:
        host, _, port = address.rpartition(":")
        super().__init__(host.strip("[]"), int(port), timeout=timeout_s)
        self.node = node
        """The name that the certificate was checked for; of a seed the one that it has."""
        self._context = context

    def connect(self) -> None:
        raw = socket.create_connection((self.host, self.port), self.timeout)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        secured = self._context.wrap_socket(raw)
        names = tls.names(secured)
        if self.node.lower() not in names if self.node else len(names) != 1:
            with contextlib.suppress(OSError):
                secured.close()
            raise ValueError(f"its certificate is that of {', '.join(sorted(names)) or 'nobody'}")
        self.node = self.node or next(iter(names))
        self.sock = secured
