"""Reads objects against their checksums, slowly, so that a flipped bit is found before a user's program finds it.

Yields to downloads: idle I/O priority, a set rate, and no reading while a download runs. A bad object goes to
`quarantine/`, and each snapshot that links it is marked damaged: the next check misses, and the next download fetches
that object alone. A dying disk is told from a bad object (`health`): it condemns nothing. Does not fetch anything.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import structlog

from kube_cache.errors import Cancelled
from kube_cache.store import manifests
from kube_cache.store.context import StoreContext
from kube_cache.store.damage import BadObject, quarantine_object, read_damaged
from kube_cache.store.health import MAX_IN_ROW, MAX_UNREADABLE, MEDIUM_ERRORS, NOT_THERE
from kube_cache.store.manifests import Chunk
from kube_cache.store.read_back import crc_of, read_piece

_log = structlog.get_logger("kube_cache.store")
_PAUSE_S = 0.2
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
    context.health.note_sound()
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
    """Read the objects of the snapshots that the round of this number has not read yet. Raises OSError, Cancelled."""
    scrub_round = _Round(context, number, pace, on_bad)
    started = time.monotonic()
    try:
        for digest in digests:
            with suppress(FileNotFoundError, manifests.TornManifest):
                for chunk in manifests.read_chunks(context.disk, context.layout.manifest(digest)):
                    scrub_round.read_chunk(digest, chunk)
        scrub_round.finish()
    except OSError as error:
        context.health.note(error)
        raise
    scrub_round.result.seconds = time.monotonic() - started
    return scrub_round.result


class _Suspect(NamedTuple):
    """An object that could not be read once."""

    object: BadObject
    crc: int
    inode: int
    size: int


class _Round:
    """Reads objects, and judges those that are bad; see `health` for those that cannot be read."""

    def __init__(self, context: StoreContext, number: int, pace: _Pace, on_bad: Callable[[BadObject], None]) -> None:
        self.result = ScrubResult()
        self._context = context
        self._number = number
        self._pace = pace
        self._on_bad = on_bad
        self._suspects: list[_Suspect] = []
        """Those since the last object that could be read."""

    def read_chunk(self, digest: str, chunk: Chunk) -> None:
        """Raises OSError where the disk fails, or the process lacks something; Cancelled."""
        context = self._context
        rows = context.index.objects(chunk.ids)
        good: list[str] = []
        known_bad = {file.path for file in read_damaged(context.layout, context.disk, digest)}
        try:
            for place, id_ in enumerate(chunk.ids):
                row, path = rows.get(id_), chunk.paths[place]
                if row is not None and row.scrubbed is not None and row.scrubbed >= self._number:
                    continue
                if path in known_bad:
                    continue
                found = _Suspect(
                    BadObject(digest, path, id_, ""), chunk.crcs[place], chunk.inodes[place], chunk.sizes[place]
                )
                if self._is_good(found):
                    good.append(id_)
        finally:  # also where the scrub is stopped in the middle of a thousand large objects
            context.index.set_scrubbed(good, self._number)

    def finish(self) -> None:
        """Judge the suspects that no good object followed. Raises OSError, Cancelled."""
        if self._suspects:
            read_piece(self._context.disk, self._context.layout.manifest(self._suspects[0].object.digest))
            self._judge_suspects()

    def _is_good(self, read: _Suspect) -> bool:
        """Read an object, and condemn it if its bytes are wrong."""
        try:
            actual = self._crc_of(read)
        except OSError as error:
            if error.errno in NOT_THERE:
                return False
            if error.errno not in MEDIUM_ERRORS:
                raise
            self._suspects.append(read)
            self._context.disk.names(self._context.layout.object(read.object.object).rpartition("/")[0])
            if len(self._suspects) >= MAX_IN_ROW or self._context.health.unreadable >= MAX_UNREADABLE:
                raise
            return False
        self._judge_suspects()
        if actual != read.crc:
            self._condemn(read, "does not have its checksum")
            return False
        self._count(read)
        return True

    def _judge_suspects(self) -> None:
        """Read the suspects again, now that the disk is known to live, and condemn those that still cannot be read."""
        suspects, self._suspects = self._suspects, []
        for suspect in suspects:
            try:
                actual = self._crc_of(suspect)
            except OSError as error:
                if error.errno in NOT_THERE:
                    continue
                if error.errno not in MEDIUM_ERRORS:
                    raise
                self._condemn(suspect, f"cannot be read ({error.strerror})")
                self._context.health.unreadable += 1
            else:
                if actual != suspect.crc:
                    self._condemn(suspect, "does not have its checksum")
                else:
                    _log.warning("an object could be read only at the second try", path=suspect.object.path)

    def _crc_of(self, read: _Suspect) -> int:
        path = self._context.layout.files(read.object.digest) / read.object.path
        return crc_of(self._context.disk, path, self._pace, inode=read.inode)

    def _condemn(self, read: _Suspect, reason: str) -> None:
        self._count(read)
        bad = replace(read.object, reason=reason)
        if quarantine_object(self._context, bad, read.inode):
            self.result.bad += 1
            self._on_bad(bad)

    def _count(self, read: _Suspect) -> None:
        self.result.objects += 1
        self.result.bytes += read.size


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
