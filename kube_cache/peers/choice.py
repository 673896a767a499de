"""Chooses what this agent fetches next, and from whom: the rules of the swarm, and nothing else.

No I/O, no threads and no clock: time comes as an argument, in seconds of any one clock, and chance from a seeded
generator. So the simulator runs this code for 15,000 nodes, and the agent runs the same. The rules, in their order:

1. A home brings its chunks from the origin at once, unless a living member has them.
2. Of what a living holder has, the rarest chunk of a small random sample, from the nearest holder.
3. For a chunk that nobody has, its home is asked, whose server holds the request until the chunk is there. A home that
   cannot be reached is followed by its deputies; an agent that finds itself to be the first of them acts as the home.
4. After two members failed for a chunk, and nobody is known to have it, the origin.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, NamedTuple

from kube_cache.peers.bitmaps import numbers, sample
from kube_cache.peers.chunks import QUIET_S, Chunks
from kube_cache.peers.holders import Holder
from kube_cache.peers.members import Member
from kube_cache.peers.state import State

MAX_TRIES: Final = 2
"""Members that failed for a chunk which nobody is known to have, before the origin is asked."""
_MAX_DEPUTIES: Final = 8
"""Deputies that are looked at for one chunk: where so many are dead, the origin is nearer."""
_MAX_LOOKS: Final = 3
"""Chunks of a sample whose members are looked at: where those of one are all busy, the next one's are not."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the simulator tunes. Defaults are what it found."""

    max_in_flight: int = 6
    """Chunks on their way from members at once: two fewer than the connections that the engine starts with."""
    max_per_holder: int = 1
    """In a swarm of few members, more: as many as fill `max_in_flight`."""
    max_waits: int = 2
    """Requests that wait at a home for a chunk that is not there yet; the others stay free for what is."""
    sampled: int = 8
    """Chunks of which the rarest is taken."""

    def limit_of_holder(self, state: State) -> int:
        """Return how many chunks may be on their way from one member."""
        return max(self.max_per_holder, self.max_in_flight // max(1, len(state.roster) - 1))


class Decision(NamedTuple):
    chunk: int
    member: Member | None
    """None: from the origin."""
    crc64: int | None = None
    """What the chunk must be, where its home attested it to this agent."""
    is_claim: bool = False
    """The chunk comes from the origin though its home is another member: others are to hear so at once."""


def choose(state: State, rules: Rules, number: int, wanted: Collection[int], now: float) -> Decision | None:
    """Choose one of the `wanted` chunks of object `number`; None while none can be had, or enough are on their way.

    A chunk that is wanted again without a word of how it ended is one that the engine took back.
    """
    of = state.objects[number]
    for chunk in [chunk for chunk in of.dealt if chunk in wanted]:
        state.settle(of, chunk)
    if now < of.quiet_until or not of.missing:
        return None
    state.revive(now)
    choice = (
        _duty(state, of, wanted, now)
        or _from_holder(state, rules, of, wanted, now)
        or _from_home(state, rules, of, wanted, now)
    )
    if choice is None:
        of.quiet_until = now + QUIET_S
    return choice


def _duty(state: State, of: Chunks, wanted: Collection[int], now: float) -> Decision | None:
    """Rule 1, and what only the origin can settle."""
    if not state.origin_is_free(now):
        return None
    if of.forced:
        for chunk in numbers(of.forced & of.missing):
            if chunk in wanted:
                return _deal(state, of, chunk, None, now)
    if not state.beginning.is_settled(now) or state.beginning.is_outranked(now):
        return None
    roster = state.roster
    if of.mine_of != (roster.epoch, roster.homes):
        of.mine_of = roster.epoch, roster.homes
        of.mine = sum(1 << position - of.first for position in roster.my_positions(of.first, len(of.lengths)))
    mine = of.mine & of.missing & ~of.held
    if mine:
        mine &= state.due(of)
    if mine:
        mine &= ~_hearsay(state, of, now)
    for chunk in numbers(mine):
        if chunk in wanted:
            return _deal(state, of, chunk, None, now)
    return None


def _from_holder(state: State, rules: Rules, of: Chunks, wanted: Collection[int], now: float) -> Decision | None:
    """Rule 2."""
    if state.peers_in_flight >= rules.max_in_flight:
        return None
    takable = of.missing & ~of.forced
    tried = 0
    for within in of.within:
        pool = within & takable & ~tried
        if pool and (choice := _rarest(state, rules, of, pool, wanted, now)) is not None:
            return choice
        tried |= pool
    return None


def _rarest(state: State, rules: Rules, of: Chunks, pool: int, wanted: Collection[int], now: float) -> Decision | None:
    """Choose one of the rarest chunks of a pool that a member gives now."""
    limit = rules.limit_of_holder(state)
    found = [chunk for chunk in sample(pool, rules.sampled, state.random) if chunk in wanted]
    for chunk in sorted(found, key=of.counts.__getitem__)[:_MAX_LOOKS]:
        if not of.provable and of.attestations.expected(chunk) is None:
            continue  # only its home may say what it is
        bit = 1 << chunk
        holder = _nearest(state, limit, [node for node, (mask, _) in of.masks.items() if mask & bit], now)
        if holder is not None:
            return _deal(state, of, chunk, holder, now)
    return None


def _nearest(state: State, limit: int, nodes: Collection[str], now: float) -> Holder | None:
    """Return the holder to fetch from: the nearest, of those the least used by this agent, of those a random one."""
    best: Holder | None = None
    key = (0, 0, 0.0)
    for node in nodes:
        holder = state.holders.find(node)
        if holder is None or holder.in_flight >= limit or now < holder.busy_until:
            continue
        mine = holder.distance, holder.in_flight, state.random.random()
        if best is None or mine < key:
            best, key = holder, mine
    return best


def _from_home(state: State, rules: Rules, of: Chunks, wanted: Collection[int], now: float) -> Decision | None:
    """Rules 3 and 4."""
    unknown = of.missing & ~of.forced
    if of.provable:
        unknown &= ~of.held
    if not unknown:
        return None
    may_fetch = state.origin_is_free(now) and state.beginning.is_settled(now)
    may_wait = state.waits_in_flight < rules.max_waits and state.peers_in_flight < rules.max_in_flight
    if not may_fetch and not may_wait:
        return None
    limit = rules.limit_of_holder(state)
    due = unknown & state.due(of)
    for chunk in sample(due & of.asked or due, _MAX_LOOKS, state.random):
        if chunk not in wanted:
            continue
        source = _source_of(state, of, chunk, now)
        if source is None:
            if may_fetch:
                return _deal(state, of, chunk, None, now)._replace(is_claim=True)
        elif may_wait and source.in_flight < limit and now >= source.busy_until:
            return _deal(state, of, chunk, source, now, waits=True)
    return None


def _source_of(state: State, of: Chunks, chunk: int, now: float) -> Holder | None:
    """Return whom to ask for a chunk that nobody reachable has; None: the origin."""
    tried = of.tries.get(chunk, ())
    position = of.first + chunk
    home = state.roster.home(position)
    if home != state.me.node and home not in tried and (holder := state.reachable(home, now)) is not None:
        return holder
    if not of.provable:
        return None
    for holder in state.holders:  # hearsay before deputies: the chunk is out, or is about to be
        if holder.expects(of.number, chunk) and holder.member.node not in tried and not holder.is_suspect(now):
            return holder
    is_outranked = state.beginning.is_outranked(now)
    if len(tried) >= MAX_TRIES or (home == state.me.node and not is_outranked):
        return None
    # A home that lives, but not for this agent, is another's to reach, and so is one that only others know.
    is_theirs = is_outranked or state.was_heard(home, now)
    for count, deputy in enumerate(state.roster.deputies(position)):
        if count >= _MAX_DEPUTIES or (deputy == state.me.node and not is_theirs):
            return None
        if deputy != state.me.node and deputy not in tried and (holder := state.reachable(deputy, now)) is not None:
            return holder
    return None


def _hearsay(state: State, of: Chunks, now: float) -> int:
    """Return the chunks that a member is fetching from the origin, or has seen at another member."""
    said = 0
    for holder in state.holders:
        if not holder.is_suspect(now):
            said |= holder.fetching.get(of.number, 0) | holder.seen.get(of.number, 0)
    return said


def _deal(state: State, of: Chunks, chunk: int, holder: Holder | None, now: float, *, waits: bool = False) -> Decision:
    state.deal(of, chunk, holder, now, waits=waits)
    if holder is None:
        return Decision(chunk, None)
    return Decision(chunk, holder.member, of.attestations.expected(chunk))
