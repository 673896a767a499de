"""The work of one call of `fetch`: objects to open, smallest first, and the missing ranges of those that are open.

Deals and counts under the engine's one lock. Sends no request and waits for nothing: workers fetch, and the finisher
verifies.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from enum import Enum, auto
from typing import Final, NamedTuple

from kube_cache.dataset.range_plan import Choice
from kube_cache.dataset.source import Source
from kube_cache.dataset.transfer import FetchJob
from kube_cache.engine.control import Control
from kube_cache.engine.object_state import ObjectState, Phase
from kube_cache.engine.planned import ASK_AGAIN_S, Planned
from kube_cache.engine.ranges import MAX_SMALL_BYTES, Range

_MAX_OPEN: Final = 512
"""Open objects, with a file each: more than a batch of the finisher, fewer than the descriptors of a process."""
_MAX_HEDGED_SHARE: Final = 0.05
"""Hedges per dealt range: duplicates may cost the origin and the network a twentieth more at most."""


_MAX_PLANS_A_TENTH: Final = 50
"""Plans that are asked again within `ASK_AGAIN_S`; with more of them the pause is longer, or questions cost a core."""


class Opening(NamedTuple):
    job: FetchJob
    small: bool
    """True: one GET brings bytes and checksum. False: a HEAD comes first, and a journal is kept."""


class Attempt(NamedTuple):
    """One worker's attempt at a range. Two attempts at one range are a hedge."""

    queue: WorkQueue
    state: ObjectState
    byte_range: Range
    choice: Choice | None = None
    """The plan's word; None: the origin, or a journal's claim."""

    @property
    def source(self) -> Source | None:
        """The neighbour that the range comes from; None: the origin."""
        return self.choice.source if self.choice is not None else None


class Question(NamedTuple):
    """To be asked of an object's plan: where does one of the `wanted` ranges come from now?"""

    state: ObjectState
    planned: Planned
    wanted: AbstractSet[int]


class Outcome(Enum):
    """How an attempt ended."""

    COMPLETE = auto()
    """The attempt brought the rest of the range."""
    RESUMED = auto()
    """The range is on the disk as the journal claims: nothing was fetched."""
    LOST = auto()
    """Another worker brought the range, or an error ended the attempt."""
    GIVEN_UP = auto()
    """Another worker goes on with the range; `WorkQueue.give_up` has counted the attempt as over."""
    LEFT_TO_PLAN = auto()
    """The range is the plan's to place again: its source failed, or the journal's claim did not hold."""


