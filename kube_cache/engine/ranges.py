"""Splits an object into ranges. A range is the unit of a request, of the journal and of a retry.

The size of a range does not depend on the buffers, so that memory does not grow with it. Where an object's checksum is
one over its parts' checksums (COMPOSITE), no range crosses a stored part: each part's checksum can then be combined
from whole ranges.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

MIB: Final = 1 << 20
GIB: Final = 1 << 30
MAX_SMALL_BYTES: Final = 8 * MIB
"""A small object is one request and has no journal: refetching it costs no more than a range."""


def range_size(size: int) -> int:
    """Return the bytes of a range of an object of `size` bytes.

    Few ranges cost few requests and a short journal; many fill all connections and lose little by a retry.
    """
    if size < 256 * MIB:
        return 8 * MIB
    return 16 * MIB if size <= 64 * GIB else 64 * MIB


class Range:
    """A range and its progress. Only the owner writes, under `lock`; module `worker` tells how the owner changes."""

    __slots__ = (
        "aux",
        "base",
        "claimed",
        "done",
        "failures",
        "fetchers",
        "hedged",
        "length",
        "lock",
        "number",
        "offered",
        "offset",
        "owner",
        "part",
    )

    def __init__(self, number: int, offset: int, length: int, part: int = 0) -> None:
        self.number = number
        self.offset = offset
        self.length = length
        self.part = part
        """Number of the stored part that holds the range, from 0."""
        self.lock = threading.Lock()
        self.owner: object | None = None
        """The worker whose bytes are in the file."""
        self.fetchers = 0
        """Workers that fetch the range now; guarded by the engine's lock."""
        self.offered = False
        """The range is in the queue; guarded by the engine's lock."""
        self.hedged = False
        """A second worker fetches the range or is to do so; guarded by the engine's lock."""
        self.failures = 0
        """Failed attempts of all workers since the last byte."""
        self.done = 0
        """Bytes that are written, from the start of the range."""
        self.claimed: int | None = None
        """`BASE` that a journal claims for the whole range; None once the claim was compared with the disk."""
        self.base = 0
        """`checksums.BASE` of the done bytes."""
        self.aux = 0
        """The same in the object's own proof; 0 where that is `BASE`."""

    @property
    def is_complete(self) -> bool:
        return self.done == self.length

    def rewind(self, done: int, base: int, aux: int) -> int:
        """Go back to an earlier state; return the bytes that are dropped by that."""
        with self.lock:
            dropped = self.done - done
            self.done, self.base, self.aux = done, base, aux
            self.owner = None
        return dropped

    def restart(self) -> None:
        """Forget all progress, before the range is fetched a second time."""
        self.owner = None
        self.done = self.base = self.aux = 0
        self.hedged = False
        self.failures = 0


def split(size: int, stored_parts: Sequence[int] = (), step: int | None = None) -> list[Range]:
    """Split an object of `size` bytes into ranges.

    stored_parts: sizes of the parts that no range may cross. step: bytes of a range; None: `range_size`.
    """
    step = step or range_size(size)
    ranges: list[Range] = []
    start = 0
    for part, length in enumerate(stored_parts or (size,)):
        ranges += [
            Range(len(ranges) + index, offset, min(step, start + length - offset), part)
            for index, offset in enumerate(range(start, start + length, step))
        ]
        start += length
    return ranges
