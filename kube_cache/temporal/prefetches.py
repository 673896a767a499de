"""Start, change, list and ask `Prefetch` workflows from outside: what every face of a prefetch does.

One way in: `start_prefetch` starts the workflow, or hands the specification to the one that runs, which Temporal makes
atomic. A resource and a planner call it with the same specification.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple, TypeAlias

from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError

from kube_cache import names
from kube_cache.contracts.common import Policy
from kube_cache.contracts.prefetch import PrefetchInput, PrefetchPhase, PrefetchSpec, PrefetchState, PrefetchStatus
from kube_cache.temporal import executions
from kube_cache.temporal.client import TASK_TIMEOUT
from kube_cache.temporal.search_attributes import initial, phase_of
from kube_cache.units import cut

UNKNOWN: Final = "Unknown"
"""Phase of a prefetch that tells nothing."""
_RPC_TIMEOUT = timedelta(seconds=10)
_READS_AT_ONCE: Final = 16


async def start_prefetch(
    client: Client, spec: PrefetchSpec, policy: Policy | None = None, *, paused: bool = False, resource: str = ""
) -> WorkflowHandle[Any, PrefetchStatus]:
    """Start the prefetch, or apply the specification to the one of this name that runs. Raises RPCError.

    Twice with the same specification is once, with a later end. paused: of one that is started. resource: uid of the
    resource that asks for it.
    """
    return await client.start_workflow(
        names.PREFETCH,
        PrefetchInput(spec, policy or Policy(), PrefetchState(paused=paused)),
        id=names.prefetch_id(spec.namespace, spec.name),
        task_queue=names.OPERATOR_QUEUE,
        result_type=PrefetchStatus,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        start_signal="apply",
        start_signal_args=[spec],
        search_attributes=initial(
            phase=PrefetchPhase.RESOLVING, dataset=",".join(spec.datasets), namespace=spec.namespace
        ),
        memo={names.RESOURCE_MEMO: resource} if resource else None,
        static_summary=cut(f"prefetch of {', '.join(spec.datasets)}", 200),
        task_timeout=TASK_TIMEOUT,
        rpc_timeout=_RPC_TIMEOUT,
    )


async def status_of(client: Client, namespace: str, name: str) -> PrefetchStatus:
    """Ask a prefetch; one that has ended tells how. Raises RPCError, and WorkflowFailureError of one that failed."""
    handle = client.get_workflow_handle(names.prefetch_id(namespace, name), result_type=PrefetchStatus)
    described = await handle.describe(rpc_timeout=_RPC_TIMEOUT)
    if described.status == WorkflowExecutionStatus.RUNNING:
        status: PrefetchStatus = await handle.query("status", result_type=PrefetchStatus, rpc_timeout=_RPC_TIMEOUT)
        return status
    ended: PrefetchStatus = await handle.result(rpc_timeout=_RPC_TIMEOUT)
    return ended


async def end_prefetch(client: Client, namespace: str, name: str) -> None:
    """Have a prefetch let its data go. Raises RPCError, NOT_FOUND of one that has ended."""
    handle = client.get_workflow_handle(names.prefetch_id(namespace, name))
    await handle.signal("cancel", rpc_timeout=_RPC_TIMEOUT)


Ask: TypeAlias = Callable[[Client, str, str], Awaitable[PrefetchStatus]]


class Seen(NamedTuple):
    """What Temporal knows of a prefetch; nothing of all where it knows none."""

    answer: PrefetchStatus | None = None
    """Of one that runs, or that has come to its end."""
    runs: bool = False
    broken: str = ""
    """How it ended, in the words that follow "its workflow", where it was ended by others."""


async def observe(client: Client, namespace: str, name: str) -> Seen:
    """Look at a prefetch, whatever has become of it. Raises RPCError, WorkflowQueryFailedError."""
    described = await executions.describe(client, names.prefetch_id(namespace, name))
    if described is None:
        return Seen()
    if described.status not in (WorkflowExecutionStatus.RUNNING, WorkflowExecutionStatus.COMPLETED):
        return Seen(broken=await executions.ending(client, described))
    return Seen(await status_of(client, namespace, name), runs=described.status == WorkflowExecutionStatus.RUNNING)


class Listed(NamedTuple):
    namespace: str
    name: str
    phase: str
    """Empty for one that has not begun."""


async def running_prefetches(client: Client) -> AsyncIterator[Listed]:
    """Yield each that runs, as the visibility store has it. Raises RPCError."""
    async for execution in executions.running(client, names.PREFETCH):
        try:
            namespace, name = names.parse_prefetch_id(execution.id)
        except ValueError:  # started by hand under another id
            continue
        yield Listed(namespace, name, phase_of(execution))


async def statuses_of(
    client: Client, prefetches: Sequence[tuple[str, str]], ask: Ask = status_of
) -> list[PrefetchStatus]:
    """Ask each, a few at once; of one that tells nothing, a status of the phase `UNKNOWN` that says why.

    prefetches: namespace and name. ask: how each is asked.
    """
    slots = asyncio.Semaphore(_READS_AT_ONCE)

    async def read(namespace: str, name: str) -> PrefetchStatus:
        async with slots:
            try:
                return await ask(client, namespace, name)
            except (RPCError, WorkflowQueryFailedError, WorkflowFailureError) as error:
                return PrefetchStatus(namespace, name, UNKNOWN, f"tells nothing: {error}", [])

    return await asyncio.gather(*(read(*each) for each in prefetches))
