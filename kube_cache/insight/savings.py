"""GPU time that Pods did not hold while their data was fetched, added up from the results of their workflows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from temporalio.client import Client, WorkflowExecution, WorkflowFailureError
from temporalio.service import RPCError

from kube_cache import names
from kube_cache.contracts.warm_pod import WarmPodResult
from kube_cache.temporal.executions import is_missing

COUNTERFACTUAL: Final = (
    "Without Kube-Cache each Pod would have been bound first and would have held its GPUs while its bytes were fetched,"
    " at the same speed. Only that time counts: no queue, no wait for a node, nothing for a hit. Seats reserved some of it"
    " (kube_cache_seat_gpu_seconds_total)."
)
_CONCURRENT_READS: Final = 16


@dataclass
class Savings:
    releases: int = 0
    hits: int = 0
    bytes: int = 0
    """Size of the data of the released Pods."""
    fetched_bytes: int = 0
    """From the origin and from other nodes. A download that N Pods waited for counts N times."""
    neighbour_bytes: int = 0
    """Of `fetched_bytes`: those that came from other nodes."""
    gpu_seconds: float = 0
    read: int = 0
    """Workflows whose results were added up."""
    total: int = 0
    """Workflows that ended in the time; those that were not read are the older ones."""


async def add_up(client: Client, *, since: float, limit: int) -> Savings:
    """Add up the Pods whose workflows ended since then. limit: maximum number of results read. Raises RPCError."""
    begin = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    query = f"WorkflowType = '{names.WARM_POD}' AND ExecutionStatus = 'Completed' AND CloseTime >= '{begin}'"
    total = (await client.count_workflows(query)).count
    slots = asyncio.Semaphore(_CONCURRENT_READS)

    async def read(execution: WorkflowExecution) -> WarmPodResult | None:
        async with slots:
            return await _result(client, execution)

    ended = [execution async for execution in client.list_workflows(query, limit=limit)]
    results = await asyncio.gather(*(read(execution) for execution in ended))
    savings = of_results(result for result in results if result is not None)
    savings.total = max(total, savings.read)
    return savings


def of_results(results: Iterable[WarmPodResult]) -> Savings:
    savings = Savings()
    for result in results:
        savings.read += 1
        if not result.outcome.startswith("released"):
            continue
        savings.releases += 1
        savings.hits += result.hit
        savings.bytes += result.bytes
        savings.fetched_bytes += result.fetched_bytes
        savings.neighbour_bytes += result.neighbour_bytes
        savings.gpu_seconds += result.gpu_seconds_saved
    return savings


async def _result(client: Client, execution: WorkflowExecution) -> WarmPodResult | None:
    """None for a workflow whose history is gone, or that continued as another run."""
    handle = client.get_workflow_handle(execution.id, run_id=execution.run_id, result_type=WarmPodResult)
    try:
        result: WarmPodResult = await handle.result(follow_runs=False)
    except WorkflowFailureError:
        return None
    except RPCError as error:
        if is_missing(error):
            return None
        raise
    return result
