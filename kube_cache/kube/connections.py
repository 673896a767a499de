"""The connections to the API server: how many are kept, how long they wait, and how a dead one is noticed."""

from __future__ import annotations

import socket
from typing import NamedTuple

import urllib3

from kube_cache.kube.credentials import Credentials

CONNECT_S = 3.0
# Seconds from the first SYN to the first byte of the answer. Less than the 15 s of the activities that call: a request
# must not outlive its activity's attempt, for the next attempt would meet it.
_TOTAL_S = 10.0
# Connections kept for the next call. More calls at once open more connections, which are closed afterwards.
_CONNECTIONS = 64
# A peer that vanished without a goodbye (a node that lost power, a NAT entry that expired) is noticed after
# 15 + 3 * 5 seconds.
_KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]


class PoolPair(NamedTuple):
    requests: urllib3.PoolManager
    watches: urllib3.PoolManager
    """Of their own, so that requests never wait behind connections that are held for minutes."""


class Pools:
    """Connections with the client certificate of the moment. Any thread may call."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._made = credentials.number, self._new_pair()

    def current(self) -> PoolPair:
        """Return the pools to send with; new ones after the credentials were renewed."""
        number, pair = self._made
        if number != self._credentials.number:
            # Two threads may both come here: the pair that loses is dropped with its few connections.
            number, pair = self._made = self._credentials.number, self._new_pair()
        return pair

    def _new_pair(self) -> PoolPair:
        return PoolPair(self._new(), self._new())

    def _new(self) -> urllib3.PoolManager:
        configuration = self._credentials.configuration
        return urllib3.PoolManager(
            maxsize=_CONNECTIONS,
            block=False,
            retries=False,
            timeout=urllib3.Timeout(connect=CONNECT_S, total=_TOTAL_S),
            socket_options=[*urllib3.connection.HTTPConnection.default_socket_options, *_KEEPALIVE],
            ca_certs=configuration.ssl_ca_cert,
            cert_file=configuration.cert_file,
            key_file=configuration.key_file,
            cert_reqs="CERT_REQUIRED" if configuration.verify_ssl else "CERT_NONE",
        )