class WorkQueue:
    def __init__(self, control: Control, jobs: Sequence[FetchJob]) -> None:
        self._control = control
        self._lock = control.lock
        # Smallest first: their owners wait least, and the ranges of large objects fill every connection to the end.
        self._openings = deque(
            Opening(job, small=0 < job.object.size <= MAX_SMALL_BYTES)
            for job in sorted(jobs, key=lambda job: job.object.size)
        )
        self._ready: deque[tuple[ObjectState, Range]] = deque()
        self._states: set[ObjectState] = set()
        self._plans: dict[ObjectState, Planned] = {}
        self._unfinished = len(jobs)
        self._dealt = self._hedges = 0

    # For the call's tasks.

    def next(self) -> Opening | Attempt | Question | None:
        """Take the next piece of work; None if there is none now. Call under the lock."""
        if self._control.error is not None:
            return None
        while self._ready:
            state, byte_range = self._ready.popleft()
            byte_range.offered = False
            # A hedge that no worker was free to take outlives its range, and perhaps its object.
            if state.phase is Phase.FETCHING and not byte_range.is_complete:
                return self._deal(state, byte_range)
        if self._plans and (question := self._question()) is not None:
            return question
        if self._openings and len(self._states) < _MAX_OPEN:
            return self._openings.popleft()
        return None

    def add(self, state: ObjectState) -> int | None:
        """Offer the missing ranges of an opened object; return their number, or None if the call has failed."""
        missing = state.missing()
        with self._lock:
            if self._control.error is not None:
                return None
            self._states.add(state)
            for byte_range in missing:
                if state.planned is None or byte_range.claimed is not None:
                    self._offer(state, byte_range)
            if state.planned is not None and missing:
                self._plans[state] = state.planned
                for byte_range in missing:
                    numbers = state.planned.wanted if byte_range.claimed is None else state.planned.claims
                    numbers.add(byte_range.number)
                self._lock.notify()
            if not missing:
                state.phase = Phase.WHOLE
        return len(missing)

    def add_small(self, state: ObjectState) -> Attempt | None:
        """Deal the only range of a small object to the caller; None if the call has failed."""
        with self._lock:
            if self._control.error is not None:
                return None
            self._states.add(state)
            return self._deal(state, state.ranges[0])

    def answer(self, question: Question, choice: Choice | None) -> Attempt | None:
        """Deal the range that a plan chose to the caller; None if there is none now."""
        state, planned, wanted = question
        with self._lock:
            pause_s = ASK_AGAIN_S * max(1.0, len(self._plans) / _MAX_PLANS_A_TENTH)
            planned.end_asking(chosen=choice is not None, pause_s=pause_s)
            if choice is None or choice.number not in wanted or self._control.error is not None:
                return None
            planned.wanted.discard(choice.number)
            if planned.wanted:
                self._lock.notify()  # another worker asks for another range
            return self._deal(state, state.ranges[choice.number], choice)

    def ask_woken(self) -> None:
        """Have workers ask the plans whose time has come, or that want to be asked."""
        with self._lock:
            now = time.monotonic()
            if due := sum(planned.is_due(now) for planned in self._plans.values()):
                self._lock.notify(due)

    def end(self, attempt: Attempt, outcome: Outcome) -> bool:
        """Count an attempt as over; True if its object became whole by that, which is once a fetch of its ranges."""
        _, state, byte_range, choice = attempt
        planned = state.planned
        with self._lock:
            if planned is not None:
                self._end_planned(planned, attempt, outcome)
            if outcome is not Outcome.GIVEN_UP:
                byte_range.fetchers -= 1
            state.active -= 1
            if outcome is Outcome.COMPLETE:
                state.left -= 1
                state.note(byte_range)
            elif outcome is Outcome.RESUMED:
                state.left -= 1
                state.resumed_bytes += byte_range.length
            elif planned is not None and (choice is not None or outcome is Outcome.LEFT_TO_PLAN):
                planned.want(byte_range.number)
                self._lock.notify()
            elif byte_range.fetchers == 0 and not byte_range.is_complete and self._control.error is None:
                byte_range.hedged = False
                self._offer(state, byte_range, first=True)  # each of two attempts was given up for the other
            idle = state.active == 0
            close = idle and state.abandoned
            whole = idle and state.left == 0 and state.phase is Phase.FETCHING and self._control.error is None
            if whole:
                state.phase = Phase.WHOLE
        if close:
            state.close()
        return whole

    def give_up(self, byte_range: Range) -> bool:
        """Give the range up if another worker is fetching it; True if so. That worker can then not give it up."""
        with self._lock:
            if byte_range.fetchers < 2:
                return False
            byte_range.fetchers -= 1
            byte_range.hedged = False  # the other worker may need a hedge, too
            return True

    # For the governor.

    def hedge(self, state: ObjectState, byte_range: Range) -> bool:
        """Offer the range to a second worker, before all others, if it is not hedged yet and hedges are few.

        Returns whether it was offered.
        """
        with self._lock:
            if self._control.error is not None or byte_range.is_complete:
                return False
            if state.planned is not None:  # its plan finds another source, and the origin's bytes are dear
                return False
            if self._control.bandwidth_limiter.is_limited:  # the limit makes it slow, and a hedge would share the limit
                return False
            if byte_range.hedged or byte_range.fetchers != 1 or byte_range.claimed is not None:
                return False
            if self._hedges >= max(1, int(self._dealt * _MAX_HEDGED_SHARE)):
                return False
            byte_range.hedged = True
            self._hedges += 1
            self._offer(state, byte_range, first=True)
            return True

    # For the finisher.

    def states(self) -> list[ObjectState]:
        """The open objects."""
        with self._lock:
            return list(self._states)

    def has_more(self, count: int) -> bool:
        """Check for objects beyond the `count` that wait to be finished."""
        return self._unfinished > count

    def put_back(self, state: ObjectState, refetched: Sequence[Range]) -> None:
        """Offer ranges of an object again, before all others."""
        with self._lock:
            state.phase = Phase.FETCHING
            for byte_range in reversed(refetched):
                self._offer(state, byte_range, first=True)

    def finish(self, state: ObjectState) -> bool:
        """Remove an object that is durable; True if it was the last."""
        with self._lock:
            self._states.remove(state)  # KeyError: it was finished before
            self._plans.pop(state, None)
            self._unfinished -= 1
            self._lock.notify()
            return self._unfinished == 0

    def abandon(self, state: ObjectState) -> None:
        """Close the files of an object of a failed call, at the end of the last attempt that may still write."""
        with self._lock:
            state.abandoned = True
            idle = state.active == 0
        if idle:
            state.close()

    def _offer(self, state: ObjectState, byte_range: Range, *, first: bool = False) -> None:
        """Queue a range, unless it is queued already. first: before all others. Call under the lock."""
        if byte_range.offered:
            return
        byte_range.offered = True
        if first:
            self._ready.appendleft((state, byte_range))
        else:
            self._ready.append((state, byte_range))
        self._lock.notify()

    def _deal(self, state: ObjectState, byte_range: Range, choice: Choice | None = None) -> Attempt:
        state.active += 1
        byte_range.fetchers += 1
        self._dealt += 1
        return Attempt(self, state, byte_range, choice)

    def _question(self) -> Question | None:
        """Take a question for a plan that may be asked now. Call under the lock."""
        now = time.monotonic()
        for state, planned in self._plans.items():
            if planned.is_due(now):
                return Question(state, planned, planned.begin_asking())
        return None

    def _end_planned(self, planned: Planned, attempt: Attempt, outcome: Outcome) -> None:
        """Note where a range came from. Call under the lock."""
        number = attempt.byte_range.number
        if outcome is Outcome.COMPLETE and attempt.source is not None:
            planned.from_neighbours[number] = attempt.source
        elif outcome is not Outcome.RESUMED:
            planned.from_neighbours.pop(number, None)
        if number in planned.claims:
            planned.claims.discard(number)
            if not planned.claims:
                self._lock.notify()
