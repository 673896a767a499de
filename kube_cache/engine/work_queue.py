"""The work of one call of `fetch`: objects to open, smallest first, and the missing ranges of those that are open.

Deals and counts under the engine's one lock. Sends no request and waits for nothing: workers fetch, and the finisher
verifies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum, auto
from typing import Final, NamedTuple

from kube_cache.dataset.transfer import FetchJob
from kube_cache.engine.control import Control
from kube_cache.engine.object_state import ObjectState
from kube_cache.engine.ranges import MAX_SMALL_BYTES, Range

_MAX_OPEN: Final = 512
"""Open objects, with a file each: more than a batch of the finisher, fewer than the descriptors of a process."""
_MAX_HEDGED_SHARE: Final = 0.05
"""Hedges per dealt range: duplicates may cost the origin and the network a twentieth more at most."""


class Opening(NamedTuple):
    job: FetchJob
    small: bool
    """True: one GET brings bytes and checksum. False: a HEAD comes first, and a journal is kept."""


class Attempt(NamedTuple):
    """One worker's attempt at a range. Two attempts at one range are a hedge."""

    queue: WorkQueue
    state: ObjectState
    byte_range: Range


class Outcome(Enum):
    """How an attempt ended."""

    COMPLETE = auto()
    """The attempt brought the rest of the range."""
    LOST = auto()
    """Another worker brought the range, or an error ended the attempt."""
    GIVEN_UP = auto()
    """Another worker goes on with the range; `WorkQueue.give_up` has counted the attempt as over."""


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
        self._unfinished = len(jobs)
        self._dealt = self._hedges = 0

    # For the call's tasks.

    def next(self) -> Opening | Attempt | None:
        """Take the next piece of work; None if there is none now. Call under the lock."""
        if self._control.error is not None:
            return None
        if self._ready:
            return self._deal(*self._ready.popleft())
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
            self._ready.extend((state, byte_range) for byte_range in missing)
            self._lock.notify(len(missing))
        return len(missing)

    def add_small(self, state: ObjectState) -> Attempt | None:
        """Deal the only range of a small object to the caller; None if the call has failed."""
        with self._lock:
            if self._control.error is not None:
                return None
            self._states.add(state)
            return self._deal(state, state.ranges[0])

    def end(self, attempt: Attempt, outcome: Outcome) -> bool:
        """Count an attempt as over; True if its object is complete now."""
        _, state, byte_range = attempt
        with self._lock:
            if outcome is not Outcome.GIVEN_UP:
                byte_range.fetchers -= 1
            state.active -= 1
            if outcome is Outcome.COMPLETE:
                state.left -= 1
                state.note(byte_range)
            elif byte_range.fetchers == 0 and not byte_range.is_complete and self._control.error is None:
                byte_range.hedged = False
                self._ready.appendleft((state, byte_range))  # each of two attempts was given up for the other
                self._lock.notify()
            idle = state.active == 0
            close = idle and state.abandoned
            whole = idle and state.left == 0 and self._control.error is None
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

    def hedge(self, state: ObjectState, byte_range: Range) -> None:
        """Offer the range to a second worker, before all others, if it is not hedged yet and hedges are few."""
        with self._lock:
            if self._control.error is not None or byte_range.is_complete:
                return
            if byte_range.hedged or byte_range.fetchers != 1:
                return
            if self._hedges >= max(1, int(self._dealt * _MAX_HEDGED_SHARE)):
                return
            byte_range.hedged = True
            self._hedges += 1
            self._ready.appendleft((state, byte_range))
            self._lock.notify()

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
            self._ready.extendleft((state, byte_range) for byte_range in reversed(refetched))
            self._lock.notify(len(refetched))

    def reopen(self, state: ObjectState) -> None:
        """Open a small object as a large one, because its checksum needs the list of its parts."""
        state.close()
        with self._lock:
            self._states.discard(state)
            self._openings.appendleft(Opening(state.job, small=False))
            self._lock.notify()

    def finish(self, state: ObjectState) -> bool:
        """Remove an object that is durable; True if it was the last."""
        with self._lock:
            self._states.discard(state)
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

    def _deal(self, state: ObjectState, byte_range: Range) -> Attempt:
        state.active += 1
        byte_range.fetchers += 1
        self._dealt += 1
        return Attempt(self, state, byte_range)
