"""Workflow executions from outside: list the running ones, signal one if it runs, ask whether one has ended.

The visibility store lags behind the workflows by a moment, so a list is a hint. A signal and `has_ended` ask the
workflow itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

from temporalio.client import (
    Client,
    WorkflowExecution,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowHistoryEventFilterType,
)
from temporalio.service import RPCError, RPCStatusCode

from kube_cache import names
from kube_cache.temporal.search_attributes import DATASET, NODE, REPORTED_PROBLEMS, dataset_value

_RPC_TIMEOUT = timedelta(seconds=10)
# What the server says to a request that is wrong, or that it must not serve: the same request will not do better soon.
_REFUSALS = frozenset(
    {
        RPCStatusCode.INVALID_ARGUMENT,
        RPCStatusCode.NOT_FOUND,  # of a start: the namespace
        RPCStatusCode.FAILED_PRECONDITION,
        RPCStatusCode.OUT_OF_RANGE,
        RPCStatusCode.PERMISSION_DENIED,
        RPCStatusCode.UNAUTHENTICATED,
        RPCStatusCode.UNIMPLEMENTED,
    }
)
_NO_NAMESPACE = ".NamespaceNotFoundFailure"
_WORDS = {
    WorkflowExecutionStatus.COMPLETED: "had completed",
    WorkflowExecutionStatus.FAILED: "had failed",
    WorkflowExecutionStatus.CANCELED: "was cancelled",
    WorkflowExecutionStatus.TERMINATED: "was terminated",
    WorkflowExecutionStatus.TIMED_OUT: "had timed out",
}


def is_refusal(error: RPCError) -> bool:
    """Whether the server refused the request itself, so that a quick retry cannot help."""
    return error.status in _REFUSALS


def is_missing(error: RPCError) -> bool:
    """Whether the server knows no such workflow, or only one that has ended.

    A server that is very busy says for a moment that it does not know the namespace: that tells of no workflow.
    """
    if error.status != RPCStatusCode.NOT_FOUND:
        return False
    return not any(detail.type_url.endswith(_NO_NAMESPACE) for detail in error.grpc_status.details)


def running(
    client: Client, workflow_type: str, *, dataset: str = "", node: str = ""
) -> AsyncIterator[WorkflowExecution]:
    """List the running workflows of a type. dataset, node: only those of this URI, or node; empty = all.

    Raises RPCError.
    """
    query = f"WorkflowType = '{workflow_type}' AND ExecutionStatus = 'Running'"
    if dataset:
        query += f" AND {DATASET.name} = '{quote(dataset_value(dataset))}'"
    if node:
        query += f" AND {NODE.name} = '{quote(node)}'"
    return client.list_workflows(query)


def quote(text: str) -> str:
    """Escape a text for a string of Temporal's list filter."""
    return text.replace("'", "''")


def unreplayable(client: Client) -> AsyncIterator[WorkflowExecution]:
    """List the running workflows of ours whose tasks fail because their code does not lead to their history.

    Temporal marks them, from version 1.30 on, after five tasks in a row (`TemporalReportedProblems`), and takes the
    mark away when a task succeeds. Raises RPCError: INVALID_ARGUMENT by an older server.
    """
    types = ", ".join(f"'{name}'" for name in (names.WARM_POD, names.DATASET_ON_NODE, names.POD_GROUP))
    return client.list_workflows(
        f"ExecutionStatus = 'Running' AND WorkflowType IN ({types}) AND"
        f" {REPORTED_PROBLEMS.name} = 'cause=WorkflowTaskFailedCauseNonDeterministicError'"
    )


async def signal_if_running(client: Client, workflow_id: str, name: str, arg: object | None = None) -> None:
    """Signal a workflow. No error if it does not exist or has ended: then it needs no signal. Raises RPCError."""
    try:
        await client.get_workflow_handle(workflow_id).signal(
            name, args=[] if arg is None else [arg], rpc_timeout=_RPC_TIMEOUT
        )
    except RPCError as error:
        if not is_missing(error):
            raise


async def describe(
    client: Client, workflow_id: str, *, rpc_timeout: timedelta = _RPC_TIMEOUT
) -> WorkflowExecutionDescription | None:
    """Describe the last run of a workflow; None if Temporal knows none. Raises RPCError."""
    try:
        return await client.get_workflow_handle(workflow_id).describe(rpc_timeout=rpc_timeout)
    except RPCError as error:
        if is_missing(error):
            return None
        raise


async def has_ended(client: Client, workflow_id: str) -> bool:
    """Whether the workflow has ended or never existed. Raises RPCError."""
    description = await describe(client, workflow_id)
    return description is None or description.close_time is not None


async def generation(execution: WorkflowExecution) -> int:
    """Return the generation that a `WarmPod` was started with, by its memo; 1 for one without."""
    value = await execution.memo_value(names.GENERATION_MEMO, 1)
    return value if isinstance(value, int) else 1


async def ending(client: Client, ended: WorkflowExecution) -> str:
    """Tell how a run ended, in the words that follow "its workflow": by whom, and why. Raises RPCError."""
    words = _WORDS.get(ended.status, "had ended") if ended.status else "had ended"
    handle = client.get_workflow_handle(ended.id, run_id=ended.run_id)
    event_filter = WorkflowHistoryEventFilterType.CLOSE_EVENT
    async for event in handle.fetch_history_events(event_filter_type=event_filter, rpc_timeout=_RPC_TIMEOUT):
        if event.HasField("workflow_execution_terminated_event_attributes"):
            terminated = event.workflow_execution_terminated_event_attributes
            by, why = terminated.identity or "somebody", terminated.reason
            return f"{words} by {by}" + (f": {why}" if why else "")
        if event.HasField("workflow_execution_failed_event_attributes"):
            return f"{words}: {event.workflow_execution_failed_event_attributes.failure.message}"
    return words
