"""Which of a host's addresses a new connection goes to.

Object stores answer DNS with a few of very many front ends: a fresh answer for each connection, and the address with the
fewest connections of ours, spread the load over all that we ever hear of. A failed address is avoided for a while.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from typing import Final

from kube_cache.errors import SourceUnavailable

_FRESH_S: Final = 1.0  # 64 connections that open at once ask once
_AVOID_S: Final = 30.0

Address = tuple[str, int]


class Addresses:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[Address, tuple[float, list[Address]]] = {}
        self._open: Counter[Address] = Counter()
        self._failed: dict[Address, float] = {}

    def acquire(self, host: str, port: int) -> Address:
        """Counted as open until `release`. Raises SourceUnavailable."""
        found = self._resolve(host, port)
        now = time.monotonic()
        with self._lock:
            # Of equals a random one, or a thousand agents would all begin with the first.
            chosen = min(found, key=lambda each: (self._failed.get(each, 0.0) > now, self._open[each], random.random()))
            self._open[chosen] += 1
            return chosen

    def release(self, address: Address) -> None:
        with self._lock:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]

    def mark_failed(self, address: Address) -> None:
        with self._lock:
            self._failed[address] = time.monotonic() + _AVOID_S

    def _resolve(self, host: str, port: int) -> list[Address]:
        asked = (host, port)
        with self._lock:
            when, found = self._known.get(asked, (0.0, []))
        if found and time.monotonic() - when < _FRESH_S:
            return found
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            if found:
                return found  # the name server is ill, the object store may be well
            raise SourceUnavailable(f"cannot resolve {host}: {error}; check the endpoint and the node's DNS") from error
        found = list(dict.fromkeys((str(answer[4][0]), int(answer[4][1])) for answer in answers))
        with self._lock:
            self._known[asked] = (time.monotonic(), found)
        return found
