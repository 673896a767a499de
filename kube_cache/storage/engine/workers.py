"""A worker: one thread that fetches one part at a time over its own connection through its own buffer."""

from __future__ import annotations

import mmap
import random
import socket
import ssl
import time
from typing import TYPE_CHECKING

from kube_cache.errors import AccessDenied, Cancelled, KubeCacheError, SourceChanged, SourceUnavailable
from kube_cache.storage.checksums import UPDATE, Algorithm
from kube_cache.storage.engine.connection import Connection, Head, Odd, Target
from kube_cache.storage.engine.objects import ObjectState, Range
from kube_cache.storage.s3 import ObjectStore
from kube_cache.storage.s3_errors import of_status

if TYPE_CHECKING:
    from kube_cache.storage.engine.engine import Transfer

MIB = 1 << 20
# What is received, checksummed and counted in one go: large enough for few system calls, small enough to stay in cache.
_SLICE = MIB
_TRIES = 6
_LONGEST_WAIT_S = 5.0


class Worker:
    def __init__(self, buffer_bytes: int, context: ssl.SSLContext, stall_s: float) -> None:
        self._map = mmap.mmap(-1, buffer_bytes)
        self._buffer = memoryview(self._map)
        self._context = context
        self._stall_s = stall_s
        self._connection: Connection | None = None

    def abort(self) -> None:
        connection = self._connection
        if connection is not None:
            connection.abort()

    def close(self) -> None:
        self._hang_up()

    def fetch(self, transfer: Transfer, state: ObjectState, one: Range) -> tuple[int, int]:
        """Fetch one part to its place; (CRC64NVME, CRC of the object's own kind or 0).

        A failure resumes inside the part, with the checksums of what is there. Raises what the transfer should end with.
        """
        progress = _Progress()
        wait = 0.1
        for attempt in range(1, _TRIES + 1):
            before = progress.done
            try:
                self._stream(transfer, state, one, progress)
                return progress.crc64, progress.other
            except (SourceUnavailable, Odd) as error:
                self._hang_up()
                transfer.check()
                if progress.done > before:
                    wait = 0.1  # it moves: this is a bad connection, not a bad store
                elif attempt == _TRIES:
                    raise _given_up(error, state) from error
                pause = getattr(error, "retry_after_s", 0.0) or random.uniform(0.1, min(_LONGEST_WAIT_S, wait * 3))
                transfer.pause(pause)
                wait = pause
        raise _given_up(SourceUnavailable("too many interruptions"), state)

    def _stream(self, transfer: Transfer, state: ObjectState, one: Range, progress: _Progress) -> None:
        progress.rewind()
        started = time.perf_counter()
        head = self._request(
            transfer.store_of(state.job.object), state, one.offset + progress.done, one.offset + one.length - 1
        )
        state.timings.first_byte_s += time.perf_counter() - started
        connection = self._connection
        assert connection is not None
        filled = len(head.rest)
        self._buffer[:filled] = head.rest
        hashed = 0
        while progress.done < one.length:
            want = min(len(self._buffer), one.length - progress.done)
            while filled < want:
                start = time.perf_counter()
                filled += connection.receive(self._buffer[filled : min(want, filled + _SLICE - filled % _SLICE)])
                middle = time.perf_counter()
                if filled - hashed >= _SLICE or filled == want:
                    progress.update(state, self._buffer[hashed:filled])
                    hashed = filled
                state.timings.network_s += middle - start
                state.timings.verify_s += time.perf_counter() - middle
                transfer.check()
            if hashed < want:
                progress.update(state, self._buffer[hashed:want])
            start = time.perf_counter()
            state.file.write(self._buffer[:want], one.offset + progress.done)
            state.timings.write_s += time.perf_counter() - start
            progress.done += want
            progress.commit()
            transfer.moved(want)
            filled = hashed = 0
        state.fetched += one.length

    def _request(self, store: ObjectStore, state: ObjectState, first: int, last: int) -> Head:
        obj = state.job.object
        route = store.route(obj)
        target = Target("https" if route.tls else "http", route.host, route.port)
        if self._connection is None or self._connection.target != target:
            self._hang_up()
            context = self._context if route.tls else None
            self._connection = Connection(target, address=_address(target), stall_s=self._stall_s, context=context)
        conditions = {"Range": f"bytes={first}-{last}", "If-Match": obj.etag, "Accept-Encoding": "identity"}
        head = self._connection.request(store.request(route, obj, None, conditions))
        if head.status == 206:
            if (
                head.headers.get("content-range") != f"bytes {first}-{last}/{obj.size}"
                or head.length != last - first + 1
            ):
                raise Odd(f"asked for bytes {first}-{last} of {obj.size}, got {head.headers.get('content-range')!r}")
            if head.headers.get("etag", obj.etag) != obj.etag:
                raise _changed(state, f"ETag {head.headers['etag']}")
            return head
        raise self._refusal(head, state)

    def _refusal(self, head: Head, state: ObjectState) -> KubeCacheError:
        obj = state.job.object
        what = f"{obj.scheme}://{obj.bucket}/{obj.key}"
        body = (head.rest + self._connection.read(min(4096, head.length - len(head.rest)))) if self._connection else b""
        self._hang_up()
        code = body.partition(b"<Code>")[2].partition(b"</Code>")[0].decode(errors="replace")
        if head.status in (412, 416):
            return _changed(state, f"the store answers {head.status}")
        if head.status == 200:
            return SourceUnavailable(f"{what}: the store ignores ranges")
        error = of_status(head.status, code, "", what=what)
        if isinstance(error, AccessDenied) and code in ("ExpiredToken", "RequestTimeTooSkewed", "TokenRefreshRequired"):
            error = SourceUnavailable(f"{what}: {code}; asking for fresh credentials")
        if isinstance(error, SourceUnavailable):
            error.retry_after_s = _seconds(head.headers.get("retry-after", ""))  # type: ignore[attr-defined]
        return error

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Progress:
    """How far a part is, with checksums of what was received and of what was written."""

    def __init__(self) -> None:
        self.done = 0
        self.crc64 = self.other = 0
        self._received = (0, 0)

    def update(self, state: ObjectState, view: memoryview) -> None:
        crc64, other = self._received
        self._received = (
            UPDATE[Algorithm.CRC64NVME](view, crc64),
            UPDATE[state.other](view, other) if state.other else 0,
        )

    def commit(self) -> None:
        self.crc64, self.other = self._received

    def rewind(self) -> None:
        self._received = (self.crc64, self.other)


def _address(target: Target) -> tuple[str, int]:
    """A random one of the host's addresses, asked anew for each connection: that is how S3 spreads its load."""
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise SourceUnavailable(f"cannot resolve {target.host}: {error}") from error
    address = random.choice(found)[4]
    return str(address[0]), int(address[1])


def _changed(state: ObjectState, how: str) -> SourceChanged:
    obj = state.job.object
    return SourceChanged(
        f"{obj.scheme}://{obj.bucket}/{obj.key} was replaced while it was fetched ({how})",
        bucket=obj.bucket,
        key=obj.key,
    )


def _given_up(error: Exception, state: ObjectState) -> KubeCacheError:
    if isinstance(error, Cancelled):
        return error
    obj = state.job.object
    return SourceUnavailable(
        f"{obj.scheme}://{obj.bucket}/{obj.key}: gave up after {_TRIES} tries: {error}", bucket=obj.bucket, key=obj.key
    )


def _seconds(text: str) -> float:
    return min(float(text), 20.0) if text.isdigit() else 0.0
