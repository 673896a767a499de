"""`ScheduledPrefetch`: what a schedule starts at each of its times; it hands the specification to the `Prefetch`.

Not the prefetch itself, because a schedule gives each workflow that it starts an id of its own: one prefetch keeps its
id, so that a window that begins before the last one has ended prolongs it. A start that is late, since no operator was
there, holds until the end of its window all the same.
"""

from __future__ import annotations

from temporalio import workflow
from temporalio.common import SearchAttributeKey

with workflow.unsafe.imports_passed_through():
    from kube_cache import names
    from kube_cache.contracts.prefetch import ScheduledPrefetchInput, ScheduledPrefetchResult, StartPrefetchInput
    from workflows import cluster_calls

# Temporal's own, of what a schedule starts.
_NOMINAL_TIME = SearchAttributeKey.for_datetime("TemporalScheduledStartTime")


@workflow.defn(name=names.SCHEDULED_PREFETCH)
class ScheduledPrefetch:
    @workflow.run
    async def run(self, inp: ScheduledPrefetchInput) -> ScheduledPrefetchResult:
        info = workflow.info()
        began = info.typed_search_attributes.get(_NOMINAL_TIME) or info.workflow_start_time
        arg = StartPrefetchInput(inp.spec, began.timestamp() + inp.window_s, inp.policy, inp.resource)
        return await cluster_calls.start_prefetch(arg)
