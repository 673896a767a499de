"""Nominations that a release has left on a gated Pod: each keeps a node's room from other Pods, and nobody uses it.

A release nominates its Pod for milliseconds, or for as long as it is tried again, which the Pod says. A release that
was given up, or whose operator was killed, leaves the nomination there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

import structlog

from kube_cache.contracts.common import Phase
from kube_cache.kube import handover
from kube_cache.kube.client import KubeClient
from kube_cache.kube.pods import PodFacts
from kube_cache.telemetry import metrics

_log = structlog.get_logger("kube_cache.sweep")
# Longer than a release takes to say on the Pod that it is tried again: three attempts of 15 seconds.
_GRACE_S = 60.0


class Nominations:
    def __init__(self, kube: KubeClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube = kube
        self._now = clock
        self._since: dict[str, float] = {}
        """Uid -> when the Pod was first found nominated without a release, by the clock."""

    def find_left(self, gated: Iterable[PodFacts]) -> list[PodFacts]:
        """Return the gated Pods whose nomination no release has used for a minute."""
        now = self._now()
        idle = {pod.ref.uid: pod for pod in gated if pod.is_nominated and pod.phase != Phase.RELEASING}
        self._since = {uid: self._since.get(uid, now) for uid in idle}
        return [pod for uid, pod in idle.items() if now - self._since[uid] >= _GRACE_S]

    async def withdraw(self, pod: PodFacts) -> None:
        """Withdraw the nomination if it is still there and the Pod still gated. What fails, the next sweep finds."""
        if await asyncio.to_thread(handover.withdraw, self._kube, pod.ref):
            metrics.NOMINATIONS_WITHDRAWN.inc()
            _log.warning("withdrew a nomination that no release used")
