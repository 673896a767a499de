"""A worker: one thread that fetches one range at a time, with its own client, through its own buffer.

How a range changes hands. Two workers may fetch one range (a hedge), but only its `owner` writes. A worker becomes the
owner with its first full buffer, if no other worker has got further than the point where this one began. A worker that
has a full buffer and is not the owner any more drops the buffer and leaves the range. So the bytes in the file are
always those that the range's checksums were computed over, whatever the other connection delivered.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from kube_cache.backoff import Backoff
from kube_cache.dataset.checksums import BASE
from kube_cache.dataset.range_plan import WrongBytes
from kube_cache.dataset.source import CredentialsExpired, Origins, Retry, Source
from kube_cache.dataset.transfer import Timings
from kube_cache.engine.buffers import SLOT_BYTES
from kube_cache.engine.control import Control
from kube_cache.engine.object_state import ObjectState
from kube_cache.engine.part_file import BLOCK
from kube_cache.engine.range_client import RangeClient
from kube_cache.engine.ranges import Range
from kube_cache.engine.receiving import FUSED_AUX
from kube_cache.engine.throttle import MAX_BACKOFF_S, MIN_BACKOFF_S, BandwidthLimiter, RequestLimiter
from kube_cache.engine.totals import Totals
from kube_cache.engine.wire import Stream, Wire
from kube_cache.engine.work_queue import Attempt, Outcome
from kube_cache.errors import AccessDenied, Cancelled, DiskFault, KubeCacheError, SourceUnavailable, TransferStalled

_log = logging.getLogger("kube_cache.engine")
_MAX_PLANNED_PAUSE_S: Final = 2.0
"""After a failure of the origin, until the plan is asked again: a neighbour may have the range by then."""
_MIN_PLANNED_BYTES_PER_S: Final = 16 << 10
"""A planned range is not hedged, so an origin that drips has failed. Arbitrary: far below any connection that works."""
_MIN_FAILURES: Final = 8
"""Failures of a range before the call may end with it, so that a few bad connections in a row end nothing."""
_update_base = BASE.update


class Superseded(Exception):
    """Another worker owns the range now."""


class Worker:
    def __init__(
        self,
        number: int,
        origins: Origins,
        wire: Wire,
        request_limiter: RequestLimiter,
        bandwidth_limiter: BandwidthLimiter,
        view: memoryview,
        give_up_s: float,
        peers: Callable[[], list[Worker]],
    ) -> None:
        """number: of the buffer's slot. view: the buffer. peers: all workers of the engine."""
        self.number = number
        self.client = RangeClient(wire)
        self.buffer_bytes = SLOT_BYTES
        """The part of the buffer that the worker may use."""
        self.view = view
        self.attempt: Attempt | None = None
        """The attempt under way; read by the governor and by other workers at the same range."""
        self.received = 0
        """Bytes since the worker's start; the governor takes differences."""
        self.write_s = 0.0
        """Seconds of writing since the worker's start."""
        self.totals = Totals()
        """Since the worker's start, apart from the two above; most are brought up to date after each request."""
        self._asks_neighbour = False
        """What comes now is a neighbour's."""
        self.range_timings: Timings | None = None
        """Seconds of the range under way, while it is traced."""
        self.failure: KubeCacheError | None = None
        """Why the last attempt left its range to the plan; None: the journal's claim did not hold."""
        self._origins = origins
        self._request_limiter = request_limiter
        self._bandwidth_limiter = bandwidth_limiter
        self._give_up_s = give_up_s
        self._peers = peers

    def fetch(self, control: Control, attempt: Attempt) -> Outcome:
        """Bring the range of `attempt` to its place, or leave it to another worker. Raises what ends the call."""
        self.failure = None
        if attempt.byte_range.claimed is not None:
            if self._resume(control, attempt.state, attempt.byte_range):
                return Outcome.RESUMED
            if attempt.state.planned is not None:
                return Outcome.LEFT_TO_PLAN
        self.attempt = attempt  # only now: the governor would take a worker that reads the disk for a silent one
        try:
            if attempt.source is not None:
                return self._fetch_from_neighbour(control, attempt, attempt.source)
            return self._fetch(control, attempt)
        finally:
            self.attempt = None

    def read_crcs(self, control: Control, state: ObjectState, byte_range: Range) -> None:
        """Set the CRCs of the range to those of its bytes on the disk. Raises DiskFault, Cancelled."""
        base = aux = done = 0
        update_aux = state.aux.update if state.aux else None
        while done < byte_range.length:
            control.check()
            offset = byte_range.offset + done
            piece = state.file.read(self.view[: self.buffer_bytes], offset, byte_range.length - done)
            base = _update_base(piece, base)
            if update_aux is not None:
                aux = update_aux(piece, aux)
            done += len(piece)
        byte_range.base, byte_range.aux = base, aux

    def _resume(self, control: Control, state: ObjectState, byte_range: Range) -> bool:
        """Compare a range that the journal claims with the disk; True if nothing need be fetched."""
        claimed, byte_range.claimed = byte_range.claimed, None
        try:
            self.read_crcs(control, state, byte_range)
        except DiskFault as fault:  # a sector that cannot be read is often mended by writing it
            _log.warning("%s: a resumed range is fetched again: %s", state.name, fault.message)
        else:
            if byte_range.base == claimed:
                byte_range.done = byte_range.length
                control.meter.resume(byte_range.length)
                return True
            _log.warning("%s: a resumed range is not what the journal claims, and is fetched again", state.name)
        byte_range.base = byte_range.aux = 0
        return False

    def _fetch(self, control: Control, attempt: Attempt) -> Outcome:
        queue, state, byte_range, choice = attempt
        # Each attempt at a planned range is a new one, and goes on with the backoff of those before.
        backoff = Backoff(
            MIN_BACKOFF_S if choice is None else MIN_BACKOFF_S * max(1, byte_range.failures), MAX_BACKOFF_S
        )
        refreshed = False
        while True:
            done_before = byte_range.done
            try:
                self._request(control, state, byte_range, self._origins.of(state.remote.scheme))
                return Outcome.COMPLETE
            except Superseded:
                self.client.close()  # in the middle of a body
                return Outcome.LOST
            except SourceUnavailable as error:
                self.client.close()
                control.check()
                byte_range.failures += 1
                self.totals.retries[_cause(error)] += 1
                if queue.give_up(byte_range):
                    return Outcome.GIVEN_UP
                if isinstance(error, CredentialsExpired):
                    if refreshed:
                        raise AccessDenied(f"{error.message}; renewed credentials are refused as well") from error
                    refreshed = True
                    error.renew()
                    continue
                if isinstance(error, Retry) and error.throttled:
                    self._request_limiter.slow_down(error.after_s)
                if byte_range.done > done_before:  # bytes came: the connection was bad, not the object store
                    backoff.reset()
                    byte_range.failures = 1
                silent_s = time.monotonic() - control.last_byte_at
                if byte_range.failures >= _MIN_FAILURES and silent_s > self._give_up_s:
                    raise _given_up(error, state, byte_range.failures) from error
                self._pause(control, state, error, backoff.next_s(), planned=choice is not None)
                if choice is not None:
                    self.failure = error
                    return Outcome.LEFT_TO_PLAN
            except BaseException:
                self.client.close()
                raise

    def _pause(
        self, control: Control, state: ObjectState, error: SourceUnavailable, delay_s: float, *, planned: bool
    ) -> None:
        """Wait after a failure of the origin, at least as long as the object store asked for."""
        if isinstance(error, Retry):
            delay_s = max(delay_s, error.after_s)
        started = time.perf_counter()
        control.pause(min(delay_s, _MAX_PLANNED_PAUSE_S) if planned else delay_s)
        self._note(state, Timings(wait_s=time.perf_counter() - started))

    def _fetch_from_neighbour(self, control: Control, attempt: Attempt, source: Source) -> Outcome:
        """Try once. Unless all comes, and as expected, the range is left as it was before.

        Part of a range proves nothing, and two neighbours' bytes in one range would leave open who lied.
        """
        _, state, byte_range, choice = attempt
        before = byte_range.done, byte_range.base, byte_range.aux
        self._asks_neighbour = True
        try:
            self._request(control, state, byte_range, source, neighbour=True)
        except (Cancelled, DiskFault):
            self.client.close()
            raise
        except KubeCacheError as error:
            self.client.close()
            control.check()
            self.failure = error
        except Exception as error:  # a neighbour must not end the fetch, whatever is wrong with its source
            _log.exception("%s: range %d cannot be asked of %s", state.name, byte_range.number, source.name)
            self.client.close()
            self.failure = SourceUnavailable(f"{state.name}: {source.name}: {error!r}")
        except BaseException:
            self.client.close()
            raise
        else:
            if choice is None or choice.crc64 in {None, byte_range.base}:
                return Outcome.COMPLETE
            before = 0, 0, 0  # what had come from the origin may be wrong as well
            self.failure = WrongBytes(f"{state.name}: {source.name} sent other bytes of range {byte_range.number}")
        finally:
            self._asks_neighbour = False
        control.meter.refetch(byte_range.rewind(*before))
        return Outcome.LEFT_TO_PLAN

    def _request(
        self, control: Control, state: ObjectState, byte_range: Range, source: Source, *, neighbour: bool = False
    ) -> None:
        """Fetch the rest of the range by one request. Raises Superseded, SourceUnavailable and what ends the call."""
        timings = Timings()
        try:
            started = time.perf_counter()
            if not neighbour and (delay_s := self._request_limiter.reserve()):
                control.pause(delay_s)
            sent = time.perf_counter()
            timings.wait_s += sent - started
            with byte_range.lock:
                done, base, aux = byte_range.done, byte_range.base, byte_range.aux
            if done == byte_range.length:
                raise Superseded
            stream = self.client.open(
                source,
                state,
                byte_range,
                done,
                neighbour=neighbour,
                min_bytes_per_s=_MIN_PLANNED_BYTES_PER_S if state.planned is not None else 0,
            )
            timings.first_byte_s += time.perf_counter() - sent
            self._receive(control, state, byte_range, stream, timings, done, base, aux)
            stream.finish()
        finally:
            self._note(state, timings)

    def _note(self, state: ObjectState, timings: Timings) -> None:
        """Add the seconds of one request, or of a pause, to those of the object and of the process."""
        state.timings.add(timings)
        self.totals.timings.add(timings)
        if self.range_timings is not None:
            self.range_timings.add(timings)

    def _receive(
        self,
        control: Control,
        state: ObjectState,
        byte_range: Range,
        stream: Stream,
        timings: Timings,
        done: int,
        base: int,
        aux: int,
    ) -> None:
        """Receive the body, a buffer at a time. done, base, aux: the range's when the request was sent."""
        with_crc32c = state.aux is FUSED_AUX
        update_aux = state.aux.update if state.aux else None
        while done < byte_range.length:
            shift = (byte_range.offset + done) % BLOCK  # aligns whole blocks of the file with pages of the buffer
            length = min(self.buffer_bytes - shift, byte_range.length - done)
            view = self.view[shift : shift + length]
            filled = len(stream.leftover)
            if filled:
                view[:filled] = stream.leftover
                stream.leftover = b""
                base = _update_base(view[:filled], base)
                if update_aux is not None:
                    aux = update_aux(view[:filled], aux)
                self._count_received(filled)
            while filled < length:
                count, base, crc32c, receive_s, verify_s, cpu_s = stream.receive(
                    view[filled:], base, aux, with_crc32c=with_crc32c
                )
                control.check()
                if with_crc32c:
                    aux = crc32c
                elif update_aux is not None:
                    aux = update_aux(view[filled : filled + count], aux)
                filled += count
                self._count_received(count)
                # With TLS nearly all CPU time of a receive is decryption; without, all of it is the kernel's copy. Of
                # bytes that had arrived before, it is all of the receive; two clocks measure the two.
                decrypt_s = min(cpu_s, receive_s) if stream.tls else 0.0
                timings.network_s += receive_s - decrypt_s
                timings.decrypt_s += decrypt_s
                timings.verify_s += verify_s
                if delay_s := max(self._bandwidth_limiter.reserve(count), control.bandwidth_limiter.reserve(count)):
                    control.pause(delay_s)
            timings.write_s += self._commit(control, state, byte_range, view, done, base, aux)
            done += length

    def _count_received(self, count: int) -> None:
        self.received += count
        if self._asks_neighbour:
            self.totals.neighbour_bytes += count

    def _commit(
        self, control: Control, state: ObjectState, byte_range: Range, view: memoryview, done: int, base: int, aux: int
    ) -> float:
        """Write a buffer that begins at `done` of the range. base, aux: including the buffer. Raises Superseded.

        Returns the seconds that it took.
        """
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
            byte_range.done, byte_range.base, byte_range.aux = done + len(view), base, aux
        write_s = time.perf_counter() - started
        self.write_s += write_s
        self.totals.written_bytes += len(view)
        state.fetched_bytes += len(view)
        control.received(len(view))
        return write_s

    def _abort_losers(self, byte_range: Range) -> None:
        """Abort the other workers' connections at this range, so that they do not wait for its bytes any longer."""
        for peer in self._peers():
            attempt = peer.attempt
            if peer is not self and attempt is not None and attempt.byte_range is byte_range:
                peer.client.abort()


def _cause(error: SourceUnavailable) -> str:
    """Return what a range is requested again for, a key of `Totals.retries`."""
    if isinstance(error, CredentialsExpired):
        return "credentials"
    if isinstance(error, Retry) and error.throttled:
        return "throttled"
    return "stalled" if isinstance(error, TransferStalled) else "unavailable"


def _given_up(error: KubeCacheError, state: ObjectState, failures: int) -> KubeCacheError:
    return SourceUnavailable(
        f"{state.name}: gave up after {failures} tries: {error.message}",
        bucket=state.remote.bucket,
        key=state.remote.key,
    )
