"""Reads objects against their checksums, slowly, so that a flipped bit is found before a user's program finds it.

Yields to downloads: idle I/O priority, a set rate, and no reading while a download runs. A bad object goes to
`quarantine/`, and each snapshot that links it is marked damaged: the next check misses, and the next download fetches
that object alone. Does not fetch anything itself.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import structlog

from kube_cache.errors import Cancelled, KubeCacheError
from kube_cache.store import manifests
from kube_cache.store.context import StoreContext
from kube_cache.store.damage import BadObject, quarantine_object, read_damaged
from kube_cache.store.manifests import Chunk
from kube_cache.store.read_back import crc_of

_log = structlog.get_logger("kube_cache.store")
POLL_S = 60.0
"""Period in which the background asks whether a round is due; also its pause after a fault of the disk."""
_PAUSE_S = 0.2
# Errors by which the process lacks something; they say nothing of the object.
_LACKS_OF_PROCESS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
# Keys in the index: number of the background's unfinished round, time at which its last round ended.
_OPEN_ROUND_KEY, _ENDED_KEY = "scrub-open", "scrub-ended"
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}  # number of the system call
_IOPRIO_IDLE = 3 << 13  # IOPRIO_CLASS_IDLE


@dataclass(slots=True)
class ScrubResult:
    objects: int = 0
    bytes: int = 0
    seconds: float = 0.0
    bad: int = 0


class _Pace:
    """Called with the bytes of each piece read: sleeps to keep the rate, and while a download runs.

    rate: bytes per second; 0 = no limit. yields: whether downloads go first. A call raises Cancelled to stop the scrub.
    """

    def __init__(
        self, context: StoreContext, rate: float, cancelled: Callable[[], bool], *, yields: bool = True
    ) -> None:
        self._context = context
        self._yields = yields
        self._rate = rate
        self._cancelled = cancelled
        self._due = time.monotonic()

    def __call__(self, count: int) -> None:
        if self._rate > 0:
            # Counted from now after a pause: a burst must not make up for lost time.
            self._due = max(self._due, time.monotonic()) + count / self._rate
        while (wait := self._due - time.monotonic()) > 0 or (self._yields and self._context.is_downloading()):
            self._raise_if_cancelled()
            time.sleep(min(_PAUSE_S, wait) if wait > 0 else _PAUSE_S)
        self._raise_if_cancelled()

    def _raise_if_cancelled(self) -> None:
        if self._cancelled():
            raise Cancelled("the scrub was stopped")


def scrub(
    context: StoreContext, rate: float, cancelled: Callable[[], bool], on_bad: Callable[[BadObject], None]
) -> ScrubResult:
    """Read all objects that snapshots link, each once, however many snapshots share it. Raises Cancelled.

    rate: bytes per second; 0 = no limit.
    """
    return _scrub_round(context, context.index.next_scrub_round(), rate, cancelled, on_bad)


def scrub_if_due(context: StoreContext, every_s: float, cancelled: Callable[[], bool]) -> ScrubResult | None:
    """Begin or continue the background's round if one is due; None if none is. Raises Cancelled.

    A round that was cut short continues where it was: an agent that is restarted each day comes to its end, too.
    """
    index = context.index
    ended = index.get_meta(_ENDED_KEY)
    # A clock that jumped back makes the age negative: then nothing is known, and a round is due.
    if ended is not None and 0 <= time.time() - float(ended) < every_s:
        return None
    number = int(index.get_meta(_OPEN_ROUND_KEY) or 0) or index.next_scrub_round()
    index.set_meta(_OPEN_ROUND_KEY, str(number))
    result = _scrub_round(context, number, context.settings.scrub_bytes_per_s, cancelled, lambda _: None)
    index.set_meta(_OPEN_ROUND_KEY, None)
    index.set_meta(_ENDED_KEY, str(time.time()))
    return result


def scrub_now(context: StoreContext, digest: str, cancelled: Callable[[], bool]) -> ScrubResult:
    """Read one snapshot at full speed, also while downloads run, because somebody waits for it. Raises Cancelled."""
    pace = _Pace(context, 0, cancelled, yields=False)
    return _scrub_snapshots(context, [digest], context.index.next_scrub_round(), pace, lambda _: None)


def _scrub_round(
    context: StoreContext,
    number: int,
    rate: float,
    cancelled: Callable[[], bool],
    on_bad: Callable[[BadObject], None],
) -> ScrubResult:
    with _idle_io():
        return _scrub_snapshots(context, context.digests(), number, _Pace(context, rate, cancelled), on_bad)


def _scrub_snapshots(
    context: StoreContext, digests: list[str], number: int, pace: _Pace, on_bad: Callable[[BadObject], None]
) -> ScrubResult:
    """Read the objects of the snapshots that the round of this number has not read yet."""
    result = ScrubResult()
    started = time.monotonic()
    for digest in digests:
        with suppress(FileNotFoundError, manifests.TornManifest):
            for chunk in manifests.read_chunks(context.layout.manifest(digest)):
                _scrub_chunk(context, digest, chunk, number, pace, result, on_bad)
    result.seconds = time.monotonic() - started
    return result


def _scrub_chunk(
    context: StoreContext,
    digest: str,
    chunk: Chunk,
    number: int,
    pace: _Pace,
    result: ScrubResult,
    on_bad: Callable[[BadObject], None],
) -> None:
    rows = context.index.objects(chunk.ids)
    good: list[str] = []
    known_bad = {file.path for file in read_damaged(context.layout, digest)}
    try:
        for place, id_ in enumerate(chunk.ids):
            row = rows.get(id_)
            if row is not None and row.scrubbed is not None and row.scrubbed >= number:
                continue
            path = chunk.paths[place]
            if path in known_bad:
                continue
            reason = _problem_of(context, digest, path, chunk.crcs[place], pace)
            if reason is None:
                continue
            result.objects += 1
            result.bytes += chunk.sizes[place]
            if not reason:
                good.append(id_)
                continue
            bad = BadObject(digest, path, id_, reason)
            if quarantine_object(context, bad, chunk.inodes[place]):
                result.bad += 1
                on_bad(bad)
    finally:  # also where the scrub is stopped in the middle of a thousand large objects
        context.index.set_scrubbed(good, number)


def _problem_of(context: StoreContext, digest: str, path: str, crc: int, pace: _Pace) -> str | None:
    """Read the file and say what is wrong with its bytes: '' if nothing, None if it is not there.

    Raises OSError if the process lacks something, and Cancelled.
    """
    try:
        actual = crc_of(context.layout.files(digest) / path, pace)
    except FileNotFoundError:
        return None  # evicted meanwhile, or the check finds it
    except OSError as error:
        if error.errno in _LACKS_OF_PROCESS:
            raise
        return f"cannot be read ({error.strerror})"
    return "" if actual == crc else "does not have its checksum"


@contextmanager
def _idle_io() -> Iterator[None]:
    """Let the reads of the calling thread go behind all others, where the I/O scheduler knows priorities."""
    number = _IOPRIO_SET.get(os.uname().machine)
    libc = ctypes.CDLL(None, use_errno=True)
    if number is not None:
        libc.syscall(number, 1, 0, _IOPRIO_IDLE)
    try:
        yield
    finally:
        if number is not None:
            libc.syscall(number, 1, 0, 0)


class BackgroundScrub:
    """A thread that scrubs once a period for as long as a `with` block lasts.

    Only finds and quarantines: the next check and the reconcile, which know the origin, have damaged objects fetched
    again. scrub_if_due: `NodeStore.scrub_if_due`. on_damage: called from the thread after a round with damage.
    """

    def __init__(
        self,
        scrub_if_due: Callable[[Callable[[], bool]], ScrubResult | None],
        *,
        poll_s: float,
        on_damage: Callable[[], object],
    ) -> None:
        self._scrub_if_due = scrub_if_due
        self._on_damage = on_damage
        self._poll_s = poll_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scrub", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                result = self._scrub_if_due(self._stop.is_set)
            except Cancelled:
                return
            except KubeCacheError as error:
                _log.warning("the background scrub goes on later", error=error.message)
            else:
                if result is not None:
                    _log.info(
                        "scrubbed", objects=result.objects, bytes=result.bytes, bad=result.bad, seconds=result.seconds
                    )
                    if result.bad:
                        self._on_damage()
            self._stop.wait(self._poll_s)
