"""Workflow executions from outside: list the running ones, signal one if it runs, ask whether one has ended.

The visibility store lags behind the workflows by a moment, so a list is a hint. A signal and `has_ended` ask the
workflow itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

from temporalio.client import Client, WorkflowExecution
from temporalio.service import RPCError, RPCStatusCode

from kube_cache.temporal.search_attributes import DATASET

_RPC_TIMEOUT = timedelta(seconds=10)


def running(client: Client, workflow_type: str, *, dataset: str = "") -> AsyncIterator[WorkflowExecution]:
    """List the running workflows of a type. dataset: only those with this URI; empty = all. Raises RPCError."""
    query = f"WorkflowType = '{workflow_type}' AND ExecutionStatus = 'Running'"
    if dataset:
        quoted = dataset.replace("'", "''")
        query += f" AND {DATASET.name} = '{quoted}'"
    return client.list_workflows(query)


async def signal_if_running(client: Client, workflow_id: str, name: str, arg: object | None = None) -> None:
    """Signal a workflow. No error if it does not exist or has ended: then it needs no signal. Raises RPCError."""
    try:
        await client.get_workflow_handle(workflow_id).signal(
            name, args=[] if arg is None else [arg], rpc_timeout=_RPC_TIMEOUT
        )
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise


async def has_ended(client: Client, workflow_id: str) -> bool:
    """Whether the workflow has ended or never existed. Raises RPCError."""
    try:
        description = await client.get_workflow_handle(workflow_id).describe(rpc_timeout=_RPC_TIMEOUT)
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            return True
        raise
    return description.close_time is not None
