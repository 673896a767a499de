"""Ends the workflows that no operator can replay, so that others take their place.

A history that the code does not lead to again fails each workflow task, for ever, while the workflow counts as running:
no sweep and no reconcile would find it. Two things write such a history: a release of ours that changed a workflow
wrongly, and Temporal's SDK where a query meets a local activity (docs/design/local-activities.md). What ends here is
found as all that ends: a Pod's workflow by the sweep, an entity by the Pods that join it again, a group by its members.

Workflows whose tasks fail with other errors are left alone: once the operator is mended, they go on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import structlog
from temporalio.client import Client, WorkflowExecution
from temporalio.service import RPCError, RPCStatusCode

from kube_cache.telemetry import metrics
from kube_cache.temporal import executions

_log = structlog.get_logger("kube_cache.sweep")
_REASON = "no operator can replay its history (nondeterminism error); what needs it starts another"


class Unreplayable:
    """Belongs to one event loop."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._is_told = False

    async def end(self) -> None:
        """Terminate each such workflow of ours; twice is harmless. Raises RPCError if Temporal cannot list."""
        async for execution in self._listed():
            handle = self._client.get_workflow_handle(execution.id, run_id=execution.run_id)
            try:
                await handle.terminate(reason=_REASON)
            except RPCError as error:
                if not executions.is_missing(error):
                    raise
                continue  # it has ended, and the visibility store lags
            metrics.WORKFLOWS_UNREPLAYABLE.inc()
            _log.error(
                "ended a workflow that cannot be replayed: please report it with its history",
                workflow=execution.id, run=execution.run_id,
            )  # fmt: skip

    async def _listed(self) -> AsyncIterator[WorkflowExecution]:
        try:
            async for execution in executions.unreplayable(self._client):
                yield execution
        except RPCError as error:
            if error.status != RPCStatusCode.INVALID_ARGUMENT:
                raise
            if not self._is_told:  # each sweep asks again: the server may be upgraded
                self._is_told = True
                _log.warning("Temporal does not tell of workflows whose tasks fail (1.30 does)", error=error.message)
