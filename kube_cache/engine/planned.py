"""What a job's plan decides of one object: which ranges wait for its word, and which came from neighbours.

Holds the state and tells the plan. `WorkQueue` deals by it, under the engine's lock; the plan is never called there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from kube_cache.dataset.range_plan import ChunkSpan, RangePlan
from kube_cache.dataset.source import Source
from kube_cache.engine.ranges import Range
from kube_cache.errors import KubeCacheError

ASK_AGAIN_S: Final = 0.1
"""A plan that has nothing to say is asked again after so long, if it does not wake the engine before."""


class _Suspect(NamedTuple):
    base: int
    source: Source | None


class Planned:
    """Fields are guarded by the engine's lock, but for `woken`."""

    def __init__(self, plan: RangePlan) -> None:
        self.plan = plan
        self.wanted: set[int] = set()
        """Ranges that wait for the plan's word."""
        self.claims: set[int] = set()
        """Ranges that a journal claims and nobody has compared yet; the plan is asked when there are none."""
        self.from_neighbours: dict[int, Source | None] = {}
        """Complete ranges that neighbours sent, with the neighbour; None: it was in an earlier fetch."""
        self.woken = False
        """The plan wants to be asked."""
        self._asking = False
        self._asked_again_at = 0.0
        self._opened = False
        self._suspects: dict[int, _Suspect] = {}
        """Ranges that a mismatch had fetched again from the origin, as neighbours had sent them."""

    # Under the engine's lock.

    def is_due(self, now: float) -> bool:
        """Check whether a worker should ask the plan now."""
        if self._asking or self.claims or not self.wanted:
            return False
        return self.woken or now >= self._asked_again_at

    def begin_asking(self) -> AbstractSet[int]:
        """Reserve the plan for the caller, who asks it; return the ranges to choose from."""
        self._asking, self.woken = True, False
        return frozenset(self.wanted)

    def end_asking(self, *, chosen: bool, pause_s: float) -> None:
        """pause_s: until the next question, where nothing was chosen."""
        self._asking = False
        self._asked_again_at = 0.0 if chosen else time.monotonic() + pause_s

    def want(self, number: int) -> None:
        """Leave a range to the plan, which is asked at once."""
        self.wanted.add(number)
        self._asked_again_at = 0.0

    # Without it. One thread asks at a time.

    def open(self, ranges: Sequence[Range], wake: Callable[[], None], *, provable: bool) -> None:
        """Tell the plan what there is, if that was not done yet."""
        if self._opened:
            return
        self._opened = True

        def wake_plan() -> None:
            self.woken = True
            wake()

        self.plan.opened(
            [ChunkSpan(r.number, r.offset, r.length) for r in ranges],
            {r.number: r.base for r in ranges if r.is_complete},
            wake_plan,
            provable=provable,
        )

    def done(self, byte_range: Range, source: Source | None) -> None:
        if self._opened:
            self.plan.done(byte_range.number, byte_range.base, source)

    def failed(self, byte_range: Range, source: Source | None, error: KubeCacheError) -> None:
        self.plan.failed(byte_range.number, source, error)

    # For the finisher's thread, while no attempt at the object goes on.

    def suspect(self, suspects: Iterable[Range]) -> list[Range]:
        """Tell the plan of a mismatch; return the ranges among `suspects` that neighbours sent, to be fetched again."""
        sent = [byte_range for byte_range in suspects if byte_range.number in self.from_neighbours]
        for byte_range in sent:
            source = self.from_neighbours.pop(byte_range.number)
            self._suspects[byte_range.number] = _Suspect(byte_range.base, source)
        if sent and self._opened:
            self.plan.mismatch([byte_range.number for byte_range in sent])
        return sent

    def acquit(self, ranges: Sequence[Range]) -> None:
        """Tell the plan who lied, now that the object is proven."""
        suspects, self._suspects = self._suspects, {}
        for number, (base, source) in suspects.items():
            if source is not None and ranges[number].base != base:
                self.plan.lied(number, source)

    def bytes_by_neighbour(self, ranges: Sequence[Range]) -> Mapping[str, int]:
        """Return the bytes of this fetch that each neighbour sent, by its name."""
        sent: dict[str, int] = {}
        for number, source in self.from_neighbours.items():
            if source is not None:
                sent[source.name] = sent.get(source.name, 0) + ranges[number].length
        return sent
