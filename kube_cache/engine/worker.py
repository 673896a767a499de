"""A worker: one thread that fetches one range at a time, with its own client, through its own buffer.

How a range changes hands. Two workers may fetch one range (a hedge), but only its `owner` writes. A worker becomes the
owner with its first full buffer, if no other worker has got further than the point where this one began. A worker that
has a full buffer and is not the owner any more drops the buffer and leaves the range. So the bytes in the file are
always those that the range's checksums were computed over, whatever the other connection delivered.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from kube_cache.backoff import Backoff
from kube_cache.dataset.checksums import UPDATE, Algorithm
from kube_cache.engine.buffers import SLOT_BYTES
from kube_cache.engine.control import Control
from kube_cache.engine.object_state import ObjectState
from kube_cache.engine.part_file import BLOCK
from kube_cache.engine.range_client import RangeClient
from kube_cache.engine.ranges import Range
from kube_cache.engine.source import CredentialsExpired, Retry, Source, Stream
from kube_cache.engine.throttle import MAX_BACKOFF_S, MIN_BACKOFF_S, BandwidthLimiter, RequestLimiter
from kube_cache.engine.work_queue import Attempt, Outcome
from kube_cache.errors import AccessDenied, KubeCacheError, SourceUnavailable

_MIN_FAILURES: Final = 8
"""Failures of a range before the call may end with it, so that a few bad connections in a row end nothing."""
_crc64 = UPDATE[Algorithm.CRC64NVME]


class Superseded(Exception):
    """Another worker owns the range now."""


class Worker:
    def __init__(
        self,
        number: int,
        source: Source,
        request_limiter: RequestLimiter,
        bandwidth_limiter: BandwidthLimiter,
        view: memoryview,
        give_up_s: float,
        peers: Callable[[], list[Worker]],
    ) -> None:
        """number: of the buffer's slot. view: the buffer. peers: all workers of the engine."""
        self.number = number
        self.client = RangeClient(source)
        self.buffer_bytes = SLOT_BYTES
        """The part of the buffer that the worker may use."""
        self.view = view
        self.attempt: Attempt | None = None
        """The attempt under way; read by the governor and by other workers at the same range."""
        self.received = 0
        """Bytes since the worker's start; the governor takes differences."""
        self.write_s = 0.0
        """Seconds of writing since the worker's start."""
        self._request_limiter = request_limiter
        self._bandwidth_limiter = bandwidth_limiter
        self._give_up_s = give_up_s
        self._peers = peers

    def fetch(self, control: Control, attempt: Attempt) -> Outcome:
        """Fetch the range of `attempt` to its place, or leave it to another worker. Raises what ends the call."""
        self.attempt = attempt
        try:
            return self._fetch(control, attempt)
        finally:
            self.attempt = None

    def _fetch(self, control: Control, attempt: Attempt) -> Outcome:
        queue, state, byte_range = attempt
        backoff = Backoff(MIN_BACKOFF_S, MAX_BACKOFF_S)
        refreshed = False
        while True:
            done_before = byte_range.done
            try:
                self._request(control, state, byte_range)
                return Outcome.COMPLETE
            except Superseded:
                self.client.close()  # in the middle of a body
                return Outcome.LOST
            except SourceUnavailable as error:
                self.client.close()
                control.check()
                byte_range.failures += 1
                if queue.give_up(byte_range):
                    return Outcome.GIVEN_UP
                if isinstance(error, CredentialsExpired):
                    if refreshed:
                        raise AccessDenied(f"{error.message}; renewed credentials are refused as well") from error
                    refreshed = True
                    self.client.refresh_credentials(state)
                    continue
                retry_after_s = 0.0
                if isinstance(error, Retry):
                    retry_after_s = error.after_s
                    if error.throttled:
                        self._request_limiter.slow_down(error.after_s)
                if byte_range.done > done_before:  # bytes came: the connection was bad, not the object store
                    backoff.reset()
                    byte_range.failures = 1
                silent_s = time.monotonic() - control.last_byte_at
                if byte_range.failures >= _MIN_FAILURES and silent_s > self._give_up_s:
                    raise _given_up(error, state, byte_range.failures) from error
                started = time.perf_counter()
                control.pause(max(retry_after_s, backoff.next_s()))
                state.timings.wait_s += time.perf_counter() - started
            except BaseException:
                self.client.close()
                raise

    def _request(self, control: Control, state: ObjectState, byte_range: Range) -> None:
        """Fetch the rest of the range by one request. Raises Superseded, SourceUnavailable and what ends the call."""
        timings = state.timings
        started = time.perf_counter()
        if delay_s := self._request_limiter.reserve():
            control.pause(delay_s)
        sent = time.perf_counter()
        timings.wait_s += sent - started
        with byte_range.lock:
            done, crc64, aux = byte_range.done, byte_range.crc64, byte_range.aux
        if done == byte_range.length:
            raise Superseded
        stream = self.client.open(state, byte_range, done, state.declare)
        timings.first_byte_s += time.perf_counter() - sent
        self._receive(control, state, byte_range, stream, done, crc64, aux)
        stream.finish()

    def _receive(
        self, control: Control, state: ObjectState, byte_range: Range, stream: Stream, done: int, crc64: int, aux: int
    ) -> None:
        """Receive the body, a buffer at a time. done, crc64, aux: the range's when the request was sent."""
        timings = state.timings
        with_crc32c = state.aux_algorithm is Algorithm.CRC32C
        update_aux = UPDATE[state.aux_algorithm] if state.aux_algorithm else None
        while done < byte_range.length:
            shift = (byte_range.offset + done) % BLOCK  # aligns whole blocks of the file with pages of the buffer
            length = min(self.buffer_bytes - shift, byte_range.length - done)
            view = self.view[shift : shift + length]
            filled = len(stream.leftover)
            if filled:
                view[:filled] = stream.leftover
                stream.leftover = b""
                crc64 = _crc64(view[:filled], crc64)
                if update_aux is not None:
                    aux = update_aux(view[:filled], aux)
                self.received += filled
            while filled < length:
                count, crc64, crc32c, receive_s, verify_s, cpu_s = stream.receive(
                    view[filled:], crc64, aux, with_crc32c=with_crc32c
                )
                control.check()
                if with_crc32c:
                    aux = crc32c
                elif update_aux is not None:
                    aux = update_aux(view[filled : filled + count], aux)
                filled += count
                self.received += count
                # With TLS nearly all CPU time of a receive is decryption; without, all of it is the kernel's copy.
                decrypt_s = cpu_s if stream.tls else 0.0
                timings.network_s += receive_s - decrypt_s
                timings.decrypt_s += decrypt_s
                timings.verify_s += verify_s
                if delay_s := self._bandwidth_limiter.reserve(count):
                    control.pause(delay_s)
            self._commit(control, state, byte_range, view, done, crc64, aux)
            done += length

    def _commit(
        self, control: Control, state: ObjectState, byte_range: Range, view: memoryview, done: int, crc64: int, aux: int
    ) -> None:
        """Write a buffer that begins at `done` of the range. crc64, aux: including the buffer. Raises Superseded."""
        started = time.perf_counter()
        with byte_range.lock:
            control.check()
            if byte_range.owner is not self:
                if byte_range.done != done or byte_range.done == byte_range.length:
                    raise Superseded
                byte_range.owner = self
                if byte_range.hedged:
                    self._abort_losers(byte_range)
            elif byte_range.done != done:
                raise Superseded
            state.file.write(view, byte_range.offset + done)
            byte_range.done, byte_range.crc64, byte_range.aux = done + len(view), crc64, aux
        write_s = time.perf_counter() - started
        state.timings.write_s += write_s
        self.write_s += write_s
        state.fetched_bytes += len(view)
        control.received(len(view))

    def _abort_losers(self, byte_range: Range) -> None:
        """Abort the other workers' connections at this range, so that they do not wait for its bytes any longer."""
        for peer in self._peers():
            attempt = peer.attempt
            if peer is not self and attempt is not None and attempt.byte_range is byte_range:
                peer.client.abort()


def _given_up(error: KubeCacheError, state: ObjectState, failures: int) -> KubeCacheError:
    return SourceUnavailable(
        f"{state.name}: gave up after {failures} tries: {error.message}",
        bucket=state.remote.bucket,
        key=state.remote.key,
    )
