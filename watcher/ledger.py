"""Counts what the watches show of Pods and seats: warm-up times, seats that were lost, GPU time that seats reserved.

Each transition is counted by the operator that leads when its watch shows it, so several operators count nothing twice,
and an operator that restarts does not count again what it finds done. What happens while nobody leads, seconds, is
not counted. Times are those at which this process saw a thing, which is milliseconds late and finer than Kubernetes'
seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from kube_cache.kube.pods import PodFacts, SeatFacts
from kube_cache.telemetry import metrics
from kube_cache.telemetry.stages import Stage

# Reasons of the condition DisruptionTarget.
_LOSSES: Final = {
    "PreemptionByScheduler": "preempted",
    "EvictionByEvictionAPI": "evicted",
    "DeletionByTaintManager": "tainted",
    "TerminationByKubelet": "terminated",
    "DeletionByPodGC": "node_gone",
}


@dataclass(slots=True)
class _Life:
    created_at: float
    released_at: float = 0.0
    """0 while the Pod is gated."""


class Ledger:
    """Belongs to one event loop."""

    def __init__(self, is_leading: Callable[[], bool], clock: Callable[[], float] = time.time) -> None:
        self._is_leading = is_leading
        self._now = clock
        self._lives: dict[str, _Life] = {}
        """Pods that were seen gated and are not bound yet, by uid."""
        self._bound_seats: dict[str, float] = {}
        """Uid of a seat -> when it was seen bound."""

    def see_pod(self, pod: PodFacts) -> None:
        """Note the state of a Pod; count its release and its binding."""
        uid, now = pod.ref.uid, self._now()
        life = self._lives.get(uid)
        if pod.view.gated:
            if life is None:
                self._lives[uid] = _Life(created_at(pod, now))
            return
        if life is None:
            return  # bound, or released, before this process looked
        if pod.managed and not life.released_at:
            life.released_at = now
        if not (pod.node or pod.ended):
            return
        del self._lives[uid]
        if pod.managed and pod.node and self._is_leading():
            metrics.STAGE_SECONDS.labels(Stage.BIND).observe(max(0.0, now - life.released_at))
            metrics.WARMUP_SECONDS.observe(max(0.0, now - life.created_at))

    def forget_pod(self, pod: PodFacts) -> None:
        self._lives.pop(pod.ref.uid, None)

    def see_seat(self, seat: SeatFacts) -> None:
        """Note that a seat stands."""
        if seat.node:
            self._bound_seats.setdefault(seat.uid, self._now())

    def end_seat(self, seat: SeatFacts) -> None:
        """Count a seat that is gone, or about to be. To be called once for each seat that was seen."""
        bound_at = self._bound_seats.pop(seat.uid, None)
        if not self._is_leading():
            return
        if bound_at is not None:
            metrics.SEAT_GPU_SECONDS.inc(seat.gpus * max(0.0, self._now() - bound_at))
        if seat.disrupted:
            lost = "deadline" if seat.deadline_exceeded else _LOSSES.get(seat.disruption, "")
            metrics.SEATS_LOST.labels(lost).inc()


def created_at(pod: PodFacts, now: float) -> float:
    """Estimate when the Pod was created: Kubernetes keeps the second, and this process saw the Pod after that."""
    if not pod.created:
        return now
    second = datetime.fromisoformat(pod.created).timestamp()
    return min(max(now, second), second + 1)
