"""Chooses the address of a host that a new connection goes to.

An object store answers each DNS query with a few of its very many front ends. A fresh answer for each connection, and
the address with the fewest of our connections, spread the load over all addresses that were ever returned. An address
that failed is avoided for a while.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from typing import Final, NamedTuple

from kube_cache.errors import SourceUnavailable

_FRESH_S: Final = 1.0
"""Connections that open at the same moment share one DNS query."""
_AVOID_S: Final = 30.0
"""Arbitrary: spares most new connections of a download the 3 s of a connect timeout."""

Address = tuple[str, int]


class _Resolution(NamedTuple):
    at: float
    addresses: list[Address]


class Addresses:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._resolutions: dict[Address, _Resolution] = {}
        self._open: Counter[Address] = Counter()
        self._avoid_until: dict[Address, float] = {}

    def acquire(self, host: str, port: int) -> Address:
        """Choose an address and count it as used until `release`. Raises SourceUnavailable."""
        addresses = self._resolve(host, port)
        now = time.monotonic()
        with self._lock:
            # A random one among equals, or all agents of a cluster would begin with the first.
            address = min(
                addresses, key=lambda a: (self._avoid_until.get(a, 0.0) > now, self._open[a], random.random())
            )
            self._open[address] += 1
            return address

    def release(self, address: Address) -> None:
        with self._lock:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]

    def mark_failed(self, address: Address) -> None:
        """Avoid the address for half a minute, as long as the host has others."""
        with self._lock:
            self._avoid_until[address] = time.monotonic() + _AVOID_S

    def _resolve(self, host: str, port: int) -> list[Address]:
        query = (host, port)
        with self._lock:
            resolution = self._resolutions.get(query)
        if resolution is not None and time.monotonic() - resolution.at < _FRESH_S:
            return resolution.addresses
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            if resolution is not None:
                return resolution.addresses  # only the name server may be down
            raise SourceUnavailable(f"cannot resolve {host}: {error}; check the endpoint and the node's DNS") from error
        addresses = list(dict.fromkeys((str(answer[4][0]), int(answer[4][1])) for answer in answers))
        with self._lock:
            self._resolutions[query] = _Resolution(time.monotonic(), addresses)
        return addresses
