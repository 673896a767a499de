"""`kube-cache store --node`: the question goes to the node's agent through Temporal, the answer comes back.

A small workflow of the operator carries it (`StoreCommand`). An eviction goes to the snapshot's entity, which refuses while a
Pod waits for it or uses it, and knows afterwards that it is gone. Whoever does not answer is named within some ten seconds.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import timedelta

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError, TemporalError
from temporalio.service import RPCError, RPCStatusCode

from kube_cache import names
from kube_cache.contracts.node import EvictResult, ExitCode, StoreRequest, StoreResponse
from kube_cache.temporal.client import TASK_TIMEOUT, connect_once

_PATIENCE_S = 10.0
_LOOK_S = 0.5
_RPC_TIMEOUT = timedelta(seconds=10)
# What a workflow's history holds before a worker has taken its first task: started, task scheduled, task started.
_UNTOUCHED = 3


class _Silent(Exception):
    """Somebody does not answer; str() says who."""


def run(ask: StoreRequest) -> StoreResponse:
    return asyncio.run(_run(ask))


async def _run(ask: StoreRequest) -> StoreResponse:
    try:
        client = await asyncio.wait_for(connect_once(), _PATIENCE_S)
    except (RuntimeError, TimeoutError) as error:
        return StoreResponse(
            ExitCode.UNREACHABLE, message=f"Temporal does not answer ({error}); look at TEMPORAL_ADDRESS"
        )
    try:
        return await (_evict(client, ask) if ask.verb == "evict" else _carry(client, ask))
    except _Silent as silent:
        return StoreResponse(ExitCode.UNREACHABLE, message=str(silent))
    except RPCError as error:
        return StoreResponse(ExitCode.UNREACHABLE, message=f"Temporal refuses: {error.message}")


async def _carry(client: Client, ask: StoreRequest) -> StoreResponse:
    starting: asyncio.Future[WorkflowHandle[object, StoreResponse]] = asyncio.ensure_future(
        client.start_workflow(
            names.STORE_COMMAND,
            ask,
            id=names.store_command_id(ask.node, ask.verb, str(uuid.uuid4())),
            task_queue=names.OPERATOR_QUEUE,
            result_type=StoreResponse,
            static_summary=f"store {ask.verb} on {ask.node}",
            task_timeout=TASK_TIMEOUT,
            rpc_timeout=_RPC_TIMEOUT,
        )
    )
    try:
        return await _result(await asyncio.shield(starting))
    except WorkflowFailureError as error:
        return StoreResponse(ExitCode.FAILED, message=f"{error.cause}")
    except (asyncio.CancelledError, _Silent):
        # Ctrl-C stops a scrub on the node too, and one whose start is under way is waited for, since it cannot be taken back; and
        # what nobody has begun must not be done when nobody waits any more.
        handle = await starting
        await handle.cancel(rpc_timeout=_RPC_TIMEOUT)
        raise


async def _result(handle: WorkflowHandle[object, StoreResponse]) -> StoreResponse:
    result = asyncio.ensure_future(handle.result())
    try:
        await _begun(handle, result)
        return await result
    finally:
        result.cancel()


async def _begun(handle: WorkflowHandle[object, StoreResponse], result: asyncio.Future[StoreResponse]) -> None:
    deadline = asyncio.get_running_loop().time() + _PATIENCE_S
    while not result.done():
        described = await handle.describe(rpc_timeout=_RPC_TIMEOUT)
        if described.history_length > _UNTOUCHED:
            return
        if asyncio.get_running_loop().time() > deadline:
            raise _Silent("no operator answers; is `kube-cache operator` running, with this Temporal and namespace?")
        await asyncio.wait([result], timeout=_LOOK_S)


async def _evict(client: Client, ask: StoreRequest) -> StoreResponse:
    found = await _carry(client, StoreRequest(ask.node, "find", digest=ask.digest))
    if found.code != ExitCode.DONE:
        return found
    (row,) = json.loads(found.data)
    digest = row["digest"]
    entity = client.get_workflow_handle(names.dataset_on_node_id(ask.node, row["cache_id"], digest))
    try:
        evicted: EvictResult = await entity.execute_update(
            "evict", result_type=EvictResult, rpc_timeout=timedelta(minutes=10)
        )
    except WorkflowUpdateFailedError as error:
        cause = _innermost(error)
        refused = isinstance(cause, ApplicationError) and cause.type == "SnapshotInUse"
        return StoreResponse(ExitCode.REFUSED if refused else ExitCode.FAILED, message=f"{cause}")
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        # Nobody counts it, so the store's own pins decide.
        return await _carry(client, StoreRequest(ask.node, "evict", digest=digest))
    return StoreResponse(ExitCode.DONE, json.dumps([{"digest": digest, "size": evicted.freed_bytes}]))


def _innermost(error: TemporalError) -> BaseException:
    found: BaseException = error
    while isinstance(found.__cause__, TemporalError):
        found = found.__cause__
    return found
