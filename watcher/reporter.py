"""Words of the watcher on a Pod that has no workflow to speak for it: its condition, and an Event."""

from __future__ import annotations

import asyncio

import structlog

from kube_cache.contracts.common import Phase, PodRef
from kube_cache.errors import KubeCacheError, PodGone
from kube_cache.kube import conditions, events
from kube_cache.kube.client import KubeClient
from kube_cache.telemetry import subject

_log = structlog.get_logger("kube_cache.watcher")


class PodReporter:
    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube

    async def tell(self, ref: PodRef, phase: Phase, message: str, *, event: str) -> None:
        """Write the condition of a Pod that is still gated, and a Warning Event.

        Raises nothing: the caller's work must go on when the words cannot be written. They are logged in any case.
        """
        _log.warning("told on the Pod", pod=subject.of_pod(ref), phase=str(phase), message=message)
        try:
            await asyncio.to_thread(self._write, ref, phase, message, event)
        except PodGone:
            pass  # the watch is about to show that
        except KubeCacheError as error:
            _log.warning("cannot write on the Pod", pod=subject.of_pod(ref), error=error.message)

    def _write(self, ref: PodRef, phase: Phase, message: str, event: str) -> None:
        conditions.set_while_gated(self._kube, ref, reason=str(phase), message=message)
        events.emit(self._kube, ref, reason=event, note=message, action=str(phase), warning=True)
