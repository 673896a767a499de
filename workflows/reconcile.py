"""`Reconcile`: compares Temporal, Kubernetes and the disks on a schedule, and repairs what they disagree on.

A signal may be lost, an operator may be down while Pods are deleted, a node may come back with another disk. None of
that is handled where it happens; it is found here, level-triggered. A run surveys the cluster once, tells workflows
what they may have missed, and has the nodes reconciled in shards (workflows.reconcile_shard). The survey stays in the
operator's memory, so neither a message nor a history grows with the cluster (docs/design/reconcile.md). The reconcile
never removes data: that is the store's decision, when it needs space.

What fails does not keep the run from the rest. A run that could not do all of its work fails in the end, which the
metrics count and Temporal's UI shows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from temporalio import workflow
from temporalio.exceptions import ApplicationError, ChildWorkflowError, FailureError

with workflow.unsafe.imports_passed_through():
    from kube_cache import names
    from kube_cache.contracts.reconcile import ReconcileInput, ReconcileResult, ShardInput, SurveyRef
    from workflows import cluster_calls
    from workflows.failures import error_info

# Shards under way at once, of some 64 nodes each: all that a run visits of 5,000 nodes.
_SHARDS_AT_ONCE = 32
_MAX_SILENT_NAMED = 10


@workflow.defn(name=names.RECONCILE)
class Reconcile:
    def __init__(self) -> None:
        self._errors: list[str] = []
        self._done = 0

    @workflow.run
    async def run(self, arg: ReconcileInput) -> ReconcileResult:
        info = workflow.info()
        survey = SurveyRef(info.run_id, int(workflow.now().timestamp() // arg.interval_s))
        found = await cluster_calls.survey_cluster(survey)
        telling = asyncio.create_task(self._tell(survey))
        slots = asyncio.Semaphore(_SHARDS_AT_ONCE)

        async def shard(number: int) -> ReconcileResult:
            async with slots:
                return await self._shard(ShardInput(survey, number, found.shards))

        parts = await asyncio.gather(*(shard(number) for number in range(found.shards)))
        result = add([ReconcileResult(skipped=found.skipped), await telling, *parts])
        self._show(result, found.shards)
        if self._errors:
            raise ApplicationError(
                f"{len(self._errors)} of {found.shards + 1} parts failed, the others are done: {self._errors[0]}",
                result,
                type="ReconcileIncomplete",
                non_retryable=True,
            )
        return result

    async def _tell(self, survey: SurveyRef) -> ReconcileResult:
        try:
            told = await cluster_calls.tell_workflows(survey)
        except FailureError as error:
            self._errors.append(f"telling the workflows: {_words(error)}")
            return ReconcileResult()
        return ReconcileResult(signalled=told.signalled, skipped=told.skipped)

    async def _shard(self, arg: ShardInput) -> ReconcileResult:
        try:
            done: ReconcileResult = await workflow.execute_child_workflow(
                names.RECONCILE_SHARD,
                arg,
                id=names.reconcile_shard_id(arg.survey.run_id, arg.shard),
                result_type=ReconcileResult,
            )
        except FailureError as error:
            self._errors.append(f"shard {arg.shard}: {_words(error)}")
            return ReconcileResult()
        self._done += 1
        return done

    def _show(self, result: ReconcileResult, shards: int) -> None:
        lines = [
            f"**{self._done}** of {shards} shards done, {result.nodes_seen} nodes looked at",
            f"- {result.nodes_silent} nodes did not answer{': ' if result.silent else ''}{', '.join(result.silent)}",
            f"- {result.skipped} Pods, seats, nodes and workflows left out (the operator's log names them)",
            f"- {result.unpinned} pins removed, {result.pinned} made again, {result.snapshots_lost} snapshots lost",
            *(f"- **failed**: {error}" for error in self._errors[:_MAX_SILENT_NAMED]),
        ]
        workflow.set_current_details("\n".join(lines))


def add(parts: Iterable[ReconcileResult]) -> ReconcileResult:
    parts = list(parts)
    return ReconcileResult(
        nodes_seen=sum(part.nodes_seen for part in parts),
        nodes_silent=sum(part.nodes_silent for part in parts),
        snapshots_lost=sum(part.snapshots_lost for part in parts),
        unpinned=sum(part.unpinned for part in parts),
        pinned=sum(part.pinned for part in parts),
        nodes_faulty=sum(part.nodes_faulty for part in parts),
        wrong_links=sum(part.wrong_links for part in parts),
        signalled=sum(part.signalled for part in parts),
        skipped=sum(part.skipped for part in parts),
        silent=[node for part in parts for node in part.silent][:_MAX_SILENT_NAMED],
    )


def _words(error: BaseException) -> str:
    while isinstance(error, ChildWorkflowError) and isinstance(error.cause, FailureError):
        error = error.cause
    if not isinstance(error, FailureError):
        return repr(error)
    info = error_info(error)
    return f"{info.type}: {info.message}"
