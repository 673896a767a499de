"""What this agent knows of the other members: who has which chunk, who can be reached, who is banned.

Bounded: of a large swarm an agent remembers the `MAX_HOLDERS` members that it heard of last. They are random ones, so
that the swarm is a random graph, and each chunk that is out is near.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from kube_cache.peers.bitmaps import ALL
from kube_cache.peers.members import Member
from kube_cache.peers.messages import Have

MAX_HOLDERS: Final = 128
"""Arbitrary: three times the neighbours of a BitTorrent client, and few enough to be looked at for each chunk."""
SUSPECT_S: Final = 0.5
"""The first pause after a member failed; four times as long with each failure in a row. The first is short, because
members of a swarm start at nearly the same time."""
MAX_SUSPECT_S: Final = 60.0
_NOTHING: Final[Mapping[int, int]] = {}


class Holder:
    """Another member, as this agent met it. Times are seconds of the caller's clock."""

    __slots__ = (
        "accused",
        "busy_until",
        "distance",
        "failures",
        "fetching",
        "heard_at",
        "in_flight",
        "lost_at",
        "member",
        "parts",
        "retry_at",
        "seen",
        "shown",
        "whole",
    )

    def __init__(self, member: Member, distance: int) -> None:
        self.member = member
        self.distance = distance
        self.whole = 0
        self.parts: Mapping[int, int] = _NOTHING
        self.fetching: Mapping[int, int] = _NOTHING
        self.seen: Mapping[int, int] = _NOTHING
        self.heard_at = float("-inf")
        """When its last message came; that this agent can be reached by it says nothing of the other way."""
        self.lost_at = float("inf")
        """When this agent last tried in vain to reach it."""
        self.shown = False
        """What it has counts: `Chunks` know of it."""
        self.in_flight = 0
        """Chunks that this agent is fetching from it now, or waits for there."""
        self.busy_until = 0.0
        self.failures = 0
        """Failures in a row."""
        self.retry_at = 0.0
        self.accused = False
        """A chunk from it was not what its home attested, and the origin has not yet said which of both lied."""

    def chunks(self, number: int) -> int:
        """Return the chunks of object `number` that it has: a bitmap, ALL for a whole object."""
        return ALL if self.whole >> number & 1 else self.parts.get(number, 0)

    def is_suspect(self, now: float) -> bool:
        """Return whether it failed a moment ago, and is to be left alone for now."""
        return self.accused or (self.failures > 0 and now < self.retry_at)

    def forget(self, number: int) -> None:
        """Drop what it said that it has of an object."""
        self.whole &= ~(1 << number)
        self.parts = {other: chunks for other, chunks in self.parts.items() if other != number}

    def expects(self, number: int, chunk: int) -> bool:
        """Return whether it brings a chunk from the origin, or has seen it at another member."""
        return bool((self.seen.get(number, 0) | self.fetching.get(number, 0)) >> chunk & 1)

    def failed(self, now: float, lost_at: float | None) -> None:
        """Note a failure. lost_at: when the request began that found nobody; None where something answered."""
        self.failures += 1
        self.lost_at = float("inf") if lost_at is None else lost_at
        self.retry_at = now + min(MAX_SUSPECT_S, SUSPECT_S * 4 ** min(self.failures - 1, 8))

    def served(self) -> None:
        self.failures = 0
        self.busy_until = 0.0


class Holders:
    """Not thread-safe."""

    def __init__(self, me: Member) -> None:
        self._me = me
        self._holders: dict[str, Holder] = {}
        """By node, the one heard of last at the end."""
        self.banned: dict[str, str] = {}
        """Members that lied, and about what; kept while the swarm lives."""

    def __iter__(self) -> Iterator[Holder]:
        return iter(self._holders.values())

    def __len__(self) -> int:
        return len(self._holders)

    def find(self, node: str) -> Holder | None:
        return self._holders.get(node)

    def meet(self, member: Member) -> Holder:
        """Return the holder of a member, whether or not a message from it came."""
        holder = self._holders.get(member.node)
        if holder is None:
            holder = self._holders[member.node] = Holder(member, self._me.distance_to(member))
        return holder

    def hear(self, message: Have, now: float) -> Holder | None:
        """Note a message; return its sender, or None where the sender is banned or this agent itself."""
        node = message.sender.node
        if node in self.banned or node == self._me.node:
            return None
        holder = self.meet(message.sender)
        holder.member, holder.distance = message.sender, self._me.distance_to(message.sender)
        holder.whole, holder.parts = message.whole, message.parts
        holder.fetching, holder.seen = message.fetching, message.seen
        holder.heard_at = now
        self._holders[node] = self._holders.pop(node)
        return holder

    def ban(self, node: str, reason: str) -> None:
        self.banned.setdefault(node, reason)
        self._holders.pop(node, None)

    def surplus(self) -> Holder | None:
        """Return the holder to forget, the one heard of longest ago; None while there are few."""
        if len(self._holders) <= MAX_HOLDERS:
            return None
        return next((holder for holder in self._holders.values() if not holder.in_flight), None)

    def forget(self, holder: Holder) -> None:
        self._holders.pop(holder.member.node, None)
