"""What one agent knows of a swarm, and what follows from each thing that it is told.

The choices themselves are in `choice`. No I/O, no threads and no clock, as there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import Enum, auto
from random import Random
from typing import Final

from kube_cache.peers.attestations import Lie
from kube_cache.peers.beginning import SETTLE_HEARD, Beginning
from kube_cache.peers.bitmaps import numbers
from kube_cache.peers.chunks import Chunks, Dealt
from kube_cache.peers.holders import Holder, Holders
from kube_cache.peers.members import Member, Pinned, Roster
from kube_cache.peers.messages import MAX_ATTESTED, MAX_OPEN, MAX_OTHERS, Have
from kube_cache.peers.window import Window

ORIGIN_PAUSE_S: Final = 0.25
"""After the origin failed; doubled with each failure in a row."""
MAX_ORIGIN_PAUSE_S: Final = 2.0
SAMPLES: Final = 3
"""Chunks of an object without a checksum of its own that each agent has from the origin, to compare. A home that forged
a share f of the chunks is found by one of N agents with a probability of 1 - (1 - f)^3N."""
MAX_ORIGIN_FETCHES: Final = 16
"""Of one agent, in a swarm of two or three."""
_FREE_ORIGIN_FETCHES: Final = 4
"""Half of the connections that the engine starts with. More only while as many bring chunks from members."""
_FEW_OTHERS: Final = 4
"""Members that a message names when its sender is past its beginning: enough for whoever joins late."""
ALIVE_S: Final = 3.0
"""Seconds after a message for which its sender counts as alive: in a small swarm, several rounds of gossip."""
PATIENCE_S: Final = 15.0
"""Seconds for which members may say that they are busy, or a chunk on its way, before that counts as a failure."""


class Failure(Enum):
    """Why a chunk did not come."""

    STALLED = auto()
    """No byte for too long: the member hangs, or cannot be reached from here."""
    BROKEN = auto()
    """The connection was refused, or broke: the member has ended."""
    REFUSED = auto()
    """An answer that is no chunk: unknown snapshot, no right, no such range."""
    WRONG = auto()
    """The bytes are not what the home attested."""
    BUSY = auto()
    """All upload slots are taken. Not the member's fault."""
    NOT_YET = auto()
    """The member lives, and the chunk is on its way there. Not the member's fault."""


