"""A worker's HTTP client: opens the bytes of a range, on its own connection or by the source's own means.

Turns each response into a body to receive from, or raises what its source says that the response means. Does not wait,
count attempts or give up: the worker does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kube_cache.dataset.checksums import DeclaredChecksum
from kube_cache.dataset.source import Answer, Piece, Request, Retry, Source, UnsupportedAnswer, object_changed
from kube_cache.engine import http
from kube_cache.engine.body_stream import BodyStream
from kube_cache.engine.connection import Connection, StaleConnection
from kube_cache.engine.object_state import ObjectState
from kube_cache.engine.ranges import Range
from kube_cache.engine.receiving import Received
from kube_cache.engine.wire import Stream, Wire
from kube_cache.errors import AccessDenied, DatasetNotFound, TransferStalled

_MAX_ERROR_BODY: Final = 4096
"""Bytes; S3's error documents have some hundred."""

OnDeclared = Callable[[DeclaredChecksum | None], None]


class RangeClient:
    """Holds at most one connection and keeps it from range to range. For one thread, except `abort`.

    While neighbours are asked in turn, a connection to another one is parked, for whichever worker needs it next.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._connection: Connection | None = None
        self._leads_to_neighbour = False

    def open(
        self,
        source: Source,
        state: ObjectState,
        byte_range: Range,
        skip: int,
        *,
        neighbour: bool = False,
        min_bytes_per_s: int = 0,
    ) -> Stream:
        """Open the bytes of `byte_range` after the first `skip`. A small object hears of its checksum on the way.

        neighbour: the source is no origin, so that its refusals say nothing of the object. min_bytes_per_s: as in
        `Request`. Raises Retry, SourceUnavailable (retried, too), AccessDenied, SourceChanged; DatasetNotFound of a
        neighbour.
        """
        remote = state.remote
        first, last = byte_range.offset + skip, byte_range.offset + byte_range.length - 1
        whole = state.small and first == 0 and last == remote.size - 1
        piece = Piece(remote, first, last, state.generation, whole)
        try:
            return self._open(source, piece, state.declare, neighbour=neighbour, min_bytes_per_s=min_bytes_per_s)
        except DatasetNotFound as error:
            if neighbour:
                raise
            raise object_changed(remote, error.message) from error
        except AccessDenied as error:
            if not neighbour and (state.remote.version_id != remote.version_id or state.drop_version()):
                raise Retry(f"{state.name}: may not read versions, goes on by ETag alone") from error
            raise

    def abort(self) -> None:
        """Wake the worker from a receive, which then fails. For other threads."""
        connection = self._connection
        if connection is not None:
            connection.abort()

    def close(self) -> None:
        """Close the connection; the next range opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            self._wire.addresses.release(connection.address)

    def _open(
        self, source: Source, piece: Piece, on_declared: OnDeclared, *, neighbour: bool, min_bytes_per_s: int
    ) -> Stream:
        request = source.request(piece)
        if request is not None and not self._wire.needs_slow_path(request.server):
            self._make_way(request, neighbour=neighbour)
            try:
                return self._open_direct(source, piece, request, on_declared, min_bytes_per_s)
            except UnsupportedAnswer:
                self.close()
                self._wire.use_slow_path(request.server)
        body = source.open(piece)
        if piece.whole:
            on_declared(body.checksum)
        return BodyStream(body, piece.object.uri)

    def _open_direct(
        self, source: Source, piece: Piece, request: Request, on_declared: OnDeclared, min_bytes_per_s: int
    ) -> Stream:
        connection = self._connect(request)
        try:
            head = connection.request(request.data)
        except StaleConnection:
            self.close()
            connection = self._connect(request, fresh=True)
            head = connection.request(request.data)
        body = b""
        if head.status >= 300:
            body = connection.read(head, _MAX_ERROR_BODY)
            self.close()
        elif piece.whole:
            http.check_whole(head, piece.object.size)
        else:
            http.check_range(head, piece.first, piece.last, piece.object.size)
        declared = source.accept(piece, Answer(head.status, head.headers, body))
        if piece.whole:
            on_declared(declared)
        return _DirectStream(self, connection, head, max(min_bytes_per_s, request.min_bytes_per_s))

    def _make_way(self, request: Request, *, neighbour: bool) -> None:
        """Let go of a connection to another server: park it where neighbours are asked in turn, else close it."""
        kept = self._connection
        if kept is not None and kept.server != request.server:
            if neighbour or self._leads_to_neighbour:
                self._connection = None
                self._wire.parked.put(kept)
            else:
                self.close()
        self._leads_to_neighbour = neighbour

    def _connect(self, request: Request, *, fresh: bool = False) -> Connection:
        """Return the kept connection, or another one. fresh: no parked one."""
        if self._connection is None:
            parked = None if fresh else self._wire.parked.take(request.server)
            self._connection = parked or self._wire.connect(request)
        return self._connection


class _DirectStream:
    """Implements `Stream` over the client's own connection."""

    def __init__(self, client: RangeClient, connection: Connection, head: http.Head, min_bytes_per_s: int) -> None:
        self._client = client
        self._connection = connection
        self._keep = head.keeps_alive
        self._min_bytes_per_s = min_bytes_per_s
        self._came = 0
        self._waited_s = 0.0
        self.leftover = head.leftover
        self.tls = connection.server.tls
        self.receive = self._receive_watched if min_bytes_per_s else connection.receive

    def finish(self) -> None:
        if not self._keep:
            self._client.close()

    def _receive_watched(self, view: memoryview, crc64: int, crc32c: int, *, with_crc32c: bool) -> Received:
        """Receive, and count a server as stalled that sends next to nothing for as long as a stall takes."""
        received = self._connection.receive(view, crc64, crc32c, with_crc32c=with_crc32c)
        self._came += received[0]  # C returns a plain tuple
        self._waited_s += received[3]
        if self._waited_s >= self._connection.stall_s:
            if self._came < self._min_bytes_per_s * self._waited_s:
                host = self._connection.server.host
                raise TransferStalled(f"{host} sent {self._came} bytes in {self._waited_s:.1f} s")
            self._came, self._waited_s = 0, 0.0
        return received
