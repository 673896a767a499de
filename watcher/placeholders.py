"""Counts the placeholder Pods of the forecast, and deletes those that outlived their plan, while this operator leads.

A run of the forecast reconciles them; this is for those of a forecast that runs no more. A kubelet ends a bound one by
its deadline, but nobody else ends one that no node takes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from kube_cache.kube import placeholders
from kube_cache.kube.client import KubeClient
from kube_cache.telemetry import forecast_metrics
from watcher.looks import keep_looking

_log = structlog.get_logger("kube_cache.forecast")
_EVERY_S: Final = 30.0


class PlaceholderSweep:
    """Belongs to one event loop."""

    def __init__(self, kube: KubeClient, namespace: str, is_leading: Callable[[], bool]) -> None:
        self._kube = kube
        self._namespace = namespace
        self._is_leading = is_leading

    async def run(self) -> None:
        """Look twice a minute: one list of at most the budget's Pods, by label."""
        await keep_looking(
            lambda: asyncio.to_thread(self.look),
            self._is_leading,
            _EVERY_S,
            _log,
            "cannot look at the forecast's placeholder Pods; looking again",
        )

    def look(self) -> None:
        kept = placeholders.delete_expired(self._kube, self._namespace, time.time())
        running = sum(bool(each.node) for each in kept)
        forecast_metrics.PLACEHOLDERS.labels("running").set(running)
        forecast_metrics.PLACEHOLDERS.labels("pending").set(len(kept) - running)
