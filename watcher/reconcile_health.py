"""Measures how the reconcile goes, and says so where people look when it goes badly: a metric, the log, an Event.

The Event is on the operators' Lease: a reconcile belongs to no Pod, and any operator may have run it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from temporalio.client import Client

from kube_cache import names
from kube_cache.contracts.common import PodRef
from kube_cache.kube import events
from kube_cache.kube.client import Json, KubeClient
from kube_cache.temporal import reconcile_schedule
from watcher.looks import keep_looking

_log = structlog.get_logger("kube_cache.reconcile")
# Intervals without a success after which it is told: one run may fail because Temporal or the API server was away.
_MAX_INTERVALS = 3
_EVERY_S = 30.0


class ReconcileHealth:
    """Belongs to one event loop."""

    def __init__(
        self,
        client: Client,
        kube: KubeClient,
        is_leading: Callable[[], bool],
        get_lease: Callable[[], Json | None],
        *,
        namespace: str,
        interval_s: float,
    ) -> None:
        """get_lease: an ownerReference of the operators' Lease, in `namespace`. interval_s: between two reconciles."""
        self._client = client
        self._kube = kube
        self._is_leading = is_leading
        self._get_lease = get_lease
        self._namespace = namespace
        self._interval_s = interval_s

    async def run(self) -> None:
        """Look twice a minute, while this operator leads."""
        every_s = min(_EVERY_S, self._interval_s)
        await keep_looking(
            self.check, self._is_leading, every_s, _log, "cannot tell how the reconcile goes; looking again"
        )

    async def check(self) -> None:
        """Look once. Raises RPCError, ApiError."""
        health = await reconcile_schedule.measure(self._client)
        # Without a failure the runs are only late: no operator ran, or the first run is under way.
        if not health.failures or health.success_age_s <= _MAX_INTERVALS * self._interval_s:
            return
        note = (
            f"no reconcile has succeeded for {health.success_age_s:.0f} s, {health.failures} have failed: what signals"
            f" missed is not repaired; see why at workflow {health.last_failed} in Temporal's UI"
        )
        _log.error(
            "the reconcile fails", failures=health.failures, age_s=round(health.success_age_s), run=health.last_failed
        )
        await asyncio.to_thread(self._emit, note)

    def _emit(self, note: str) -> None:
        lease = self._get_lease()
        if lease is None:
            return
        ref = PodRef(self._namespace, names.LEASE, str(lease["uid"]))
        events.emit(
            self._kube, ref, reason="ReconcileFailing", note=note, action="Reconcile", warning=True,
            topic="reconcile", kind=(str(lease["apiVersion"]), "Lease"),
        )  # fmt: skip
