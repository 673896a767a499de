"""The chunks of one object as one agent sees them: what it has, what is on its way, and what others have.

Sets of chunks are bitmaps. Only members that can be reached count among the others: the bits of one that failed are
taken out, and come back when it may be tried again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from kube_cache.peers.attestations import Attestations
from kube_cache.peers.bitmaps import numbers
from kube_cache.peers.members import FAR

QUIET_S: Final = 0.05
"""For so long nothing is looked for again after nothing was found, unless something has changed."""


class Dealt(NamedTuple):
    """A chunk on its way. node: None is the origin. waits: the member had not got it yet when it was asked."""

    node: str | None
    since: float
    waits: bool


class Chunks:
    """Of one open object. Not thread-safe."""

    __slots__ = (
        "asked",
        "attestations",
        "complete",
        "counts",
        "dealt",
        "first",
        "forced",
        "full",
        "heard",
        "is_begun",
        "lengths",
        "masks",
        "mine",
        "mine_of",
        "missing",
        "not_yet",
        "number",
        "provable",
        "quiet_until",
        "tries",
        "within",
    )

    def __init__(self, number: int, first: int, lengths: list[int], complete: Iterable[int]) -> None:
        """number: of the object. first: position of its chunk 0, over all objects. lengths: of its chunks, in bytes."""
        self.number = number
        self.first = first
        self.lengths = lengths
        self.full = (1 << len(lengths)) - 1
        self.complete = sum(1 << chunk for chunk in set(complete))
        self.missing = self.full & ~self.complete
        """Neither complete nor dealt."""
        self.dealt: dict[int, Dealt] = {}
        self.asked = 0
        """Other members wait here for them."""
        self.forced = 0
        """Only the origin can settle what they are."""
        self.tries: dict[int, set[str]] = {}
        """By chunk, the members that failed to give it."""
        self.not_yet: dict[int, float] = {}
        """By chunk, since when members have said that it is on its way."""
        self.provable = True
        """The object's own checksum proves all chunks in the end."""
        self.attestations = Attestations()
        self.masks: dict[str, tuple[int, int]] = {}
        """By node, the chunks that it has, and its distance."""
        self.counts = [0] * len(lengths)
        """By chunk, the number of members that have it."""
        self.within = [0] * (FAR + 1)
        """By distance, the chunks that members up to there have."""
        self.heard = 0
        """Chunks that a member once saw at another member: they have left the origin."""
        self.is_begun = False
        """The window has reached the object: its first chunks are all due."""
        self.mine = 0
        """Chunks whose home is this agent."""
        self.mine_of = (-1, -1)
        """The epoch and the number of homes that `mine` was computed for."""
        self.quiet_until = 0.0

    @property
    def held(self) -> int:
        """The chunks that a member has."""
        return self.within[FAR]

    def show(self, node: str, mask: int, distance: int) -> None:
        """Take in what a member has, in place of what it had. distance: of the member, 0 to FAR."""
        mask &= self.full
        old, was_at = self.masks.get(node, (0, distance))
        if (mask, distance) == (old, was_at):
            return
        if mask:
            self.masks[node] = mask, distance
        else:
            del self.masks[node]
        for chunk in numbers(mask & ~old):
            self.counts[chunk] += 1
        for chunk in numbers(old & ~mask):
            self.counts[chunk] -= 1
        if old & ~mask or distance != was_at:
            self.within = [0] * (FAR + 1)
            for other, at in self.masks.values():
                for reach in range(at, FAR + 1):
                    self.within[reach] |= other
        elif mask & ~self.within[distance]:
            for reach in range(distance, FAR + 1):
                self.within[reach] |= mask
            self.quiet_until = 0.0
