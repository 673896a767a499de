"""The engine's plan for one object: `RangePlan` over the choices of the swarm.

Adds to `choice` what that does without: the lock, the clock, and sources instead of members.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from kube_cache.dataset.range_plan import Choice, ChunkSpan, WrongBytes
from kube_cache.dataset.source import Source
from kube_cache.errors import AccessDenied, DatasetNotFound, KubeCacheError, SourceChanged, TransferStalled
from kube_cache.peers.attestations import Lie
from kube_cache.peers.choice import Rules, choose
from kube_cache.peers.cutting import chunk_bytes
from kube_cache.peers.members import Member
from kube_cache.peers.refusals import MemberBusy, NotYetThere
from kube_cache.peers.state import Failure, State
from kube_cache.telemetry import peer_metrics

TOLD_AT_ONCE: Final = 2
"""Members that hear at once of a chunk that comes from the origin, beside the next home. More bring nothing: the others
ask its home anyway."""
_FAILURES: Final[Mapping[type[KubeCacheError], Failure]] = {
    MemberBusy: Failure.BUSY,
    NotYetThere: Failure.NOT_YET,
    WrongBytes: Failure.WRONG,
    AccessDenied: Failure.REFUSED,
    DatasetNotFound: Failure.REFUSED,
    SourceChanged: Failure.REFUSED,
    TransferStalled: Failure.STALLED,
}


_REASONS: Final = {
    Failure.BUSY: "busy",
    Failure.NOT_YET: "late",
    Failure.STALLED: "stalled",
    Failure.BROKEN: "broken",
    Failure.REFUSED: "refused",
    Failure.WRONG: "wrong",
}
_log = structlog.get_logger("kube_cache.peers")


class Offers(Protocol):
    """Who serves what this agent has. Called before others hear of a chunk, and with no lock held."""

    def verified(self, id_: str, extents: Iterable[tuple[int, int]]) -> None:
        """Tell which bytes may be given to others. extents: (offset, length) of each."""
        ...

    def withdraw(self, id_: str, extents: Iterable[tuple[int, int]]) -> None:
        """Tell that bytes turned out wrong."""
        ...


@dataclass
class Shared:
    """What all plans of a swarm share. `lock` guards `state`, `plans` and `sources`."""

    state: State
    rules: Rules
    clock: Callable[[], float]
    source_of: Callable[[Member], Source]
    offers: Offers | None
    tell: Callable[[Sequence[Member]], None]
    lock: threading.Lock = field(default_factory=threading.Lock)
    plans: dict[int, ObjectSwarm] = field(default_factory=dict)
    """Of the objects that are open, by their number."""
    sources: dict[Member, Source] = field(default_factory=dict)
    lies: list[Lie] = field(default_factory=list)
    """Counted, and not taken by whoever tells people."""

    def source(self, member: Member) -> Source:
        """Return the source of a member; one for each address that it had."""
        found = self.sources.get(member)
        if found is None:
            found = self.sources[member] = self.source_of(member)
        return found

    def note_lies(self) -> None:
        """Count and log who was banned since the last call. Call it without the lock, after whatever may ban."""
        if not self.state.lies:
            return
        with self.lock:
            lies, self.state.lies = self.state.lies, []
            self.lies += lies
        for lie in lies:
            peer_metrics.BANNED.inc()
            _log.warning("a neighbour is banned", snapshot=self.state.snapshot, neighbour=lie.node, reason=lie.reason)

    def wake(self) -> None:
        """Let the engine ask for each open object again. Call it without the lock."""
        with self.lock:
            plans = list(self.plans.values())
        for plan in plans:
            plan.wake()


class ObjectSwarm:
    """Implements `RangePlan`, for one fetch."""

    def __init__(self, shared: Shared, object_id: str, number: int) -> None:
        """number: of the object in the swarm."""
        self.number = number
        self.wake: Callable[[], None] = lambda: None
        self._shared = shared
        self._id = object_id
        self._spans: Sequence[ChunkSpan] = ()
        self._offsets: list[int] = []

    def chunk_at(self, offset: int) -> int:
        """Return the chunk that holds the byte at `offset`; -1 before the object is open."""
        return bisect_right(self._offsets, offset) - 1

    def range_bytes(self, size: int) -> int | None:
        return chunk_bytes(size)

    def opened(
        self,
        ranges: Sequence[ChunkSpan],
        complete: Mapping[int, int],
        wake: Callable[[], None],
        *,
        provable: bool,
    ) -> None:
        self._spans = ranges
        self._offsets = [span.offset for span in ranges]
        self.wake = wake
        shared = self._shared
        if complete:
            self._offer(complete)
        with shared.lock:
            lengths = [span.length for span in ranges]
            shared.state.open(self.number, lengths, complete, shared.clock(), provable=provable)
            shared.plans[self.number] = self

    def next(self, wanted: Collection[int]) -> Choice | None:
        shared = self._shared
        with shared.lock:
            if shared.plans.get(self.number) is not self:
                return None  # the object was dropped; the engine is about to be told
            decision = choose(shared.state, shared.rules, self.number, wanted, shared.clock())
            if decision is None:
                return None
            source = None if decision.member is None else shared.source(decision.member)
            told = shared.state.to_tell_of_claim(TOLD_AT_ONCE) if decision.is_claim else []
        if told:
            shared.tell(told)
        return Choice(decision.chunk, source, decision.crc64)

    def done(self, number: int, crc64: int, source: Source | None) -> None:
        shared = self._shared
        self._offer([number])
        with shared.lock:
            if shared.plans.get(self.number) is not self:
                return
            shared.state.done(self.number, number, crc64, _node(source), shared.clock())
            told = shared.state.to_tell(self.number, number, TOLD_AT_ONCE) if source is None else []
        shared.note_lies()
        if told:
            shared.tell(told)

    def failed(self, number: int, source: Source | None, error: KubeCacheError) -> None:
        shared = self._shared
        failure = next((failure for kind, failure in _FAILURES.items() if isinstance(error, kind)), Failure.BROKEN)
        if source is not None:
            peer_metrics.FAILED.labels(_REASONS[failure]).inc()
        with shared.lock:
            if shared.plans.get(self.number) is self:
                shared.state.failed(self.number, number, _node(source), failure, shared.clock())

    def mismatch(self, numbers: Collection[int]) -> None:
        shared = self._shared
        if shared.offers is not None:
            shared.offers.withdraw(self._id, self._extents(numbers))
        with shared.lock:
            if shared.plans.get(self.number) is self:
                shared.state.reopen(self.number, numbers)

    def lied(self, number: int, source: Source) -> None:
        with self._shared.lock:
            self._shared.state.lied(number, source.name)
        self._shared.note_lies()

    def _offer(self, numbers: Iterable[int]) -> None:
        if self._shared.offers is not None:
            self._shared.offers.verified(self._id, self._extents(numbers))

    def _extents(self, numbers: Iterable[int]) -> list[tuple[int, int]]:
        return [(self._spans[number].offset, self._spans[number].length) for number in numbers]


def _node(source: Source | None) -> str | None:
    return None if source is None else source.name
