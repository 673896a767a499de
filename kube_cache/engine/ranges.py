"""How an object is cut into ranges. A range is the unit of a request, of the journal and of a retry.

Independent of the buffers: memory does not grow with the range. Where an object's checksum is one over its parts'
checksums, no range crosses a stored part, so that each part's checksum can be rebuilt from whole ranges.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

MIB: Final = 1 << 20
GIB: Final = 1 << 30
MAX_SMALL_BYTES: Final = 8 * MIB
"""Objects up to this size are one request and have no journal."""


def range_size(size: int) -> int:
    if size < 256 * MIB:
        return 8 * MIB
    return 16 * MIB if size <= 64 * GIB else 64 * MIB


class Range:
    """A range and how far it is. Only its owner writes to the file, under `lock`; see `worker` for how it changes hands."""

    __slots__ = (
        "aux",
        "crc64",
        "done",
        "failures",
        "fetchers",
        "hedged",
        "length",
        "lock",
        "number",
        "offset",
        "owner",
        "part",
    )

    def __init__(self, number: int, offset: int, length: int, part: int = 0) -> None:
        self.number = number
        self.offset = offset
        self.length = length
        self.part = part
        """Number of the stored part that it lies in."""
        self.lock = threading.Lock()
        self.owner: Any = None
        self.fetchers = 0
        """Workers that are at it; guarded by the scheduler's lock, like `hedged`."""
        self.hedged = False
        self.failures = 0
        """Failed ones since its last byte, whoever made them."""
        self.done = 0
        self.crc64 = 0
        self.aux = 0

    def restart(self) -> None:
        self.owner = None
        self.done = self.crc64 = self.aux = 0
        self.hedged = False
        self.failures = 0


def split(size: int, stored_parts: Sequence[int] = ()) -> list[Range]:
    """stored_parts: the sizes of the parts that must not be crossed."""
    step = range_size(size)
    result: list[Range] = []
    start = 0
    for part, length in enumerate(stored_parts or (size,)):
        result += [
            Range(len(result) + index, offset, min(step, start + length - offset), part)
            for index, offset in enumerate(range(start, start + length, step))
        ]
        start += length
    return result
