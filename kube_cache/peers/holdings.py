"""What this node can give to others: open objects and the bytes of them that are verified.

The server knows only this port. A published object is whole; one that is being fetched grows by the ranges that were
written and checksummed, and whoever asks for one that is on its way may wait for it. Files are opened anew for each
answer: an object that is evicted meanwhile is read to its end through the descriptor, and is gone for the next request.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol


class Readable(Protocol):
    """An object that is open for one answer. For one thread."""

    size: int
    """Bytes of the whole object."""

    def read_into(self, view: memoryview, offset: int) -> int:
        """Read up to `len(view)` bytes at `offset`, all of them verified; return the count. Raises OSError."""
        ...

    def close(self) -> None: ...


class Holdings(Protocol):
    """Thread-safe. snapshot: a digest. id_: of an object (`store.layout.object_id`)."""

    def open(self, snapshot: str, id_: str, first: int, last: int | None, wait_s: float) -> Readable | None:
        """Open an object of the snapshot whose bytes first..last are verified, or will be within `wait_s` seconds.

        last: None for the object's end. Returns None if the object is not here, or not of this snapshot. Raises NotYet
        if the bytes did not come in time, OutOfRange if the object has not that many.
        """
        ...


class NotYet(Exception):
    """The object is here, and the wanted part of it is not verified."""


class OutOfRange(Exception):
    """The object ends before the wanted bytes. size: of the object."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the object has {size} bytes")
        self.size = size


class Extents:
    """A set of bytes, as sorted extents that do not touch. Not thread-safe."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        """Add the bytes start..end-1."""
        if start >= end:
            return
        low = bisect_right(self._starts, start)
        if low and self._ends[low - 1] >= start:
            low -= 1
            start = self._starts[low]
        high = low
        while high < len(self._starts) and self._starts[high] <= end:
            end = max(end, self._ends[high])
            high += 1
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]

    def remove(self, start: int, end: int) -> None:
        """Remove the bytes start..end-1."""
        if start >= end:  # or an extent would become two that touch
            return
        kept = [
            piece
            for first, last in zip(self._starts, self._ends, strict=True)
            for piece in ((first, min(last, start)), (max(first, end), last))
            if piece[0] < piece[1]
        ]
        self._starts = [first for first, _ in kept]
        self._ends = [last for _, last in kept]

    def covers(self, start: int, end: int) -> bool:
        """Check whether all bytes start..end-1 are there."""
        place = bisect_right(self._starts, start) - 1
        return start >= end or (place >= 0 and self._ends[place] >= end)


class OpenFile:
    """Implements `Readable` over a file."""

    def __init__(self, path: Path, size: int) -> None:
        """Open the file. Raises OSError."""
        self.size = size
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        # No read-ahead: it would bring blocks into the page cache that the engine is about to write past it.
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_RANDOM)

    def read_into(self, view: memoryview, offset: int) -> int:
        return os.preadv(self._fd, [view], offset)

    def close(self) -> None:
        os.close(self._fd)


class _Part:
    """A file that is being filled, of the snapshots that want it."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self.snapshots: set[str] = set()
        self.verified = Extents()


class PartHoldings:
    """Implements `Holdings` over files that are being filled or are whole. Thread-safe.

    Whoever plans the download calls, as the engine reports each range. published: asked for objects that are not being
    fetched; None = there are no others.
    """

    def __init__(self, published: Holdings | None = None) -> None:
        self._published = published
        self.waited_for: Callable[[str, str, int], None] = lambda _snapshot, _id, _first: None
        """Called with snapshot, object and first byte when somebody begins to wait for bytes; without a lock held."""
        self._changed = threading.Condition()
        self._parts: dict[str, _Part] = {}

    def add(self, snapshot: str, id_: str, path: Path, size: int) -> None:
        """Offer an object of the snapshot that is being fetched to `path`; none of its bytes counts as verified."""
        with self._changed:
            part = self._parts.get(id_)
            if part is None or part.path != path:
                part = self._parts[id_] = _Part(path, size)
            part.snapshots.add(snapshot)

    def verified(self, id_: str, extents: Iterable[tuple[int, int]]) -> None:
        """Tell which bytes are written and equal their checksums. extents: (offset, length) of each."""
        with self._changed:
            part = self._parts.get(id_)
            if part is not None:
                for offset, length in extents:
                    part.verified.add(offset, offset + length)
                self._changed.notify_all()

    def withdraw(self, id_: str, extents: Iterable[tuple[int, int]]) -> None:
        """Tell that bytes turned out wrong, and are fetched again."""
        with self._changed:
            part = self._parts.get(id_)
            if part is not None:
                for offset, length in extents:
                    part.verified.remove(offset, offset + length)

    def moved(self, id_: str, path: Path) -> None:
        """Tell where a file is now that is whole."""
        with self._changed:
            part = self._parts.get(id_)
            if part is not None:
                part.path = path
                part.verified.add(0, part.size)
                self._changed.notify_all()

    def drop(self, snapshot: str, ids: Iterable[str]) -> None:
        """Offer the objects for this snapshot no more: the download is over, or was given up."""
        with self._changed:
            for id_ in ids:
                part = self._parts.get(id_)
                if part is not None:
                    part.snapshots.discard(snapshot)
                    if not part.snapshots:
                        del self._parts[id_]
            self._changed.notify_all()

    def open(self, snapshot: str, id_: str, first: int, last: int | None, wait_s: float) -> Readable | None:
        part = self._wait_for(snapshot, id_, first, last, wait_s)
        if part is not None:
            with contextlib.suppress(FileNotFoundError):  # it has landed in its place, or was removed
                return OpenFile(part.path, part.size)
        return self._published.open(snapshot, id_, first, last, wait_s) if self._published is not None else None

    def _wait_for(self, snapshot: str, id_: str, first: int, last: int | None, wait_s: float) -> _Part | None:
        """Return the part once it has the bytes; None where there is none. Raises NotYet, OutOfRange."""
        deadline = None
        while True:
            with self._changed:
                part = self._parts.get(id_)
                if part is None or snapshot not in part.snapshots:
                    return None
                end = part.size if last is None else last + 1
                if first >= part.size or end > part.size:
                    raise OutOfRange(part.size)
                if part.verified.covers(first, end):
                    return part
                if deadline is not None:
                    if (left_s := deadline - time.monotonic()) <= 0:
                        raise NotYet
                    self._changed.wait(left_s)
            if deadline is None:
                deadline = time.monotonic() + wait_s
                self.waited_for(snapshot, id_, first)
