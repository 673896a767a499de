"""The port between the engine and whoever decides where an object's ranges come from, besides the origin.

The engine keeps buffers, checksums, journal and budget, and never learns who its neighbours are: a job may carry a
`RangePlan`, which it asks for each range. Without one every range comes from the origin, in order. With one, the origin
is still the last resort, and the plan says when.

Rules of the engine, which a plan may rely on:

* Small objects (up to 8 MiB) skip the plan: no method but `range_bytes` is called.
* A range is with one worker at a time. It is not hedged, neither from a neighbour nor from the origin.
* What a neighbour sent counts only when the whole range is there, and equals `Choice.crc64` where that is given.
  Whatever fails before gives the range back as it was; bytes of the origin are kept.
* A neighbour's failure costs the range none of its tries and no pause. A failure of the origin counts as ever, ends the
  fetch as ever, and pauses at most 2 s before the plan is asked again.
* Of the origin the range is never refused for its CRC: where the plan expected another one, `done` tells which it is,
  and whoever vouched for the other is proven wrong.
* No method is called while a lock of the engine is held, so a plan may take its own, and may call `wake` under it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from kube_cache.dataset.source import Source
from kube_cache.errors import KubeCacheError, SourceUnavailable


class WrongBytes(SourceUnavailable):
    """A neighbour's bytes of a range do not have the CRC that was expected."""


class ChunkSpan(NamedTuple):
    """A range of an object. offset, length: in bytes."""

    number: int
    offset: int
    length: int


class Choice(NamedTuple):
    """Where a range is to come from now."""

    number: int
    source: Source | None
    """None: the origin."""
    crc64: int | None = None
    """CRC64NVME of the whole range, where somebody vouches for one; None: any bytes are taken."""


class RangePlan(Protocol):
    """Of one object and one fetch. Thread-safe. No method blocks, and none raises."""

    def range_bytes(self, size: int) -> int | None:
        """Return the size of the ranges of an object of `size` bytes; None: as the engine cuts it.

        Depends on nothing else, so that all nodes cut alike. Called before the object is looked up.
        """
        ...

    def opened(
        self,
        ranges: Sequence[ChunkSpan],
        complete: Mapping[int, int],
        wake: Callable[[], None],
        *,
        provable: bool,
    ) -> None:
        """Begin. Called once, when what an earlier fetch left has been read back from the disk.

        ranges: all of the object; no range crosses a stored part. complete: number → CRC64NVME of those that are on the
        disk already. wake: makes the engine ask again at once; cheap, and may be called from any thread. provable: the
        origin keeps a checksum that proves the whole object in the end.
        """
        ...

    def next(self, wanted: Collection[int]) -> Choice | None:
        """Choose one of the `wanted` ranges; None: none can be had now.

        One worker asks at a time, and is answered quickly: others wait for it. The engine asks again when a range was
        dealt, done or failed, after `wake`, and after 0.1 s.
        """
        ...

    def done(self, number: int, crc64: int, source: Source | None) -> None:
        """Note a range that is in the file. crc64: of its bytes. source: that brought the last of them."""
        ...

    def failed(self, number: int, source: Source | None, error: KubeCacheError) -> None:
        """Note that a source did not bring a range, which is wanted again.

        error: TransferStalled, WrongBytes, AccessDenied, DatasetNotFound, SourceChanged, or another SourceUnavailable.
        """
        ...

    def mismatch(self, numbers: Collection[int]) -> None:
        """Note that the whole object differs from the origin's checksum.

        The ranges of these numbers came from neighbours, and are fetched again from the origin; until `done` is called
        for them, nobody should be given them.
        """
        ...

    def lied(self, number: int, source: Source) -> None:
        """Note that a neighbour sent other bytes than the origin has, as the object's checksum has proven since."""
        ...
