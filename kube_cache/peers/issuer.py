"""The operator's HTTPS server that issues certificates to agents, so that no Secret has to hold one for each node.

    POST /v1/certificate    Authorization: Bearer <service account token>; body: a request for a certificate, in PEM
    200                     {"certificate": <PEM>, "life_s": <seconds from now>, "zone": <label>, "rack": <label>}

Whose certificate that is, the token tells (`node_of`), and nothing that the agent says. Where the node is comes with
it, because an agent may not ask the API server. A connection carries one request: an agent comes once in 16 hours.
Whoever has no token of an agent gets a line of text that says why; what the API server did not answer is the agent's to
ask again.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import structlog

from kube_cache.errors import AccessDenied, InvalidRequest, KubeCacheError
from kube_cache.http_server import HttpServer
from kube_cache.peers import requests
from kube_cache.peers.authority import Authority
from kube_cache.peers.members import Place
from kube_cache.peers.requests import Head, Refused
from kube_cache.telemetry import peer_metrics

_log = structlog.get_logger("kube_cache.peers")
PATH: Final = "/v1/certificate"
_MAX_REQUEST: Final = 8 << 10
"""Bytes of a request for a certificate; that of an agent has some 250."""
_MAX_CONNECTIONS: Final = 64
"""Each may wait for an answer of the API server. An agent that is sent away comes again within a minute."""
_PATIENCE_S: Final = 15.0
"""For a handshake, and for a request to come."""


class IssuerServer:
    """Serves from its construction until `close`."""

    def __init__(
        self,
        address: str,
        authority: Authority,
        node_of: Callable[[str], str],
        place_of: Callable[[str], Place] = lambda _node: Place(),
        *,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """Begin to serve. Raises InvalidRequest where the address cannot be had.

        address: `host:port`; port 0 takes a free one. node_of: returns the node of a token; raises AccessDenied where
        the token gives no right to a certificate, and any other KubeCacheError where that could not be found out.
        place_of: returns where a node is; raises KubeCacheError where that could not be found out.
        """
        self._authority = authority
        self._node_of = node_of
        self._place_of = place_of
        self._patience_s = patience_s
        self._http = HttpServer(
            address,
            self._serve,
            what="certificates of nodes",
            setting="KUBE_CACHE_OPERATOR__ISSUER_ADDRESS",
            max_connections=_MAX_CONNECTIONS,
        )

    @property
    def port(self) -> int:
        return self._http.port

    def close(self) -> None:
        self._http.close()

    def _serve(self, raw: socket.socket, address: Any, _: object) -> None:
        """Serve one connection; the beginning of a thread."""
        try:
            raw.settimeout(self._patience_s)
            with self._authority.server_context().wrap_socket(raw, server_side=True) as secured:
                self._converse(secured)
        except (OSError, InvalidRequest) as error:
            _log.info("a connection for a certificate ended", client=str(address), error=str(error))

    def _converse(self, connection: ssl.SSLSocket) -> None:
        """Answer the one request. Raises OSError."""
        try:
            head = requests.read_head(connection.recv, b"", self._patience_s)
            if head is None:
                return
            status, body = HTTPStatus.OK, self._issue(head, _body(connection, head, self._patience_s))
        except Refused as refused:
            status, body = refused.status, refused.text.encode() + b"\n"
        connection.sendall(
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            + body
        )

    def _issue(self, head: Head, request: bytes) -> bytes:
        """Return the answer's body. Raises Refused."""
        token = requests.token(head)
        try:
            node = self._node_of(token)
            place = self._place_of(node)
            issued = self._authority.issue(request, node)
        except AccessDenied as error:
            _note_refusal("denied", error)
            raise Refused(HTTPStatus.FORBIDDEN, error.message) from error
        except InvalidRequest as error:
            _note_refusal("invalid", error)
            raise Refused(HTTPStatus.BAD_REQUEST, error.message) from error
        except KubeCacheError as error:
            _note_refusal("unanswered", error)
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, error.message) from error
        peer_metrics.CERTIFICATES.labels("issued").inc()
        _log.info("issued a certificate", node=node, life_s=issued.life_s, zone=place.zone, rack=place.rack)
        answer = {"certificate": issued.certificate.decode(), "life_s": issued.life_s, **place._asdict()}
        return json.dumps(answer).encode()


def _body(connection: ssl.SSLSocket, head: Head, patience_s: float) -> bytes:
    """Read the body of a POST. Raises Refused, OSError."""
    if head.method != "POST" or head.target != PATH:
        raise Refused(HTTPStatus.NOT_FOUND, f"POST {PATH}, and nothing else")
    length = requests.body_length(head, _MAX_REQUEST, what="a request")
    body, _ = requests.read_body(connection.recv, head.leftover, length, patience_s, what="a request")
    return body


def _note_refusal(result: str, error: KubeCacheError) -> None:
    peer_metrics.CERTIFICATES.labels(result).inc()
    _log.warning("no certificate was issued", result=result, error=error.message, **error.details)
