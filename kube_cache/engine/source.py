"""Opens the bytes of a range, on a worker's own connection or, for whatever that does not speak, through botocore.

Turns every answer into one of four things: a body to receive from, `Retry` with the reason, `UnsupportedResponse` (go through botocore), or
an error that ends the transfer. Decides nothing about waiting or giving up.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

import urllib3

from kube_cache.dataset.checksums import DeclaredChecksum, declared_checksum
from kube_cache.dataset.transfer import RemoteObject
from kube_cache.engine import http, tls
from kube_cache.engine.addresses import Addresses
from kube_cache.engine.connection import Connection, StaleConnection, Target
from kube_cache.engine.object_state import ObjectState
from kube_cache.engine.ranges import Range
from kube_cache.engine.receiving import Received, in_python
from kube_cache.errors import AccessDenied, DatasetNotFound, KubeCacheError, SourceChanged, SourceUnavailable
from kube_cache.origin import s3_errors
from kube_cache.origin.routes import Route
from kube_cache.origin.s3 import Body, Origin, Origins

_SLOW_PATH_S: Final = 60.0
_ERROR_BODY: Final = 4096
_THROTTLES: Final = frozenset({429, 500, 503})


class Retry(SourceUnavailable):
    """Try again; `throttled` says that the whole node should slow down."""

    def __init__(self, message: str, *, throttled: bool = False, after_s: float = 0.0) -> None:
        super().__init__(message)
        self.throttled = throttled
        self.after_s = after_s


class Stream(Protocol):
    leftover: bytes
    """What came along with the head."""
    tls: bool
    """Receiving decrypts, too."""

    def receive(self, view: memoryview, crc64: int, crc32c: int, *, with_crc32c: bool) -> Received: ...
    def finish(self) -> None:
        """The body was read to its end."""


class Source:
    """What all workers share: stores, addresses, TLS, and which servers are odd."""

    def __init__(self, origins: Origins, stall_s: float) -> None:
        self.origins = origins
        self.stall_s = stall_s
        self.addresses = Addresses()
        self._lock = threading.Lock()
        self._contexts: dict[str, tls.Context] = {}
        self._slow_path_until: dict[Target, float] = {}

    def context(self, store: Origin) -> tls.Context:
        with self._lock:
            made = self._contexts.get(store.ca_bundle)
            if made is None:
                made = self._contexts[store.ca_bundle] = tls.context(store.ca_bundle)
            return made

    def needs_slow_path(self, target: Target) -> bool:
        return self._slow_path_until.get(target, 0.0) > time.monotonic()

    def use_slow_path(self, target: Target) -> None:
        """Go through botocore for a while, rather than find out again with each range."""
        self._slow_path_until[target] = time.monotonic() + _SLOW_PATH_S


class RangeClient:
    """A worker's client to the store: at most one connection, kept from range to range."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._connection: Connection | None = None

    def open(
        self, state: ObjectState, byte_range: Range, skip: int, on_declared: Callable[[DeclaredChecksum | None], None]
    ) -> Stream:
        """The bytes of `byte_range` from `skip` on. on_declared: hears a small object's checksum, told only with its bytes.

        Raises Retry, SourceUnavailable (retried, too), AccessDenied, DatasetNotFound, SourceChanged.
        """
        store = self._source.origins.of(state.remote.scheme)
        try:
            return self._open(
                store, state, byte_range.offset + skip, byte_range.offset + byte_range.length - 1, on_declared
            )
        except DatasetNotFound as error:
            raise _changed(state, error.message) from error

    def _open(
        self,
        store: Origin,
        state: ObjectState,
        first: int,
        last: int,
        on_declared: Callable[[DeclaredChecksum | None], None],
    ) -> Stream:
        route = store.route(state.remote)
        target = Target(route.tls, route.host, route.port)
        if route.direct and not self._source.needs_slow_path(target):
            try:
                return self._direct(store, route, target, state, first, last, on_declared)
            except http.UnsupportedResponse:
                self.close()
                self._source.use_slow_path(target)
        return _through_botocore(store, state, first, last, on_declared, tls=route.tls)

    def _direct(
        self,
        store: Origin,
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
        request = store.request(route, remote, state.generation, headers)
        connection = self._connect(store, target)
        try:
            head = connection.request(request)
        except StaleConnection:
            self.close()
            connection = self._connect(store, target)
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
            raise _changed(state, f"its ETag is {etag}, it was {remote.etag}")
        if whole:
            on_declared(declared_checksum(head.headers))
        return _DirectStream(self, connection, head)

    def _connect(self, store: Origin, target: Target) -> Connection:
        kept = self._connection
        if kept is not None and kept.target == target:
            return kept
        self.close()
        addresses = self._source.addresses
        context = self._source.context(store) if target.tls else None
        address = addresses.acquire(target.host, target.port)
        try:
            made = Connection(target, address, stall_s=self._source.stall_s, context=context)
        except KubeCacheError:
            addresses.mark_failed(address)
            addresses.release(address)
            raise
        self._connection = made
        return made

    def _refusal(self, connection: Connection, head: http.Head, state: ObjectState, asked: RemoteObject) -> Exception:
        code, message = http.error_code(connection.read(head, _ERROR_BODY))
        self.close()
        if 300 <= head.status < 400:
            return http.UnsupportedResponse(f"redirected ({head.status})")
        if code in s3_errors.EXPIRED:
            return CredentialsExpired(f"{state.name}: {code}")
        if head.status in {404, 412, 416} and code != "NoSuchBucket":
            return _changed(state, f"the store answers {head.status} {code}".rstrip())
        error = s3_errors.from_status(head.status, code, message, resource=state.name)
        if isinstance(error, AccessDenied) and (state.remote.version_id != asked.version_id or state.drop_version()):
            return Retry(f"{state.name}: may not read versions, goes on by ETag alone")
        if isinstance(error, SourceUnavailable):
            throttled = head.status in _THROTTLES or code == "SlowDown"
            return Retry(error.message, throttled=throttled, after_s=http.retry_after(head))
        return error

    def abort(self) -> None:
        """From another thread."""
        connection = self._connection
        if connection is not None:
            connection.abort()

    def refresh_credentials(self, state: ObjectState) -> None:
        self._source.origins.of(state.remote.scheme).refresh_credentials()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            self._source.addresses.release(connection.address)


class CredentialsExpired(SourceUnavailable):
    """The credentials are; fresh ones may help."""


class _DirectStream:
    def __init__(self, client: RangeClient, connection: Connection, head: http.Head) -> None:
        self._client = client
        self._keep = head.keeps_alive
        self.leftover = head.leftover
        self.tls = connection.target.tls
        self.receive = connection.receive

    def finish(self) -> None:
        if not self._keep:
            self._client.close()


class _BotocoreStream:
    """A botocore body behind the same face. Twice the CPU of a connection of ours, but any proxy and any framing."""

    leftover = b""

    def __init__(self, body: Body, name: str, *, tls: bool) -> None:
        self.tls = tls
        self._body = body
        self._name = name

    def receive(self, view: memoryview, crc64: int, crc32c: int, *, with_crc32c: bool) -> Received:
        return in_python(self._read, view, crc64, crc32c, with_crc32c=with_crc32c)

    def _read(self, view: memoryview) -> int:
        try:
            data = self._body.read(min(len(view), 256 << 10))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            self._body.close()
            raise SourceUnavailable(f"{self._name}: the connection broke: {error}") from error
        if not data:
            self._body.close()
            raise SourceUnavailable(f"{self._name}: the connection closed in the middle of a body")
        view[: len(data)] = data
        return len(data)

    def finish(self) -> None:
        """Never raises: the range is whole, whatever the connection does after it."""
        with contextlib.suppress(urllib3.exceptions.HTTPError, OSError):  # a body without a length may not end at all
            self._body.read(1)  # lets the pool have its connection back
        self._body.close()


def _through_botocore(
    store: Origin,
    state: ObjectState,
    first: int,
    last: int,
    on_declared: Callable[[DeclaredChecksum | None], None],
    *,
    tls: bool,
) -> Stream:
    head, body = store.open(state.remote, first, last)
    if state.small and first == 0:
        on_declared(head.checksum)
    return _BotocoreStream(body, state.name, tls=tls)


def _changed(state: ObjectState, how: str) -> SourceChanged:
    return SourceChanged(
        f"{state.name} was replaced or removed since it was listed ({how}); it is resolved again",
        bucket=state.remote.bucket,
        key=state.remote.key,
    )
