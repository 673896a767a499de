"""A worker: one thread that fetches one range at a time, over its own client, through its own buffer.

How a range changes hands. Two workers may be at one range (a hedge), but only one writes: the range's `owner`. A worker
becomes the owner with its first full buffer, if nobody has got further than where it began; whoever finds, with a full
buffer in hand, that it is not the owner any more, drops it and leaves. So the bytes in the file are always those that the
range's checksums were computed over, whatever the other connection delivered.
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
from kube_cache.engine.ranges import Range
from kube_cache.engine.source import CredentialsExpired, RangeClient, Retry, Source, Stream
from kube_cache.engine.throttle import MAX_BACKOFF_S, MIN_BACKOFF_S, BandwidthLimiter, RequestLimiter
from kube_cache.engine.work_queue import Attempt, Outcome
from kube_cache.errors import AccessDenied, KubeCacheError, SourceUnavailable

_MAX_FAILURES: Final = 8
_crc64 = UPDATE[Algorithm.CRC64NVME]


class Superseded(Exception):
    """Another worker has the range now."""


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
        self.number = number
        self.client = RangeClient(source)
        self.buffer_bytes = SLOT_BYTES
        self.view = view
        self._request_limiter = request_limiter
        self._bandwidth_limiter = bandwidth_limiter
        self._give_up_s = give_up_s
        self._peers = peers
        self.attempt: Attempt | None = None
        """The attempt under way, for the governor and for other workers at the same range."""
        self.received = 0
        """Bytes ever; the governor takes differences."""
        self.write_s = 0.0

    def fetch(self, control: Control, attempt: Attempt) -> Outcome:
        """Bring the range to its place, or leave it to another worker. Raises what the call should end with."""
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
            before = byte_range.done
            try:
                self._attempt(control, state, byte_range)
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
                wait = 0.0
                if isinstance(error, Retry):
                    wait = error.after_s
                    if error.throttled:
                        self._request_limiter.slow_down(error.after_s)
                if byte_range.done > before:  # it moves: a bad connection, not a bad store
                    backoff.reset()
                    byte_range.failures = 1
                if byte_range.failures >= _MAX_FAILURES and time.monotonic() - control.last_byte_at > self._give_up_s:
                    raise _given_up(error, state, byte_range.failures) from error
                started = time.perf_counter()
                control.pause(max(wait, backoff.next_s()))
                state.timings.wait_s += time.perf_counter() - started
            except BaseException:
                self.client.close()
                raise

    def _attempt(self, control: Control, state: ObjectState, byte_range: Range) -> None:
        timings = state.timings
        started = time.perf_counter()
        if delay := self._request_limiter.reserve():
            control.pause(delay)
        opened = time.perf_counter()
        timings.wait_s += opened - started
        with byte_range.lock:
            done, crc64, aux = byte_range.done, byte_range.crc64, byte_range.aux
        if done == byte_range.length:
            raise Superseded
        stream = self.client.open(state, byte_range, done, state.declare)
        timings.first_byte_s += time.perf_counter() - opened
        self._receive(control, state, byte_range, stream, done, crc64, aux)
        stream.finish()

    def _receive(
        self, control: Control, state: ObjectState, byte_range: Range, stream: Stream, done: int, crc64: int, aux: int
    ) -> None:
        timings = state.timings
        with_crc32c = state.aux is Algorithm.CRC32C
        update_aux = UPDATE[state.aux] if state.aux else None
        while done < byte_range.length:
            shift = (byte_range.offset + done) % BLOCK
            want = min(self.buffer_bytes - shift, byte_range.length - done)
            view = self.view[shift : shift + want]
            filled = len(stream.leftover)  # came along with the head
            if filled:
                view[:filled] = stream.leftover
                stream.leftover = b""
                crc64 = _crc64(view[:filled], crc64)
                if update_aux is not None:
                    aux = update_aux(view[:filled], aux)
                self.received += filled
            while filled < want:
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
                # The CPU of receiving is the kernel's copy, and with TLS decryption, which is far more of it.
                decrypt_s = cpu_s if stream.tls else 0.0
                timings.network_s += receive_s - decrypt_s
                timings.decrypt_s += decrypt_s
                timings.verify_s += verify_s
                if delay := self._bandwidth_limiter.reserve(count):
                    control.pause(delay)
            self._commit(control, state, byte_range, view, done, crc64, aux)
            done += want

    def _commit(
        self, control: Control, state: ObjectState, byte_range: Range, view: memoryview, done: int, crc64: int, aux: int
    ) -> None:
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
        spent = time.perf_counter() - started
        state.timings.write_s += spent
        self.write_s += spent
        state.fetched_bytes += len(view)
        control.received(len(view))

    def _abort_losers(self, byte_range: Range) -> None:
        """Abort the connections of others at this range: they need not wait for its bytes any longer."""
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
