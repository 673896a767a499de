"""Reads objects again against their checksums, slowly, so that a bit that flipped is found before somebody's program finds it.

Yields to downloads: idle I/O priority, a set rate, and nothing is read while one runs. What fails goes to `quarantine/`, and
each snapshot that holds it is marked damaged, so that the next check misses and the next warm fetches that object alone.
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
from kube_cache.store.context import Core
from kube_cache.store.damage import BadObject, quarantine, read_damaged
from kube_cache.store.manifests import Chunk
from kube_cache.store.read_back import crc_of

_log = structlog.get_logger("kube_cache.store")
_PAUSE_S = 0.2
# The background asks this often whether a round is due; so long it waits, too, after a fault of the disk.
POLL_S = 60.0
# What this process lacks says nothing of the object.
_OURS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
# Of the background's rounds, in the index: the one that is not at its end yet, and when the last one was.
_OPEN, _ENDED = "scrub-open", "scrub-ended"
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_IDLE = 3 << 13  # IOPRIO_CLASS_IDLE


@dataclass(slots=True)
class ScrubResult:
    objects: int = 0
    bytes: int = 0
    seconds: float = 0.0
    bad: int = 0


class Pace:
    """Sleeps so that what was read stays under the rate, and while a download runs; raises Cancelled to stop."""

    def __init__(self, core: Core, rate: float, cancelled: Callable[[], bool], *, yields: bool = True) -> None:
        self._core = core
        self._yields = yields
        self._rate = rate
        self._cancelled = cancelled
        self._due = time.monotonic()

    def __call__(self, count: int) -> None:
        if self._rate > 0:
            # Time lost to a pause is not made up for by a burst.
            self._due = max(self._due, time.monotonic()) + count / self._rate
        while (wait := self._due - time.monotonic()) > 0 or (self._yields and self._core.is_fetching()):
            self._stop_if_cancelled()
            time.sleep(min(_PAUSE_S, wait) if wait > 0 else _PAUSE_S)
        self._stop_if_cancelled()

    def _stop_if_cancelled(self) -> None:
        if self._cancelled():
            raise Cancelled("the scrub was stopped")


def scrub(core: Core, rate: float, cancelled: Callable[[], bool], on_bad: Callable[[BadObject], None]) -> ScrubResult:
    """Once through all objects that snapshots link, each read once however many share it. Raises Cancelled."""
    return _round(core, core.index.next_round(), rate, cancelled, on_bad)


def scrub_if_due(core: Core, every_s: float, cancelled: Callable[[], bool]) -> ScrubResult | None:
    """The background's next round when it is time for one; None when it is not. Raises Cancelled.

    A round that was cut short goes on where it was, so that an agent that is restarted each day still comes to the end.
    """
    index = core.index
    ended = index.recall(_ENDED)
    # A clock that jumped back makes an age negative: then nothing is known, and it is time.
    if ended is not None and 0 <= time.time() - float(ended) < every_s:
        return None
    number = int(index.recall(_OPEN) or 0) or index.next_round()
    index.remember(_OPEN, str(number))
    result = _round(core, number, core.settings.scrub_bytes_per_s, cancelled, lambda _: None)
    index.remember(_OPEN, None)
    index.remember(_ENDED, str(time.time()))
    return result


def _round(
    core: Core, number: int, rate: float, cancelled: Callable[[], bool], on_bad: Callable[[BadObject], None]
) -> ScrubResult:
    with _idle_io():
        return _through(core, core.digests(), number, Pace(core, rate, cancelled), on_bad)


def scrub_now(core: Core, digest: str, cancelled: Callable[[], bool]) -> ScrubResult:
    """One snapshot that somebody waits for: at full speed, beside whatever runs. Raises Cancelled."""
    pace = Pace(core, 0, cancelled, yields=False)
    return _through(core, [digest], core.index.next_round(), pace, lambda _: None)


def _through(core: Core, which: list[str], number: int, pace: Pace, on_bad: Callable[[BadObject], None]) -> ScrubResult:
    result = ScrubResult()
    clock = time.monotonic()
    for digest in which:
        with suppress(FileNotFoundError, manifests.TornManifest):
            for chunk in manifests.read_chunks(core.layout.manifest(digest)):
                _scrub_chunk(core, digest, chunk, number, pace, result, on_bad)
    result.seconds = time.monotonic() - clock
    return result


def _scrub_chunk(
    core: Core,
    digest: str,
    chunk: Chunk,
    number: int,
    pace: Pace,
    result: ScrubResult,
    on_bad: Callable[[BadObject], None],
) -> None:
    rows = core.index.objects(chunk.ids)
    read: list[str] = []
    known_bad = {line.rpartition(" | ")[0] for line in read_damaged(core, digest)}
    try:
        for place, name in enumerate(chunk.ids):
            row = rows.get(name)
            if row is not None and row.scrubbed is not None and row.scrubbed >= number:
                continue
            if chunk.paths[place] in known_bad:
                continue
            reason = _reason_against(core, digest, chunk, place, pace)
            if reason is None:
                continue
            result.objects += 1
            result.bytes += chunk.sizes[place]
            if not reason:
                read.append(name)
            elif quarantine(core, digest, chunk, place, reason):
                result.bad += 1
                on_bad(BadObject(digest, chunk.paths[place], name, reason))
    finally:  # stopped in the middle of a thousand large objects, too
        core.index.set_scrubbed(read, number)


def _reason_against(core: Core, digest: str, chunk: Chunk, place: int, pace: Pace) -> str | None:
    """What is wrong with its bytes, empty when nothing is; None when it is not there. Raises OSError, Cancelled."""
    try:
        crc = crc_of(core.layout.files(digest) / chunk.paths[place], pace)
    except FileNotFoundError:
        return None  # the check finds that, or it was evicted meanwhile
    except OSError as error:
        if error.errno in _OURS:
            raise
        return f"cannot be read ({error.strerror})"
    return "" if crc == chunk.crcs[place] else "does not have its checksum"


@contextmanager
def _idle_io() -> Iterator[None]:
    """Reads of the calling thread go behind everybody's, where the I/O scheduler knows priorities."""
    number = _IOPRIO_SET.get(os.uname().machine)
    libc = ctypes.CDLL(None, use_errno=True)
    if number is not None:
        libc.syscall(number, 1, 0, _IDLE)
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
