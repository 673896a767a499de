"""`kube-cache store --node`: carry the request to the node's agent through Temporal, and the response back.

A small workflow of the operator carries it (`StoreCommand`). An eviction goes to the snapshot's entity, which refuses
while a Pod waits for the snapshot or uses it, and which knows afterwards that the snapshot is gone. If Temporal, the
operator or the agent does not answer, the response names that part within some ten seconds.
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
from kube_cache.errors import InvalidRequest
from kube_cache.temporal.client import TASK_TIMEOUT, connect_once

# Seconds after which Temporal, or an operator that has not taken the workflow, counts as unreachable.
_ANSWER_TIMEOUT_S = 10.0
_POLL_S = 0.5
_RPC_TIMEOUT = timedelta(seconds=10)
# Events of a workflow that no worker has begun: started, task scheduled, task started.
_EVENTS_BEFORE_BEGIN = 3


class _NoAnswer(Exception):
    """A part does not answer; str() names it."""


def run(request: StoreRequest) -> StoreResponse:
    """Carry out the request on its node; a failure becomes a response with the code and the reason."""
    return asyncio.run(_run(request))


async def _run(request: StoreRequest) -> StoreResponse:
    try:
        client = await asyncio.wait_for(connect_once(), _ANSWER_TIMEOUT_S)
    except InvalidRequest as error:
        return StoreResponse(ExitCode.USAGE, message=error.message)
    except (RuntimeError, TimeoutError) as error:
        return StoreResponse(
            ExitCode.UNREACHABLE, message=f"Temporal does not answer ({error}); look at TEMPORAL_ADDRESS"
        )
    return await ask(client, request)


async def ask(client: Client, request: StoreRequest) -> StoreResponse:
    """Carry out the request on its node. A failure becomes a response."""
    try:
        return await (_evict(client, request) if request.verb == "evict" else _run_workflow(client, request))
    except _NoAnswer as error:
        return StoreResponse(ExitCode.UNREACHABLE, message=str(error))
    except RPCError as error:
        return StoreResponse(ExitCode.UNREACHABLE, message=f"Temporal refuses: {error.message}")


async def _run_workflow(client: Client, request: StoreRequest) -> StoreResponse:
    """Run a `StoreCommand`. Raises _NoAnswer, RPCError."""
    starting: asyncio.Future[WorkflowHandle[object, StoreResponse]] = asyncio.ensure_future(
        client.start_workflow(
            names.STORE_COMMAND,
            request,
            id=names.store_command_id(request.node, request.verb, str(uuid.uuid4())),
            task_queue=names.OPERATOR_QUEUE,
            result_type=StoreResponse,
            static_summary=f"store {request.verb} on {request.node}",
            task_timeout=TASK_TIMEOUT,
            rpc_timeout=_RPC_TIMEOUT,
        )
    )
    try:
        return await _result(await asyncio.shield(starting))
    except WorkflowFailureError as error:
        return StoreResponse(ExitCode.FAILED, message=f"{error.cause}")
    except (asyncio.CancelledError, _NoAnswer):
        # Ctrl-C stops a scrub on the node, too. A start that is under way cannot be taken back, so it is awaited and
        # the workflow cancelled. A workflow that no operator has begun is cancelled, because nobody waits for it any
        # more.
        handle = await starting
        await handle.cancel(rpc_timeout=_RPC_TIMEOUT)
        raise


async def _result(handle: WorkflowHandle[object, StoreResponse]) -> StoreResponse:
    result = asyncio.ensure_future(handle.result())
    try:
        await _wait_begun(handle, result)
        return await result
    finally:
        result.cancel()


async def _wait_begun(handle: WorkflowHandle[object, StoreResponse], result: asyncio.Future[StoreResponse]) -> None:
    """Return once an operator has begun the workflow, or its result is there. Raises _NoAnswer, RPCError."""
    deadline = asyncio.get_running_loop().time() + _ANSWER_TIMEOUT_S
    while not result.done():
        description = await handle.describe(rpc_timeout=_RPC_TIMEOUT)
        if description.history_length > _EVENTS_BEFORE_BEGIN:
            return
        if asyncio.get_running_loop().time() > deadline:
            raise _NoAnswer("no operator answers; is `kube-cache operator` running, with this Temporal and namespace?")
        await asyncio.wait([result], timeout=_POLL_S)


async def _evict(client: Client, request: StoreRequest) -> StoreResponse:
    """Have the snapshot's entity evict it; without an entity, the agent. Raises _NoAnswer, RPCError."""
    response = await _run_workflow(client, StoreRequest(request.node, "find", digest=request.digest))
    if response.code != ExitCode.DONE:
        return response
    (row,) = json.loads(response.data)
    digest = row["digest"]
    entity = client.get_workflow_handle(names.dataset_on_node_id(request.node, row["cache_id"], digest))
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
        # Without an entity no Pod joined the snapshot, so the pins on the disk decide.
        return await _run_workflow(client, StoreRequest(request.node, "evict", digest=digest))
    return StoreResponse(ExitCode.DONE, json.dumps([{"digest": digest, "size": evicted.freed_bytes}]))


def _innermost(error: TemporalError) -> BaseException:
    cause: BaseException = error
    while isinstance(cause.__cause__, TemporalError):
        cause = cause.__cause__
    return cause
