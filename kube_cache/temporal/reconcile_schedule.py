"""The schedule of the reconcile, which all operators share: create it, run it now, measure how its runs went.

An agent that asks for a run names its node, since a run does not visit all nodes of a large cluster.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import structlog
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    WorkflowExecution,
    WorkflowExecutionStatus,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from kube_cache import names
from kube_cache.contracts.reconcile import ReconcileInput, ReconcileRequestInput, ReconcileResult
from kube_cache.telemetry import metrics
from kube_cache.telemetry.bounds import FINDINGS
from kube_cache.temporal import executions, schedules

_log = structlog.get_logger("kube_cache.reconcile")
_RPC_TIMEOUT = timedelta(seconds=10)
# A run that lasts longer has lost something that it waits for, and keeps the next from starting. Less than the ten
# minutes for which a node keeps a young pin: a survey is never older than the pins of Pods that it cannot know.
RUN_TIMEOUT = timedelta(minutes=9)
# Runs that are looked at for the last success. At the default interval they are the last two hours.
_MAX_RUNS = 25


class Health(NamedTuple):
    success_age_s: float
    """Seconds since the last run that succeeded ended; since the oldest known run began, if none has succeeded."""
    failures: int
    """Runs that have failed since."""
    last_failed: str
    """Workflow id of the latest of them; empty if there is none."""


async def ensure(client: Client, *, interval_s: float) -> None:
    """Create or update the schedule, and end a run of an older build, which nobody can go on with. Raises RPCError."""
    schedule = Schedule(
        action=ScheduleActionStartWorkflow(
            names.RECONCILE,
            ReconcileInput(interval_s),
            id=names.RECONCILE_ID,
            task_queue=names.OPERATOR_QUEUE,
            run_timeout=RUN_TIMEOUT,
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(seconds=interval_s))]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
    )
    await schedules.ensure(client, names.RECONCILE_SCHEDULE, schedule)
    await _end_former(client)


async def _end_former(client: Client) -> None:
    """Terminate the open run of an older build. The schedule starts no other before its end."""
    async for run in executions.running(client, names.FORMER_RECONCILE):
        try:
            await client.get_workflow_handle(run.id, run_id=run.run_id).terminate(
                reason="a reconcile of an older version of Kube-Cache; the next one takes its place",
                rpc_timeout=_RPC_TIMEOUT,
            )
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:  # it has ended meanwhile
                raise


async def request(client: Client, node: str, reason: str) -> None:
    """Have a reconcile run now that visits the node, however large the cluster. An error is logged."""
    try:
        await client.start_workflow(
            names.RECONCILE_REQUEST,
            ReconcileRequestInput(node),
            id=names.reconcile_request_id(node),
            task_queue=names.OPERATOR_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            start_signal="ask",
            start_signal_args=[reason],
            rpc_timeout=_RPC_TIMEOUT,
        )
    except RPCError as error:
        _log.warning("cannot ask for a visit; the node has its turn", node=node, error=error.message)
    await trigger(client)


async def trigger(client: Client) -> None:
    """Have a reconcile run now. An error is logged: the schedule's next turn comes anyway."""
    try:
        await client.get_schedule_handle(names.RECONCILE_SCHEDULE).trigger(
            overlap=ScheduleOverlapPolicy.BUFFER_ONE, rpc_timeout=_RPC_TIMEOUT
        )
    except RPCError as error:
        _log.warning("cannot ask for a reconcile", error=error.message)


async def measure(client: Client) -> Health:
    """Export how the last runs went, as Temporal has them: any operator may have run them. Raises RPCError."""
    failures, last_failed, age_s = 0, "", 0.0
    succeeded: WorkflowExecution | None = None
    async for run in client.list_workflows(f"WorkflowType = '{names.RECONCILE}'", limit=_MAX_RUNS):
        age_s = _age_s(run.start_time)  # the latest comes first
        if run.status == WorkflowExecutionStatus.RUNNING or run.close_time is None:
            continue
        if run.status == WorkflowExecutionStatus.COMPLETED:
            age_s = _age_s(run.close_time)
            metrics.set_as_leader(metrics.RECONCILE_DURATION, (run.close_time - run.start_time).total_seconds())
            succeeded = run
            break
        failures += 1
        last_failed = last_failed or run.id
    metrics.set_as_leader(metrics.RECONCILE_FAILURES, failures)
    if age_s:
        metrics.set_as_leader(metrics.RECONCILE_SUCCESS_AGE, age_s)
    if succeeded is not None:
        await _show_findings(client, succeeded)
    return Health(age_s, failures, last_failed)


async def _show_findings(client: Client, run: WorkflowExecution) -> None:
    """Export what a run that succeeded has found. Its result is in its history, which Temporal may have dropped."""
    handle = client.get_workflow_handle(run.id, run_id=run.run_id, result_type=ReconcileResult)
    try:
        found = await handle.result(follow_runs=False, rpc_timeout=_RPC_TIMEOUT)
    except RPCError as error:
        _log.debug("cannot read what a reconcile found", run=run.id, error=error.message)
        return
    metrics.show_counts(metrics.RECONCILE_FINDINGS, FINDINGS, {name: getattr(found, name) for name in FINDINGS})


def _age_s(moment: datetime) -> float:
    return (datetime.now(UTC) - moment).total_seconds()
