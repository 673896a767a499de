"""`evict_pod`: delete a released Pod that no node takes, so that its controller makes a fresh one behind the gate.

A released Pod is tied to its node and can be moved only by deleting it. Done only where the Pod's annotation asks for
it. Operator queue, local activity.
"""

from __future__ import annotations

import asyncio

from temporalio import activity

from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.warm_pod import EvictPodInput, EvictPodResult
from kube_cache.errors import PodGone
from kube_cache.kube import events, eviction
from kube_cache.kube.client import KubeClient


class EvictPod:
    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube

    @activity.defn(name=names.EVICT_POD)
    @as_application_errors
    async def evict_pod(self, arg: EvictPodInput) -> EvictPodResult:
        """Evict the Pod if it still is unbound, asks for it and has a controller; tell that in an Event.

        Running twice finds no Pod the second time. Raises ApiError; 429 is a PodDisruptionBudget's answer.
        """
        return await asyncio.to_thread(self._evict, arg)

    def _evict(self, arg: EvictPodInput) -> EvictPodResult:
        try:
            outcome = eviction.evict_unbound(self._kube, arg.pod)
        except PodGone:
            return EvictPodResult("gone")
        if outcome == eviction.EVICTED:
            events.emit(
                self._kube,
                arg.pod,
                reason="EvictedStuck",
                note=arg.why,
                action="Binding",
                warning=True,
                topic="evicted",
            )
        return EvictPodResult(outcome)
