"""The beginning of an agent's part in a swarm: whom it has heard of, and whether that is enough to act.

An agent that begins does not know what others have. What it took from the origin then, a neighbour might have had, and
homes of an incomplete list of members are not everybody's homes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kube_cache.peers.members import Member, Roster

SETTLE_HEARD: Final = 16
"""Members that an agent hears of before it takes anything from the origin; all of a smaller swarm. With 8 simulated
agents that only gossip begin with different lists, with 32 they know no more, and shake hands twice as often."""
_MAX_GROWTH: Final = 4
"""Where no workflow names the members, an agent listens while it hears of new ones, for so many times as long."""
_START_S: Final = 2.0
"""Seconds from an agent's start in which a member that it has not heard of may still be starting, too."""
_ALIVE_S: Final = 3.0
"""Seconds in which others would have been heard several times that have the workflow's list."""


class Beginning:
    """Times are seconds of any one clock. Not thread-safe."""

    def __init__(self, roster: Roster, settle_s: float) -> None:
        """settle_s: for so long an agent listens before it takes anything from the origin, unless it hears enough."""
        self.is_over = False
        self._roster = roster
        self._settle_s = settle_s
        self._started: float | None = None
        self._heard: set[str] = set()
        self._grown_at = float("-inf")
        """When a member became known that had not been."""
        self._pinned_heard_at = float("-inf")

    def start(self, now: float) -> None:
        """Note that the first object is open."""
        if self._started is None:
            self._started = now

    def hear(self, node: str, epoch: int, now: float, *, grown: bool) -> None:
        """Note a message. epoch: of its sender's list of members. grown: it named a new member."""
        if epoch:
            self._pinned_heard_at = now
        if grown:
            self._grown_at = now
        if not self.is_over or self._is_start(now):
            self._heard.add(node)

    def hear_of(self, members: Iterable[Member], now: float) -> bool:
        """Learn members that somebody names who is none; return whether one was new."""
        known = len(self._roster)
        for member in members:
            self._roster.learn(member)
        if len(self._roster) == known:
            return False
        self._grown_at = now
        return True

    def was_heard(self, node: str) -> bool:
        return node in self._heard

    def may_be_starting(self, node: str, now: float) -> bool:
        """Return whether a member that does not answer may be starting, as this agent is."""
        return self._is_start(now) and node not in self._heard

    def is_settled(self, now: float) -> bool:
        """Return whether enough was heard to know what the swarm has."""
        if not self.is_over and self._started is not None:
            listened_s = now - self._started
            if self._roster.is_pinned:
                others = min(len(self._roster) - 1, SETTLE_HEARD)
                self.is_over = len(self._heard) >= others or listened_s >= self._settle_s
            else:
                is_steady = now - self._grown_at >= self._settle_s / 2
                self.is_over = listened_s >= self._settle_s * (1 if is_steady else _MAX_GROWTH)
        return self.is_over

    def is_outranked(self, now: float) -> bool:
        """Return whether a workflow named the homes to others, and not to this agent, which joined late."""
        return not self._roster.is_pinned and now - self._pinned_heard_at < _ALIVE_S

    def _is_start(self, now: float) -> bool:
        return self._started is not None and now - self._started < _START_S
