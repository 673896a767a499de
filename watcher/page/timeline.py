"""Records how each Pod came to its node: the steps of the last releases, and the releases of each hour of a day.

Fed with every event of the watches, so every operator knows the same, whoever made a release. A moment of a Pod's life
belongs to the step that its state says, so the steps of a Pod add up to its time from creation to binding, to the
lateness of a watch. Kept in memory: an operator that starts anew begins with an empty list.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from kube_cache.contracts.common import Phase
from kube_cache.kube.pods import PodFacts, SeatFacts
from kube_cache.kube.quantities import gpu_count
from watcher.ledger import created_at
from watcher.page.model import Hour, Release, Span, Step
from watcher.page.words import public

MAX_RELEASES: Final = 100
_HOURS: Final = 24
_HOUR_S: Final = 3600.0
# A Pod that goes to and fro for days has no more spans than a row can show; the last one takes the rest.
_MAX_SPANS: Final = 24
_WAITS: Final = frozenset(
    {
        Phase.WAITING_FOR_GATES, Phase.WAITING_FOR_DISK, Phase.WAITING_FOR_CAPACITY, Phase.WAITING_FOR_GROUP,
        Phase.AWAITING_OPERATOR, Phase.PAUSED,
    }
)  # fmt: skip
# An operator sees a new Pod within this time; what lies further back has happened before it looked.
_PROMPT_S: Final = 3.0


@dataclass(slots=True)
class _Life:
    step: Step
    since: float
    spans: list[Span] = field(default_factory=list)
    missed: bool = False
    gpus: int = 0
    """Of a Pod that missed; those of a hit nobody asks for."""

    def see_mark(self, pod: PodFacts) -> None:
        """Note that the Pod waits for a download, if it does."""
        if pod.warming and not self.missed:
            raw = pod.raw
            self.missed, self.gpus = True, 0 if raw is None else gpu_count(raw)

    def go_on(self, step: Step, now: float) -> None:
        """End the current span where the step changes."""
        if step == self.step:
            return
        self.spans.append(Span(self.step, max(0.0, now - self.since)))
        if len(self.spans) > _MAX_SPANS:
            last = self.spans.pop()
            self.spans[-1] = Span(self.spans[-1].step, self.spans[-1].seconds + last.seconds)
        self.step, self.since = step, now


class Timeline:
    """Belongs to one event loop; `releases` and `hours` may be called by any thread."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._now = clock
        self._lives: dict[str, _Life] = {}
        """Pods that were seen gated and are not bound yet, by workflow id."""
        self._seats: dict[str, tuple[str, bool]] = {}
        """Workflow id -> uid of its newest seat, and whether that is bound."""
        self._releases: deque[Release] = deque(maxlen=MAX_RELEASES)
        self._hours: deque[Hour] = deque(maxlen=_HOURS)
        self.since = clock()

    def releases(self) -> list[Release]:
        """Return the last releases, the newest first."""
        return list(self._releases)[::-1]

    def hours(self) -> list[Hour]:
        """Return the hours of the last day that saw a release."""
        first = self._now() - _HOURS * _HOUR_S
        return [hour for hour in list(self._hours) if hour.starts_at > first]

    def see_pod(self, pod: PodFacts) -> None:
        key, now = pod.workflow_id, self._now()
        life = self._lives.get(key)
        if life is None:
            if pod.view.gated and not pod.ended:
                self._lives[key] = self._begin(pod, now)
            return
        if pod.ended or pod.view.deleting:
            del self._lives[key]
        elif pod.view.gated:
            life.see_mark(pod)
            life.go_on(self._step_of(pod), now)
        elif not pod.node:
            life.go_on(Step.BIND, now)
        else:
            life.go_on(Step.BIND, now)
            life.spans.append(Span(Step.BIND, max(0.0, now - life.since)))
            del self._lives[key]
            self._note(pod, life, now)

    def forget_pod(self, pod: PodFacts) -> None:
        self._lives.pop(pod.workflow_id, None)

    def see_seat(self, seat: SeatFacts) -> None:
        self._seats[seat.workflow_id] = seat.uid, bool(seat.node)
        life = self._lives.get(seat.workflow_id)
        if life is not None and life.step in (Step.RESOLVE, Step.SEAT):
            life.go_on(Step.VERIFY if seat.node else Step.SEAT, self._now())

    def end_seat(self, seat: SeatFacts) -> None:
        if self._seats.get(seat.workflow_id, ("",))[0] == seat.uid:  # else the next one stands already
            del self._seats[seat.workflow_id]

    def _begin(self, pod: PodFacts, now: float) -> _Life:
        born = created_at(pod, now)
        life = _Life(self._step_of(pod), born)
        life.see_mark(pod)
        if now - born > _PROMPT_S:
            life.spans.append(Span(Step.UNSEEN, now - born))
            life.since = now
        return life

    def _step_of(self, pod: PodFacts) -> Step:
        """Of a gated Pod."""
        if pod.view.foreign_gates or pod.phase in _WAITS:
            return Step.WAIT
        if pod.is_nominated:
            return Step.RELEASE
        if pod.warming:
            return Step.FETCH
        seat = self._seats.get(pod.workflow_id)
        if seat is None:
            return Step.RESOLVE
        return Step.VERIFY if seat[1] else Step.SEAT

    def _note(self, pod: PodFacts, life: _Life, now: float) -> None:
        if not pod.managed:
            return  # somebody else removed the gate
        kind = "cold" if not pod.receipt.node else "miss" if life.missed else "hit"
        self._releases.append(
            Release(
                pod.ref.uid,
                pod.ref.namespace,
                pod.ref.name,
                public(pod.view.dataset),
                pod.node,
                kind,
                now,
                tuple(life.spans),
            )
        )
        starts_at = now - now % _HOUR_S
        if not self._hours or self._hours[-1].starts_at != starts_at:
            self._hours.append(Hour(starts_at))
        hour = self._hours[-1]
        if kind == "miss":
            # As kube_cache_gpu_not_held_seconds_total: from the first check of the node's disk to the release.
            not_held_s = sum(
                span.seconds for span in life.spans if span.step in (Step.VERIFY, Step.FETCH, Step.RELEASE)
            )
            self._hours[-1] = replace(hour, misses=hour.misses + 1, gpu_s=hour.gpu_s + life.gpus * not_held_s)
        elif kind == "hit":
            self._hours[-1] = replace(hour, hits=hour.hits + 1)
        else:
            self._hours[-1] = replace(hour, cold=hour.cold + 1)
