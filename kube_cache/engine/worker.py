"""A worker: one thread that fetches one range at a time, over its own line, through its own buffer.

How a range changes hands. Two workers may be at one range (a hedge), but only one writes: the range's `owner`. A worker
becomes the owner with its first full buffer, if nobody has got further than where it began; whoever finds, with a full
buffer in hand, that it is not the owner any more, drops it and leaves. So the bytes in the file are always those that the
range's checksums were computed over, whatever the other connection delivered.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from kube_cache.dataset.checksums import UPDATE, Algorithm
from kube_cache.engine.buffers import SLOT
from kube_cache.engine.object_state import ObjectState
from kube_cache.engine.part_file import BLOCK
from kube_cache.engine.ranges import Range
from kube_cache.engine.source import Expired, Line, Retry, Source, Stream
from kube_cache.engine.throttle import Cap, Jitter, Pace
from kube_cache.errors import AccessDenied, KubeCacheError, SourceUnavailable

if TYPE_CHECKING:
    from kube_cache.engine.call import Call

_MOST_TRIES: Final = 8
_crc64 = UPDATE[Algorithm.CRC64NVME]


class Superseded(Exception):
    """Another worker has the range now."""


class Worker:
    def __init__(self, number: int, source: Source, pace: Pace, cap: Cap, view: memoryview, give_up_s: float) -> None:
        self.number = number
        self.line = Line(source)
        self.buffer_bytes = SLOT
        self.view = view
        self._pace = pace
        self._cap = cap
        self._give_up_s = give_up_s
        self.at: tuple[Call, ObjectState, Range] | None = None
        """What it is busy with, for the governor."""
        self.has_left = False
        """Its attempt at a range is not counted any more; guarded by the engine's lock."""
        self.since = 0.0
        self.received = 0
        """Bytes ever; the governor takes differences."""
        self.write_s = 0.0

    def fetch(self, call: Call, state: ObjectState, wanted: Range) -> bool:
        """Bring the range to its place; False when another worker did. Raises what the call should end with."""
        jitter = Jitter()
        refreshed = False
        while True:
            before = wanted.done
            try:
                self._attempt(call, state, wanted)
                return True
            except Superseded:
                self.line.hang_up()  # in the middle of a body
                return False
            except SourceUnavailable as error:
                self.line.hang_up()
                call.check()
                wanted.tries += 1
                if call.leave(self, wanted):
                    return False  # the other one goes on
                if isinstance(error, Expired):
                    if refreshed:
                        raise AccessDenied(f"{error.message}; renewed credentials are refused as well") from error
                    refreshed = True
                    call.engine.source.stores.of(state.remote.scheme).refresh_credentials()
                    continue
                wait = 0.0
                if isinstance(error, Retry):
                    wait = error.after_s
                    if error.throttled:
                        self._pace.refused(error.after_s)
                if wanted.done > before:  # it moves: a bad connection, not a bad store
                    jitter.reset()
                    wanted.tries = 1
                if wanted.tries >= _MOST_TRIES and time.monotonic() - call.last_byte_at > self._give_up_s:
                    raise _given_up(error, state, wanted.tries) from error
                started = time.perf_counter()
                call.pause(max(wait, jitter.next()))
                state.timings.wait_s += time.perf_counter() - started
            except BaseException:
                self.line.hang_up()
                raise

    def _attempt(self, call: Call, state: ObjectState, wanted: Range) -> None:
        timings = state.timings
        started = time.perf_counter()
        if delay := self._pace.delay():
            call.pause(delay)
        opened = time.perf_counter()
        timings.wait_s += opened - started
        with wanted.lock:
            done, crc64, aux = wanted.done, wanted.crc64, wanted.aux
        if done == wanted.length:
            raise Superseded
        stream = self.line.open(state, wanted, done, state.declare)
        timings.first_byte_s += time.perf_counter() - opened
        self._receive(call, state, wanted, stream, done, crc64, aux)
        stream.finish()

    def _receive(
        self, call: Call, state: ObjectState, wanted: Range, stream: Stream, done: int, crc64: int, aux: int
    ) -> None:
        timings = state.timings
        with_crc32c = state.aux is Algorithm.CRC32C
        update_aux = UPDATE[state.aux] if state.aux else None
        while done < wanted.length:
            shift = (wanted.offset + done) % BLOCK
            want = min(self.buffer_bytes - shift, wanted.length - done)
            view = self.view[shift : shift + want]
            filled = len(stream.rest)  # came along with the head
            if filled:
                view[:filled] = stream.rest
                stream.rest = b""
                crc64 = _crc64(view[:filled], crc64)
                if update_aux is not None:
                    aux = update_aux(view[:filled], aux)
                self.received += filled
            while filled < want:
                count, crc64, crc32c, receive_s, verify_s, cpu_s = stream.receive(
                    view[filled:], crc64, aux, with_crc32c=with_crc32c
                )
                call.check()
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
                if delay := self._cap.take(count):
                    call.pause(delay)
            self._commit(call, state, wanted, view, done, crc64, aux)
            done += want

    def _commit(
        self, call: Call, state: ObjectState, wanted: Range, view: memoryview, done: int, crc64: int, aux: int
    ) -> None:
        started = time.perf_counter()
        with wanted.lock:
            call.check()
            if wanted.owner is not self:
                if wanted.done != done or wanted.done == wanted.length:
                    raise Superseded
                wanted.owner = self
                if wanted.hedged:
                    call.engine.wake_losers(self, wanted)
            elif wanted.done != done:
                raise Superseded
            state.file.write(view, wanted.offset + done)
            wanted.done, wanted.crc64, wanted.aux = done + len(view), crc64, aux
        spent = time.perf_counter() - started
        state.timings.write_s += spent
        self.write_s += spent
        call.moved(state, len(view))


def _given_up(error: KubeCacheError, state: ObjectState, tries: int) -> KubeCacheError:
    return SourceUnavailable(
        f"{state.name}: gave up after {tries} tries: {error.message}", bucket=state.remote.bucket, key=state.remote.key
    )
