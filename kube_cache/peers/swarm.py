"""One agent's part in the swarm of one snapshot: what the engine, gossip and the server need of it.

    swarm = Swarm(digest, me, {object id: size}, source_of)
    FetchJob(..., plan=swarm.plan(object_id))     for the engine; None for a small object
    swarm.receive(node, data) -> data             a message came; what is returned goes back as the answer
    swarm.message(), swarm.some_members(3)        twice a second: send the first to the second
    swarm.tell = send_now                         called with members that should get a message at once
    swarm.asked(object_id, offset)                a GET waits here for bytes that are not there yet
    swarm.published(object_id)                    the object is verified and in its place

Opens no connection and reads no disk. Thread-safe; its lock is held for well under a millisecond.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random

from kube_cache.dataset.source import Source
from kube_cache.peers.attestations import Lie
from kube_cache.peers.choice import Rules
from kube_cache.peers.cutting import MAX_LONE_BYTES, chunk_count
from kube_cache.peers.members import Member, Pinned
from kube_cache.peers.messages import MAX_CHUNKS, decode_from, encode
from kube_cache.peers.object_swarm import ObjectSwarm, Offers, Shared
from kube_cache.peers.state import State


class Swarm:
    def __init__(
        self,
        snapshot: str,
        me: Member,
        objects: Mapping[str, int],
        source_of: Callable[[Member], Source],
        *,
        offers: Offers | None = None,
        published: Iterable[str] = (),
        pinned: Pinned | None = None,
        seeds: Iterable[Member] = (),
        rules: Rules | None = None,
        settle_s: float = 1.0,
        seed: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """snapshot: its digest. objects: size in bytes by id, of the whole snapshot, alike for all members.

        source_of: returns the source that fetches from a member; its `name` is the member's node. offers: the server's
        side. published: ids of objects that are on the disk already. pinned: the members as the workflow names them.
        seeds: other members to begin with. settle_s: for so long the agent listens before it takes anything from the
        origin, unless it hears of enough members. seed: of all random choices; None for an agent's own.
        """
        chunked = sorted((size, id_) for id_, size in objects.items() if size > MAX_LONE_BYTES)
        swarming = [(id_, count) for size, id_ in chunked if (count := chunk_count(size)) <= MAX_CHUNKS]
        self._numbers = {id_: number for number, (id_, _) in enumerate(swarming)}
        state = State(snapshot, me, [count for _, count in swarming], Random(seed), pinned, settle_s)
        self._shared = Shared(state, rules or Rules(), clock, source_of, offers, lambda _members: None)
        for member in seeds:
            state.roster.learn(member)
        for id_ in published:
            self.published(id_)

    @property
    def tell(self) -> Callable[[Sequence[Member]], None]:
        return self._shared.tell

    @tell.setter
    def tell(self, send_now: Callable[[Sequence[Member]], None]) -> None:
        """Set what is called with members that should get a message now; must not block, and is called by workers."""
        self._shared.tell = send_now

    def plan(self, object_id: str) -> ObjectSwarm | None:
        """Return a new plan for one fetch of an object; None where the origin alone is to be asked."""
        number = self._numbers.get(object_id)
        return None if number is None else ObjectSwarm(self._shared, object_id, number)

    @property
    def snapshot(self) -> str:
        return self._shared.state.snapshot

    def published(self, object_id: str) -> None:
        """Note that an object is on the disk, verified as a whole."""
        self._close(object_id, whole=True)

    def dropped(self, object_id: str) -> None:
        """Note that an object is not fetched any more, or was evicted, so that others do not ask for it."""
        self._close(object_id, whole=False)

    def pin(self, pinned: Pinned) -> None:
        """Take the workflow's list of members, if it is newer than the one that is known."""
        with self._shared.lock:
            self._shared.state.pin(pinned)
        self._shared.wake()

    def learn(self, members: Iterable[Member]) -> None:
        """Note other members, as from a name that leads to all agents."""
        with self._shared.lock:
            for member in members:
                self._shared.state.roster.learn(member)

    def message(self) -> bytes:
        """Return what other members are to know of this one."""
        with self._shared.lock:
            message = self._shared.state.message()
        return encode(message)

    def receive(self, node: str, data: bytes) -> bytes:
        """Take a message of a node in, and return this agent's own as the answer. Raises MessageRefused."""
        self.hear(node, data)
        return self.message()

    def hear(self, node: str, data: bytes) -> None:
        """Take a message in that needs no answer: one that is an answer itself. Raises MessageRefused.

        node: whose certificate came with it. Nobody speaks for another.
        """
        message = decode_from(node, self.snapshot, data)
        with self._shared.lock:
            counts = self._shared.state.hear(message, self._shared.clock())
        self._shared.note_lies()
        if counts:
            self._shared.wake()

    def some_members(self, count: int) -> list[Member]:
        """Return at most `count` random members, without this one and those that are banned."""
        with self._shared.lock:
            return self._shared.state.some_members(count)

    def asked(self, object_id: str, offset: int) -> None:
        """Note that a member waits here for the chunk at `offset`, in bytes, so that it comes before others."""
        shared = self._shared
        with shared.lock:
            plan = shared.plans.get(self._numbers.get(object_id, -1))
            if plan is None:
                return
            shared.state.asked(plan.number, plan.chunk_at(offset))
        plan.wake()

    def take_lies(self) -> list[Lie]:
        """Return who was banned since the last call, and why, to be told to people."""
        with self._shared.lock:
            lies, self._shared.lies = self._shared.lies, []
        return lies

    @property
    def banned(self) -> Mapping[str, str]:
        """The reason for each node that is banned."""
        with self._shared.lock:
            return dict(self._shared.state.holders.banned)

    @property
    def taken_bytes(self) -> Mapping[str, int]:
        """Bytes of the chunks that came, by node; those of the origin under the empty name."""
        with self._shared.lock:
            return dict(self._shared.state.taken_bytes)

    def _close(self, object_id: str, *, whole: bool) -> None:
        number = self._numbers.get(object_id)
        if number is not None:
            with self._shared.lock:
                self._shared.plans.pop(number, None)
                self._shared.state.close(number, whole=whole)