class State:
    """Not thread-safe. Times are seconds of any one clock."""

    def __init__(
        self,
        snapshot: str,
        me: Member,
        chunk_counts: Sequence[int],
        random: Random,
        pinned: Pinned | None = None,
        settle_s: float = 1.0,
    ) -> None:
        """chunk_counts: of each object, in the order that all members share; they need only be alike everywhere.

        settle_s: as `Beginning` takes it.
        """
        self.snapshot = snapshot
        self.me = me
        self.random = random
        self.roster = Roster(snapshot, me, pinned)
        self.holders = Holders(me)
        self.whole = 0
        """Objects that this agent has: a bitmap."""
        self.lies: list[Lie] = []
        """Since the caller last emptied it."""
        self.objects: dict[int, Chunks] = {}
        """Those that are open, by number."""
        self.taken_bytes: dict[str, int] = {}
        """Bytes of the chunks that came, by node; those of the origin under the empty name."""
        self.chunk_s = 0.2
        """Seconds that a chunk from a member takes, on average; how long one that is busy is left alone follows."""
        self.peers_in_flight = 0
        self.waits_in_flight = 0
        self.origin_in_flight = 0
        self.origin_failures = 0
        self.origin_retry_at = 0.0
        self.window = Window(chunk_counts)
        self._attested: dict[tuple[int, int], int] = {}
        """CRC64NVME by object and chunk, of what this agent brought from the origin; the newest at the end."""
        self.beginning = Beginning(self.roster, settle_s)
        self._suspects: dict[str, Holder] = {}

    # What the engine tells.

    def open(
        self, number: int, lengths: list[int], complete: Collection[int], now: float, *, provable: bool = True
    ) -> None:
        """Begin object `number`. lengths: of its chunks, in bytes. complete: the chunks that are on the disk.

        provable: the origin keeps a checksum that proves the object in the end. Otherwise a home's word is all there
        is, and some chunks come from the origin as samples of its truth.
        """
        self.close(number, whole=False)  # a fetch that was given up
        of = self.objects[number] = Chunks(number, self.window.first(number), lengths, complete)
        of.provable = provable
        if not provable:
            of.forced = sum(1 << chunk for chunk in self._samples(of.missing))
        for holder in self.holders:
            if holder.shown:
                of.show(holder.member.node, holder.chunks(number), holder.distance)
        self.beginning.start(now)

    def close(self, number: int, *, whole: bool) -> None:
        """End object `number`. whole: it is on the disk, verified."""
        of = self.objects.pop(number, None)
        if of is not None:
            for chunk in list(of.dealt):
                self.settle(of, chunk)
        if whole:
            self.whole |= 1 << number
        else:
            self.whole &= ~(1 << number)

    def done(self, number: int, chunk: int, crc64: int, node: str | None, now: float) -> None:
        """Note that a chunk is on the disk, and what it is. node: that sent it; None is the origin."""
        of = self.objects[number]
        dealt = self.settle(of, chunk)
        bit = 1 << chunk
        of.complete |= bit
        of.missing &= ~bit
        of.forced &= ~bit
        of.asked &= ~bit
        of.tries.pop(chunk, None)
        of.not_yet.pop(chunk, None)
        self.taken_bytes[node or ""] = self.taken_bytes.get(node or "", 0) + of.lengths[chunk]
        if node is None:
            self.origin_failures = 0
            self._attest(number, chunk, crc64)
            self._judge(of, chunk, crc64)
        elif (holder := self.holders.find(node)) is not None:
            holder.served()
            if dealt is not None and not dealt.waits:
                self.chunk_s += (min(now - dealt.since, 2.0) - self.chunk_s) / 8

    def failed(self, number: int, chunk: int, node: str | None, failure: Failure, now: float) -> None:
        """Note that a chunk did not come from `node`; None is the origin. It counts against the node alone."""
        of = self.objects[number]
        dealt = self.settle(of, chunk)
        if node is None:
            self.origin_failures += 1
            self.origin_retry_at = now + min(MAX_ORIGIN_PAUSE_S, ORIGIN_PAUSE_S * 2 ** min(self.origin_failures - 1, 8))
            return
        holder = self.holders.find(node)
        begins = self.beginning.may_be_starting(node, now)
        since = dealt.since if dealt else now
        is_patient = now - of.not_yet.setdefault(chunk, since) < PATIENCE_S
        if (failure is Failure.BUSY and is_patient) or (begins and failure is not Failure.WRONG):
            if holder is not None:
                holder.busy_until = now + self.random.uniform(0.25, 1.0) * self.chunk_s
            of.quiet_until = now + 0.1 * self.chunk_s
            return
        if failure is Failure.NOT_YET and is_patient:
            if node != self.roster.home(of.first + chunk) and not (holder and holder.expects(number, chunk)):
                of.tries.setdefault(chunk, set()).add(node)  # a deputy that knows as little
            return
        of.tries.setdefault(chunk, set()).add(node)
        of.not_yet.pop(chunk, None)
        if failure is Failure.WRONG:
            of.attestations.accuse(chunk, node)
            of.forced |= 1 << chunk
        if holder is None:
            return
        if failure is Failure.WRONG:
            holder.accused = True
        else:
            holder.failed(now, lost_at=since if failure is Failure.STALLED else None)
        if failure is Failure.REFUSED and not (dealt and dealt.waits):
            # It said that it has the chunk, and does not give it: evicted, or restarted without its disk.
            holder.forget(number)
        self._suspects[node] = holder
        self._show(holder, shown=False)

    def lied(self, chunk: int, node: str) -> None:
        """Ban a member whose chunk turned out to be another than the origin's."""
        self._ban(Lie(node, f"sent other bytes than the origin's for chunk {chunk}"))

    def reopen(self, number: int, chunks: Collection[int]) -> None:
        """Forget that chunks are there: the object is not what the origin says, and they come from there now."""
        of = self.objects[number]
        for chunk in chunks:
            bit = 1 << chunk
            of.complete &= ~bit
            of.missing |= bit
            of.forced |= bit
        of.quiet_until = 0.0

    # What others tell.

    def hear(self, message: Have, now: float) -> bool:
        """Take a message in; return whether it counts."""
        if message.snapshot != self.snapshot:
            return False
        if message.bystander:
            return self.beginning.hear_of(message.others, now)
        holder = self.holders.hear(message, now)
        if holder is None:
            return False
        known = len(self.roster)
        for member in (message.sender, *message.others):
            self.roster.learn(member)
        self.beginning.hear(message.sender.node, message.epoch, now, grown=len(self.roster) > known)
        for number, crcs in message.attested.items():
            of = self.objects.get(number)
            if of is not None and (lie := of.attestations.hear(message.sender.node, crcs)) is not None:
                self._ban(lie)
                return False
        if not holder.is_suspect(now):
            self._show(holder, shown=True)
            for number, seen in message.seen.items():
                if (of := self.objects.get(number)) is not None and seen & ~of.heard:
                    of.heard |= seen
                    of.quiet_until = 0.0
        while (surplus := self.holders.surplus()) is not None:
            self._show(surplus, shown=False)
            self.holders.forget(surplus)
            self._suspects.pop(surplus.member.node, None)
        return True

    def asked(self, number: int, chunk: int) -> None:
        """Note that a member waits here for a chunk, so that it comes before others."""
        of = self.objects.get(number)
        if of is not None and 0 <= chunk < len(of.lengths) and not of.complete >> chunk & 1:
            of.asked |= 1 << chunk

    def pin(self, pinned: Pinned) -> None:
        """Take the workflow's list of members, if it is newer than the one that is known."""
        self.roster.pin(pinned)

    def message(self) -> Have:
        """Return what the others are to know of this agent."""
        opened = dict(list(self.objects.items())[:MAX_OPEN])
        attested: dict[int, dict[int, int]] = {}
        for (number, chunk), crc64 in self._attested.items():
            attested.setdefault(number, {})[chunk] = crc64
        return Have(
            snapshot=self.snapshot,
            sender=self.me,
            epoch=self.roster.epoch,
            whole=self.whole,
            parts={number: of.complete for number, of in opened.items()},
            fetching={
                number: sum(1 << chunk for chunk, dealt in of.dealt.items() if dealt.node is None)
                for number, of in opened.items()
            },
            seen={number: of.held for number, of in opened.items()},
            attested=attested,
            others=tuple(self._random_members(_FEW_OTHERS if self.beginning.is_over else MAX_OTHERS)),
        )

    def some_members(self, count: int) -> list[Member]:
        """Return some random members but this one, to send a message to: `count`, and in the beginning more.

        An agent that begins has nobody's word yet, and those that it has not heard of come first.
        """
        if self.beginning.is_over:
            picked = sorted(self._random_members(2 * count), key=self.me.distance_to)
            return picked[: count - 1] + picked[count - 1 :][-1:]  # near ones rather, and one from anywhere
        picked = self._random_members(4 * SETTLE_HEARD)
        picked.sort(key=lambda member: self.beginning.was_heard(member.node))
        return picked[: max(count, SETTLE_HEARD)]

    def _random_members(self, count: int) -> list[Member]:
        return [each for each in self.roster.sample(count, self.random) if each.node not in self.holders.banned]

    # What the choice asks and tells.

    def to_tell(self, number: int, chunk: int, count: int) -> list[Member]:
        """Return who is to hear at once that a chunk has left the origin: whose turn is next, and `count` others."""
        told = self._random_members(count)
        after = self.window.after(self.window.first(number) + chunk)
        following = self.roster.get(self.roster.home(after)) if after is not None else None
        if following is not None and following.node != self.me.node and following not in told:
            told.append(following)
        return told

    def to_tell_of_claim(self, count: int) -> list[Member]:
        """Return who is to hear at once that this agent brings a chunk in its home's place."""
        return self._random_members(count)

    def was_heard(self, node: str, now: float) -> bool:
        """Return whether a member that this agent could not reach has been heard since."""
        holder = self.holders.find(node)
        return holder is not None and holder.heard_at > holder.lost_at and now - holder.heard_at < ALIVE_S

    def origin_is_free(self, now: float) -> bool:
        limit = max(_FREE_ORIGIN_FETCHES, min(MAX_ORIGIN_FETCHES, self.peers_in_flight + 1))
        return now >= self.origin_retry_at and (self.origin_in_flight < limit or len(self.roster) == 1)

    def due(self, of: Chunks) -> int:
        """Return the chunks of an object that their homes are to have brought by now, or bring: a bitmap."""
        if len(self.roster) == 1:
            return of.full
        known = of.complete | of.held | of.heard
        if not of.is_begun:
            started = [chunk for chunk in range(min(self.window.size, len(of.lengths))) if self._is_due(of, chunk)]
            of.is_begun = len(started) == min(self.window.size, len(of.lengths))
            return (known << self.window.size | sum(1 << chunk for chunk in started)) & of.full
        return (known << self.window.size | (1 << self.window.size) - 1) & of.full

    def _is_due(self, of: Chunks, chunk: int) -> bool:
        """Return whether one of the first chunks of an object is due: an earlier object decides."""
        before = self.window.before(of.first + chunk)
        other = None if before is None else self.objects.get(before[0])
        if before is None or other is None or before[1] >= len(other.lengths):
            return True  # whole, or not begun: the engine's order may differ from the window's, and must not stop
        return bool((other.complete | other.held | other.heard) >> before[1] & 1)

    def reachable(self, node: str, now: float) -> Holder | None:
        """Return a member to ask, unless it failed a moment ago or is banned."""
        member = self.roster.get(node)
        if member is None or node in self.holders.banned:
            return None
        holder = self.holders.meet(member)
        return None if holder.is_suspect(now) else holder

    def revive(self, now: float) -> None:
        """Let those members count again that have been left alone for long enough."""
        if self._suspects:
            for holder in [holder for holder in self._suspects.values() if not holder.is_suspect(now)]:
                self._show(holder, shown=True)
                del self._suspects[holder.member.node]

    def deal(self, of: Chunks, chunk: int, holder: Holder | None, now: float, *, waits: bool = False) -> None:
        of.missing &= ~(1 << chunk)
        of.dealt[chunk] = Dealt(None if holder is None else holder.member.node, now, waits)
        if holder is None:
            self.origin_in_flight += 1
        else:
            holder.in_flight += 1
            self.peers_in_flight += 1
            self.waits_in_flight += waits

    def settle(self, of: Chunks, chunk: int) -> Dealt | None:
        """Take a chunk back that was dealt, whatever became of it."""
        dealt = of.dealt.pop(chunk, None)
        if dealt is None:
            return None
        of.missing |= 1 << chunk
        for other in self.objects.values():
            other.quiet_until = 0.0
        if dealt.node is None:
            self.origin_in_flight -= 1
        else:
            self.peers_in_flight -= 1
            self.waits_in_flight -= dealt.waits
            if (holder := self.holders.find(dealt.node)) is not None:
                holder.in_flight -= 1
        return dealt

    def _samples(self, missing: int) -> list[int]:
        chunks = list(numbers(missing))
        return self.random.sample(chunks, min(SAMPLES, len(chunks)))

    def _show(self, holder: Holder, *, shown: bool) -> None:
        """Let what a member has count, or not."""
        holder.shown = shown
        for number, of in self.objects.items():
            of.show(holder.member.node, holder.chunks(number) if shown else 0, holder.distance)

    def _attest(self, number: int, chunk: int, crc64: int) -> None:
        self._attested[number, chunk] = crc64
        if len(self._attested) > MAX_ATTESTED:
            del self._attested[next(iter(self._attested))]

    def _judge(self, of: Chunks, chunk: int, crc64: int) -> None:
        liars, acquitted = of.attestations.judge(chunk, crc64)
        for node in acquitted:
            if (holder := self.holders.find(node)) is not None:
                holder.accused = False
        for lie in liars:
            self._ban(lie)

    def _ban(self, lie: Lie) -> None:
        if lie.node in self.holders.banned or lie.node == self.me.node:
            return
        if (holder := self.holders.find(lie.node)) is not None:
            self._show(holder, shown=False)
        self._suspects.pop(lie.node, None)
        self.holders.ban(lie.node, lie.reason)
        self.lies.append(lie)
        for of in self.objects.values():
            of.attestations.forget(lie.node)
