"""Prefetch resources with a schedule: keep Temporal's schedule as the resource has it, and what runs within a window.

Temporal fires, at times that its server computes; an operator only sees to it that the schedule is there, is the right
one, and goes with its resource.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import structlog
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from kube_cache import names
from kube_cache.contracts.common import Policy
from kube_cache.contracts.prefetch import PrefetchSchedule, PrefetchSpec
from kube_cache.errors import InvalidRequest
from kube_cache.kube import prefetches
from kube_cache.kube.client import KubeClient
from kube_cache.kube.prefetches import PrefetchResource
from kube_cache.temporal import prefetch_schedules
from kube_cache.temporal.prefetch_schedules import Found
from kube_cache.temporal.prefetches import Seen

_log = structlog.get_logger("kube_cache.prefetches")


def decide(
    resource: PrefetchResource, spec: PrefetchSpec, seen: Seen, found: Found, window_s: float, now: float
) -> tuple[str, PrefetchSpec]:
    """Say what is missing within the window, as `watcher.prefetches.decide` does, and the specification for it.

    now: seconds since the epoch. What lives keeps its end; what was ended by others lives again to the window's end.
    """
    answer = seen.answer
    if seen.runs and answer is not None and answer.spec is not None:
        if replace(spec, expires_s=answer.spec.expires_s) != answer.spec:
            return "apply", replace(spec, expires_s=max(1.0, answer.expires_at - now))
        if answer.paused != resource.is_paused:
            return "pause" if resource.is_paused else "resume", spec
    left_s = found.last_at + window_s - now
    if seen.broken and left_s > 1 and not resource.is_paused:
        return "start", replace(spec, expires_s=left_s)
    return "", spec


class Windows:
    def __init__(self, client: Client, kube: KubeClient, policy: Policy) -> None:
        self._client = client
        self._kube = kube
        self._policy = policy

    async def keep(
        self, resource: PrefetchResource, spec: PrefetchSpec, schedule: PrefetchSchedule | None
    ) -> Found | None:
        """Have the schedule that the resource asks for; None if it asks for none. Raises RPCError, InvalidRequest."""
        where = (resource.namespace, resource.prefetch)
        if schedule is None:
            if "nextStart" in resource.status:  # it asked for one before
                await prefetch_schedules.remove(self._client, *where)
            return None
        paused = resource.is_paused
        wanted = prefetch_schedules.digest(spec, schedule, self._policy, paused=paused)
        found = await prefetch_schedules.find(self._client, *where)
        if found is None or found.digest != wanted:
            _log.info("a resource sets its schedule", prefetch="/".join(where), cron=schedule.cron)
            try:
                await prefetch_schedules.ensure(
                    self._client, spec, schedule, self._policy, paused=paused, resource=resource.uid
                )
            except RPCError as error:
                if error.status != RPCStatusCode.INVALID_ARGUMENT:
                    raise
                why = f"Temporal refuses {schedule.cron!r} in {schedule.time_zone!r}: {error.message}"
                raise InvalidRequest(f"spec.schedule: {why}; look at cron and timeZone") from error
            found = await prefetch_schedules.find(self._client, *where)
        return found or Found("", 0.0, 0.0, paused)

    async def drop(self, resource: PrefetchResource) -> None:
        """Remove the schedule of a resource that is gone, if it has one. Raises RPCError."""
        await prefetch_schedules.remove(self._client, resource.namespace, resource.prefetch)

    async def sweep(self, get_known: Callable[[str], PrefetchResource | None]) -> None:
        """Remove schedules that no resource asks for any more. Raises RPCError, ApiError.

        get_known: a resource by its uid, as the watch has it.
        """
        async for namespace, prefetch, uid in prefetch_schedules.scheduled(self._client):
            known = get_known(uid)
            if not uid or (known is not None and known.spec.get("schedule")):
                continue
            name = names.parse_resource_prefetch(prefetch)
            there = await asyncio.to_thread(prefetches.find, self._kube, namespace, name)
            if there is None or there.uid != uid or not there.spec.get("schedule"):
                _log.info("no resource asks for a schedule any more", prefetch=f"{namespace}/{prefetch}")
                await prefetch_schedules.remove(self._client, namespace, prefetch)


def rest_s(found: Found, rest: float) -> float:
    """Return the seconds to the next look: soon after a window begins."""
    return min(rest, max(1.0, found.next_at - time.time() + 1.0)) if found.next_at else rest
