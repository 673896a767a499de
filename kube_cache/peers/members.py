"""Who takes part in a swarm, and which member is the home of a chunk: the one that brings it from the origin.

The homes follow from the list of members alone, so that all agents agree on them without a word. Lists differ for a
moment when members join. Two agents with different lists name two homes for a chunk, which costs at most that chunk
twice. Whether a member lives is not known here; `holders` remembers whom this agent reached.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final, NamedTuple

MAX_MEMBERS: Final = 20_000
"""More than the 15,000 nodes that Kubernetes clusters are run with; an agent keeps some 300 bytes for each member."""
FAR: Final = 2
"""Distance of a member in another zone."""


class Place(NamedTuple):
    """Where a node is, by its labels. Empty where there is none."""

    zone: str = ""
    rack: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """An agent. address: "host:port" of its server. zone, rack: labels of its node; empty where there is none."""

    node: str
    address: str = ""
    zone: str = ""
    rack: str = ""

    def distance_to(self, other: Member) -> int:
        """Return 0 in the same rack, 1 in the same zone, FAR elsewhere; empty labels are equal."""
        if self.zone != other.zone:
            return FAR
        return 0 if self.rack == other.rack else 1


def rank(snapshot: str, node: str) -> bytes:
    """Return what the members of a snapshot's swarm are sorted by: a hash, so that each snapshot has other homes."""
    return hashlib.blake2b(f"{snapshot}\0{node}".encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Pinned:
    """The members that the workflow named when it pinned the snapshot. They alone are homes; others may join later.

    epoch: grows with each list of a snapshot. The greater one counts.
    """

    snapshot: str
    epoch: int
    members: tuple[Member, ...]
    order: tuple[str, ...] = field(init=False)
    places: dict[str, int] = field(init=False)
    """Of each node in `order`."""
    by_node: dict[str, Member] = field(init=False)

    def __post_init__(self) -> None:
        nodes = sorted({member.node for member in self.members}, key=lambda node: rank(self.snapshot, node))
        if not nodes:
            raise ValueError("a pinned list of members is empty; pin none instead")
        object.__setattr__(self, "order", tuple(nodes))
        object.__setattr__(self, "places", {node: place for place, node in enumerate(nodes)})
        object.__setattr__(self, "by_node", {member.node: member for member in self.members})


class Roster:
    """The members that one agent knows, itself included. Not thread-safe."""

    def __init__(self, snapshot: str, me: Member, pinned: Pinned | None = None) -> None:
        self.me = me
        self.epoch = 0
        self._snapshot = snapshot
        self._pinned: Mapping[str, Member] = {}
        """Members of the workflow's list, which is not copied: a simulator has thousands of agents."""
        self._pinned_nodes: Sequence[str] = ()
        self._members: dict[str, Member] = {me.node: me}
        """Members beside that list, this agent, and those that have moved since."""
        self._nodes: list[str] = [me.node]
        """Members beside that list, in the order in which they became known, for random picks."""
        self._order: list[str] | tuple[str, ...] = [me.node]
        self._ranks: list[bytes] | None = [rank(snapshot, me.node)]
        """Of `_order`; None while a pinned list is the order."""
        self._my_place: int | None = 0
        """Of this agent in `_order`; None where it is no home."""
        if pinned is not None:
            self.pin(pinned)

    def __len__(self) -> int:
        return len(self._pinned_nodes) + len(self._nodes)

    @property
    def homes(self) -> int:
        """The number of members that are homes."""
        return len(self._order)

    @property
    def is_pinned(self) -> bool:
        """Return whether the workflow named the homes; otherwise all known members are, and more may become known."""
        return self._ranks is None

    def get(self, node: str) -> Member | None:
        return self._members.get(node) or self._pinned.get(node)

    def pin(self, pinned: Pinned) -> bool:
        """Take the workflow's list, unless a newer one is known; return whether it was taken."""
        if pinned.epoch <= self.epoch and self._ranks is None:
            return False
        self.epoch, self._order, self._ranks = pinned.epoch, pinned.order, None
        self._my_place = pinned.places.get(self.me.node)
        former = {**self._pinned, **self._members}
        self._pinned, self._pinned_nodes = pinned.by_node, pinned.order
        self._members, self._nodes = {self.me.node: self.me}, []
        for node, member in former.items():
            if node not in pinned.by_node:
                self._add(member)
        if self.me.node not in pinned.by_node:
            self._nodes.insert(0, self.me.node)
        return True

    def learn(self, member: Member) -> bool:
        """Note a member that gossip told of; return whether it is new. A member that moved has its newest address."""
        known = self.get(member.node)
        if known is member:
            return False
        if known is not None:
            if member.node != self.me.node and member != known:
                self._members[member.node] = member
            return False
        if len(self) >= MAX_MEMBERS:
            return False
        self._add(member)
        if self._ranks is not None and isinstance(self._order, list):
            place = bisect.bisect(self._ranks, mine := rank(self._snapshot, member.node))
            self._ranks.insert(place, mine)
            self._order.insert(place, member.node)
            self._my_place = self._order.index(self.me.node)
        return True

    def home(self, position: int) -> str:
        """Return the node that brings the chunk at `position`, counted over all objects of the snapshot."""
        return self._order[position % len(self._order)]

    def deputies(self, position: int) -> Iterator[str]:
        """Yield each other home in the order in which they take the chunk over; a dead home's chunks go to many."""
        count = len(self._order)
        for turn in range(count - 1):
            yield self._order[(position + 1 + (position // count + turn) % (count - 1)) % count]

    def my_positions(self, first: int, count: int) -> Iterable[int]:
        """Return the positions from `first` on, `count` of them, whose home is this agent."""
        nodes = len(self._order)
        mine = self._my_place
        return () if mine is None else range(first + (mine - first) % nodes, first + count, nodes)

    def sample(self, count: int, random: Random) -> list[Member]:
        """Return at most `count` random members but this one."""
        known = len(self)
        picks = range(known) if known - 1 <= count else random.sample(range(known), count + 1)
        return [member for pick in picks if (member := self._other_at(pick)) is not None][:count]

    def _other_at(self, number: int) -> Member | None:
        """Return the member with `number`, below the number of members; None is this agent."""
        pinned = len(self._pinned_nodes)
        node = self._pinned_nodes[number] if number < pinned else self._nodes[number - pinned]
        return None if node == self.me.node else self.get(node)

    def _add(self, member: Member) -> None:
        if member.node == self.me.node:
            return
        if member.node not in self._members:
            self._nodes.append(member.node)
        self._members[member.node] = member
