"""The order in which chunks leave the origin: a window at a time, however many members there are.

A chunk that is not out feeds nobody, and chunks that share the origin's link all come late. So the home of a chunk
waits until the chunk that lies a window before it is out. It learns so from the home of that chunk, at once.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Final

MIN_WINDOW: Final = 4
MAX_WINDOW: Final = 128
"""Connections that fill 100 Gb/s from S3, which gives some 90 MB/s on each."""
_SHARE: Final = 8
"""The window is an eighth of all chunks at most, since the first chunks are out when a window has come."""


class Window:
    """Positions of chunks, counted over all objects of the snapshot, and how far the origin is ahead."""

    def __init__(self, chunk_counts: Sequence[int]) -> None:
        """chunk_counts: of each object, in the order that all members share; they need only be alike everywhere."""
        self._firsts = [0]
        for count in chunk_counts:
            self._firsts.append(self._firsts[-1] + count)
        self.size = max(MIN_WINDOW, min(MAX_WINDOW, self._firsts[-1] // _SHARE))
        """Chunks that are on their way from the origin to all members together."""

    def first(self, number: int) -> int:
        """Return the position of the first chunk of object `number`."""
        return self._firsts[number]

    def before(self, position: int) -> tuple[int, int] | None:
        """Return the object and the chunk that must be out before the one at `position` is due; None for the first."""
        before = position - self.size
        if before < 0:
            return None
        number = min(bisect.bisect_right(self._firsts, before), len(self._firsts) - 1) - 1
        return number, before - self._firsts[number]

    def after(self, position: int) -> int | None:
        """Return the position that is due because the one at `position` is out; None at the end."""
        after = position + self.size
        return after if after < self._firsts[-1] else None
