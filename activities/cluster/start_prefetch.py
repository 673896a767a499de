"""`start_prefetch`: for a schedule, start a `Prefetch`, or tell the one that runs its specification. Operator queue."""

from __future__ import annotations

import time
from dataclasses import replace

from temporalio import activity
from temporalio.client import Client

from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.prefetch import ScheduledPrefetchResult, StartPrefetchInput
from kube_cache.temporal import prefetches


class StartPrefetch:
    def __init__(self, client: Client) -> None:
        self._client = client

    @activity.defn(name=names.START_PREFETCH)
    @as_application_errors
    async def start_prefetch(self, arg: StartPrefetchInput) -> ScheduledPrefetchResult:
        """Start it until the end of its window. Running twice changes nothing. Raises RPCError, which is retried."""
        left_s = arg.until - time.time()
        if left_s < 1:
            return ScheduledPrefetchResult(started=False)
        spec = replace(arg.spec, expires_s=left_s)
        await prefetches.start_prefetch(self._client, spec, arg.policy, resource=arg.resource)
        return ScheduledPrefetchResult(started=True)
