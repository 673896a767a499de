"""The requests of one connection of another node, in turn: who asks, for what, and the answer."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Protocol

import structlog

from kube_cache.errors import AccessDenied, KubeCacheError
from kube_cache.peers import requests, tls
from kube_cache.peers.holdings import Holdings, NotYet, OutOfRange, Readable
from kube_cache.peers.limits import RateLimit, Slots
from kube_cache.peers.requests import GetRange, Head, PostMessage, Refused
from kube_cache.peers.tokens import Grant, Verifier
from kube_cache.telemetry import peer_metrics

_log = structlog.get_logger("kube_cache.peers")
_MAX_AGE_S: Final = 600.0
_MIN_BYTES_PER_S: Final = 64 << 10
"""The connection is closed whose answer is taken more slowly; arbitrary, a hundredth of what makes a peer worth it."""
_REASONS: Final = {
    HTTPStatus.UNAUTHORIZED: "token",
    HTTPStatus.FORBIDDEN: "token",
    HTTPStatus.NOT_FOUND: "absent",
    HTTPStatus.CONFLICT: "late",
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: "range",
    HTTPStatus.SERVICE_UNAVAILABLE: "busy",
    HTTPStatus.INTERNAL_SERVER_ERROR: "disk",
}


class Inbox(Protocol):
    """Whoever takes part in the swarms of this node. Thread-safe."""

    def receive(self, snapshot: str, node: str, message: bytes) -> bytes:
        """Take a message of a node, and return this node's own.

        Raises KubeCacheError for a message that cannot be taken.
        """
        ...


@dataclass(frozen=True, slots=True)
class Service:
    """What all connections share. hold_s, patience_s: seconds. clock: seconds since the epoch."""

    tokens: Verifier
    holdings: Holdings
    inbox: Inbox
    limit: RateLimit
    slots: Slots
    max_message: int
    hold_s: float
    patience_s: float
    clock: Callable[[], float]
    closing: threading.Event = field(default_factory=threading.Event)


class Conversation:
    """For one thread."""

    def __init__(self, service: Service, connection: ssl.SSLSocket) -> None:
        self._service = service
        self._connection = connection
        self._names = tls.names(connection)
        self._ends_at = time.monotonic() + _MAX_AGE_S
        self._leftover = b""
        """Bytes of the next request that were received already."""
        self._token = ""
        self._grant: Grant | None = None
        """What `_token` grants: the next request most often shows the same."""
        self._keep = True

    def run(self) -> None:
        """Answer until the connection ends. Raises OSError."""
        while self._keep and not self._service.closing.is_set():
            try:
                head = requests.read_head(self._connection.recv, self._leftover, self._service.patience_s)
                if head is None:
                    return
                self._keep = head.headers.get("connection", "").lower() != "close" and time.monotonic() < self._ends_at
                self._leftover = head.leftover
                wanted = requests.parse(head, self._service.max_message)
                if isinstance(wanted, PostMessage):
                    message = self._body(wanted.length)
                    self._exchange(wanted.snapshot, self._check(head, wanted.snapshot), message)
                else:
                    self._check(head, wanted.snapshot)
                    self._give(wanted)
            except Refused as refused:
                self._keep = self._keep and not refused.ends
                peer_metrics.REFUSED.labels(_REASONS.get(refused.status, "request")).inc()
                self._answer(refused.status, refused.text.encode() + b"\n", refused.headers)

    def _check(self, head: Head, snapshot: str) -> Grant:
        """Check that the node may read the snapshot. Raises Refused."""
        token = requests.token(head)
        try:
            if self._grant is None or token != self._token:
                self._grant = None
                self._grant, self._token = self._service.tokens.read(token), token
            self._grant.check(snapshot, self._names, self._service.clock())
        except AccessDenied as error:
            raise Refused(HTTPStatus.FORBIDDEN, error.message) from error
        return self._grant

    def _exchange(self, snapshot: str, grant: Grant, message: bytes) -> None:
        try:
            own = self._service.inbox.receive(snapshot, grant.node, message)
        except KubeCacheError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, error.message) from error
        self._answer(HTTPStatus.OK, own)

    def _give(self, wanted: GetRange) -> None:
        service = self._service
        try:
            found = service.holdings.open(
                wanted.snapshot, wanted.object_id, wanted.first, wanted.last, wait_s=service.hold_s
            )
        except NotYet as error:
            raise Refused(HTTPStatus.CONFLICT, "this node does not have these bytes yet") from error
        except OutOfRange as error:
            header = f"Content-Range: bytes */{error.size}\r\n"
            raise Refused(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, str(error), headers=header) from error
        except OSError as error:
            _log.warning("cannot open an object for another node", object=wanted.object_id, error=str(error))
            raise Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "cannot read the object") from error
        if found is None:
            raise Refused(HTTPStatus.NOT_FOUND, "this node has no such object of that snapshot")
        try:
            buffer = service.slots.take()
            if buffer is None:
                raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "busy; ask another node", headers="Retry-After: 1\r\n")
            try:
                self._send(found, wanted.first, wanted.last, buffer)
            finally:
                service.slots.give_back(buffer)
        finally:
            found.close()

    def _send(self, found: Readable, first: int, last: int | None, buffer: memoryview) -> None:
        """Send the answer. Raises OSError, TimeoutError where the other end takes it too slowly."""
        end = found.size if last is None else last + 1
        self._connection.sendall(
            f"HTTP/1.1 206 Partial Content\r\nContent-Length: {end - first}\r\n"
            f"Content-Range: bytes {first}-{end - 1}/{found.size}\r\n{self._connection_header()}\r\n".encode()
        )
        offset, deadline = first, time.monotonic() + self._service.patience_s + (end - first) / _MIN_BYTES_PER_S
        while offset < end:
            count = found.read_into(buffer[: end - offset], offset)
            if not count:
                raise OSError(f"the file ends at {offset}, before the bytes that were announced")
            pause_s = self._service.limit.reserve(count)
            if pause_s and self._service.closing.wait(pause_s):
                raise OSError("this node stops serving")
            deadline += pause_s
            self._connection.sendall(buffer[:count])
            if time.monotonic() > deadline:
                raise TimeoutError("an answer is taken too slowly")
            offset += count
            peer_metrics.SENT_BYTES.inc(count)

    def _body(self, length: int) -> bytes:
        """Read the body of a message. Raises OSError."""
        body, self._leftover = requests.read_body(
            self._connection.recv, self._leftover, length, self._service.patience_s, what="a message"
        )
        return body

    def _answer(self, status: HTTPStatus, body: bytes, headers: str = "") -> None:
        self._connection.sendall(
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Length: {len(body)}\r\n"
            f"{headers}{self._connection_header()}\r\n".encode()
            + body
        )

    def _connection_header(self) -> str:
        return "" if self._keep else "Connection: close\r\n"
