"""A worker's HTTP client: opens the bytes of a range, on its own connection or through botocore.

Turns each response into a body to receive from, `Retry` with the reason, or an error that ends the transfer. Does not
wait, count attempts or give up: the worker does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kube_cache.dataset.checksums import DeclaredChecksum, declared_checksum
from kube_cache.dataset.transfer import RemoteObject
from kube_cache.engine import botocore_stream, http
from kube_cache.engine.connection import Connection, StaleConnection, Target
from kube_cache.engine.object_state import ObjectState
from kube_cache.engine.ranges import Range
from kube_cache.engine.source import CredentialsExpired, Retry, Source, Stream, object_changed
from kube_cache.errors import AccessDenied, DatasetNotFound, KubeCacheError, SourceUnavailable
from kube_cache.origin import s3_errors
from kube_cache.origin.routes import Route
from kube_cache.origin.s3 import Origin

_MAX_ERROR_BODY: Final = 4096
"""Bytes; S3's error documents have some hundred."""
_THROTTLES: Final = frozenset({429, 500, 503})
"""503 is S3's word for it and 429 that of other servers; a 500 is often one of a server under load."""


class RangeClient:
    """Holds at most one connection and keeps it from range to range. For one thread, except `abort`."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._connection: Connection | None = None

    def open(
        self, state: ObjectState, byte_range: Range, skip: int, on_declared: Callable[[DeclaredChecksum | None], None]
    ) -> Stream:
        """Open the bytes of `byte_range` after the first `skip`.

        on_declared: called with the checksum of a small object, which comes with the bytes and not with a HEAD.
        Raises Retry, SourceUnavailable (retried, too), AccessDenied, SourceChanged.
        """
        origin = self._source.origins.of(state.remote.scheme)
        first, last = byte_range.offset + skip, byte_range.offset + byte_range.length - 1
        try:
            return self._open(origin, state, first, last, on_declared)
        except DatasetNotFound as error:
            raise object_changed(state, error.message) from error

    def refresh_credentials(self, state: ObjectState) -> None:
        self._source.origins.of(state.remote.scheme).refresh_credentials()

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
            self._source.addresses.release(connection.address)

    def _open(
        self,
        origin: Origin,
        state: ObjectState,
        first: int,
        last: int,
        on_declared: Callable[[DeclaredChecksum | None], None],
    ) -> Stream:
        route = origin.route(state.remote)
        target = Target(route.tls, route.host, route.port)
        if route.direct and not self._source.needs_slow_path(target):
            try:
                return self._open_direct(origin, route, target, state, first, last, on_declared)
            except http.UnsupportedResponse:
                self.close()
                self._source.use_slow_path(target)
        return botocore_stream.open_stream(origin, state, first, last, on_declared, tls=route.tls)

    def _open_direct(
        self,
        origin: Origin,
        route: Route,
        target: Target,
        state: ObjectState,
        first: int,
        last: int,
        on_declared: Callable[[DeclaredChecksum | None], None],
    ) -> Stream:
        remote = state.remote
        whole = state.small and first == 0
        headers: dict[str, str] = {}
        if remote.etag:
            headers["If-Match"] = remote.etag
        if not whole:
            headers["Range"] = f"bytes={first}-{last}"
        elif remote.scheme == "s3":
            headers["x-amz-checksum-mode"] = "ENABLED"
        request = origin.request(route, remote, state.generation, headers)
        connection = self._connect(origin, target)
        try:
            head = connection.request(request)
        except StaleConnection:
            self.close()
            connection = self._connect(origin, target)
            head = connection.request(request)
        if head.status >= 300:
            raise self._refusal(connection, head, state, remote)
        if whole:
            http.check_whole(head, remote.size)
        else:
            http.check_range(head, first, last, remote.size)
        etag = head.headers.get("etag", remote.etag)
        if remote.etag and etag != remote.etag:
            self.close()
            raise object_changed(state, f"its ETag is {etag}, it was {remote.etag}")
        if whole:
            on_declared(declared_checksum(head.headers))
        return _DirectStream(self, connection, head)

    def _connect(self, origin: Origin, target: Target) -> Connection:
        kept = self._connection
        if kept is not None and kept.target == target:
            return kept
        self.close()
        addresses = self._source.addresses
        context = self._source.context(origin) if target.tls else None
        address = addresses.acquire(target.host, target.port)
        try:
            connection = Connection(target, address, stall_s=self._source.stall_s, context=context)
        except KubeCacheError:
            addresses.mark_failed(address)
            addresses.release(address)
            raise
        self._connection = connection
        return connection

    def _refusal(
        self, connection: Connection, head: http.Head, state: ObjectState, requested: RemoteObject
    ) -> Exception:
        """Return the error that a response of 300 or more means. requested: `state.remote` as the request named it."""
        code, message = http.error_code(connection.read(head, _MAX_ERROR_BODY))
        self.close()
        if 300 <= head.status < 400:
            return http.UnsupportedResponse(f"redirected ({head.status})")
        if code in s3_errors.EXPIRED:
            return CredentialsExpired(f"{state.name}: {code}")
        if head.status in {404, 412, 416} and code != "NoSuchBucket":
            return object_changed(state, f"the object store answers {head.status} {code}".rstrip())
        error = s3_errors.from_status(head.status, code, message, resource=state.name)
        if isinstance(error, AccessDenied) and (
            state.remote.version_id != requested.version_id or state.drop_version()
        ):
            return Retry(f"{state.name}: may not read versions, goes on by ETag alone")
        if isinstance(error, SourceUnavailable):
            throttled = head.status in _THROTTLES or code == "SlowDown"
            return Retry(error.message, throttled=throttled, after_s=http.retry_after_s(head))
        return error


class _DirectStream:
    """Implements `Stream` over the client's own connection."""

    def __init__(self, client: RangeClient, connection: Connection, head: http.Head) -> None:
        self._client = client
        self._keep = head.keeps_alive
        self.leftover = head.leftover
        self.tls = connection.target.tls
        self.receive = connection.receive

    def finish(self) -> None:
        if not self._keep:
            self._client.close()
