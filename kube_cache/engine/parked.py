"""Connections to neighbours that no worker uses now: many workers ask many neighbours in turn, and TLS begins slowly.

A connection to the origin stays with its worker instead, as long as no neighbour is asked.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Final, NamedTuple

from kube_cache.dataset.source import Server
from kube_cache.engine.addresses import Addresses
from kube_cache.engine.connection import Connection

_MAX_PARKED: Final = 64
"""Arbitrary: one of each neighbour that one chunk in turn comes from, and few descriptors."""
_MAX_IDLE_S: Final = 15.0
"""Servers close kept connections after about as long."""


class _Parked(NamedTuple):
    connection: Connection
    since: float


class ParkedConnections:
    """Thread-safe."""

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        self._lock = threading.Lock()
        self._parked: deque[_Parked] = deque()
        """Oldest first."""
        self._closed = False

    def put(self, connection: Connection) -> None:
        """Keep a connection whose last body was read to its end."""
        with self._lock:
            is_kept = not self._closed
            if is_kept:
                self._parked.append(_Parked(connection, time.monotonic()))
        if is_kept:
            self.close_old()
        else:
            self._close([connection])

    def take(self, server: Server) -> Connection | None:
        """Return the youngest connection to the server; None if there is none."""
        with self._lock:
            for parked in reversed(self._parked):
                if parked.connection.server == server:
                    self._parked.remove(parked)
                    return parked.connection
        return None

    def close_old(self) -> None:
        """Close what was not wanted for some time, and what is too much."""
        old: list[Connection] = []
        with self._lock:
            deadline = time.monotonic() - _MAX_IDLE_S
            while self._parked and (len(self._parked) > _MAX_PARKED or self._parked[0].since < deadline):
                old.append(self._parked.popleft().connection)
        self._close(old)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            parked, self._parked = self._parked, deque()
        self._close([one.connection for one in parked])

    def _close(self, connections: list[Connection]) -> None:
        for connection in connections:
            connection.close()
            self._addresses.release(connection.address)
