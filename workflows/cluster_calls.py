"""How the workflows call the operator's own activities: queue, timeouts and retries of each, in one table.

The short ones are *local* activities: executed by the worker that holds the workflow task, recorded as one marker, with
no round trip through a task queue. That keeps a cache hit short (docs/design/local-activities.md). Those that may take
minutes are normal ones. What a node's agent does is called in workflows.node_calls.

Activities are called by name, because workflows must not import them: they bring the disk and Kubernetes along.
"""

from __future__ import annotations

from datetime import timedelta
from types import NoneType
from typing import TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import FailureError
from temporalio.workflow import ActivityCancellationType

with workflow.unsafe.imports_passed_through():
    from kube_cache import names
    from kube_cache.contracts.forecast import CarryOutInput, MadeForecast, MakeForecastInput, PlacePlaceholdersInput
    from kube_cache.contracts.group import FindGroupInput, FindGroupResult, JoinGroupInput
    from kube_cache.contracts.node import JoinInput
    from kube_cache.contracts.prefetch import (
        PlanPrefetchInput,
        PrefetchPlan,
        ScheduledPrefetchResult,
        StartPrefetchInput,
    )
    from kube_cache.contracts.reconcile import (
        SettleInput,
        SettleResult,
        ShardInput,
        ShardPlan,
        SurveyRef,
        SurveyResult,
        TellResult,
    )
    from kube_cache.contracts.warm_pod import (
        CreateSeatInput,
        CreateSeatResult,
        DeleteSeatInput,
        EvictPodInput,
        EvictPodResult,
        MoveReceiptInput,
        PatchGateInput,
        PatchGateResult,
        PodState,
        ReadPodInput,
        ReportInput,
        ResolveInput,
        ResolveResult,
    )
    from kube_cache.units import cut
    from workflows.failures import is_final
    from workflows.heed_cancel import heed_cancel

R = TypeVar("R")

SHORT_TIMEOUT = timedelta(seconds=15)
"""Of an attempt of a local activity. Longer than a request of the Kubernetes API may take."""
# Well under the workflow task's timeout, so that the task is not held open for a list.
_QUICK_RESOLVE = timedelta(seconds=2)
# Retries that would wait longer than this become timers, so that a workflow task is not held open for them.
_LOCAL_RETRY_THRESHOLD = timedelta(seconds=5)
_QUICK = RetryPolicy(initial_interval=timedelta(seconds=0.5), maximum_attempts=3)
_TWICE = RetryPolicy(initial_interval=timedelta(seconds=0.5), maximum_attempts=2)
_ONCE = RetryPolicy(maximum_attempts=1)
_UNTIL_DONE = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=60))
_LONG = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30))


# Local activities.


async def _local(
    name: str, arg: object, result: type[R], *, retry: RetryPolicy = _QUICK, attempt_timeout: timedelta = SHORT_TIMEOUT
) -> R:
    """A few quick attempts, which hold the workflow task open; the caller says what failed, and tries again later."""
    answer: R = await workflow.start_local_activity(
        name,
        arg,
        result_type=result,
        start_to_close_timeout=attempt_timeout,
        retry_policy=retry,
        local_retry_threshold=_LOCAL_RETRY_THRESHOLD,
    )
    return answer


async def create_seat(arg: CreateSeatInput) -> CreateSeatResult:
    return await _local(names.CREATE_SEAT, arg, CreateSeatResult)


async def delete_seat(arg: DeleteSeatInput) -> None:
    await _local(names.DELETE_SEAT, arg, NoneType)


async def join_dataset(arg: JoinInput, *, until_done: bool = False) -> None:
    """until_done: for an entity, which has no Pod to tell of a failure."""
    await _local(names.JOIN_DATASET, arg, NoneType, retry=_UNTIL_DONE if until_done else _QUICK)


async def join_group(arg: JoinGroupInput) -> None:
    await _local(names.JOIN_GROUP, arg, NoneType)


async def find_group(arg: FindGroupInput) -> FindGroupResult:
    return await _local(names.FIND_GROUP, arg, FindGroupResult)


async def patch_gate(arg: PatchGateInput) -> PatchGateResult:
    return await _local(names.PATCH_GATE, arg, PatchGateResult)


async def move_receipt(arg: MoveReceiptInput) -> None:
    await _local(names.MOVE_RECEIPT, arg, NoneType)


async def evict_pod(arg: EvictPodInput) -> EvictPodResult:
    return await _local(names.EVICT_POD, arg, EvictPodResult)


async def read_pod(arg: ReadPodInput) -> PodState:
    return await _local(names.READ_POD, arg, PodState)


async def report_phase(arg: ReportInput) -> None:
    await _local(names.REPORT_PHASE, arg, NoneType, retry=_TWICE)


async def resolve_quickly(arg: ResolveInput) -> ResolveResult | None:
    """Resolve in a local activity, which costs no round trip: most lists take milliseconds.

    Returns None for a long list, or one that must be tried again: then call `resolve_dataset`, which heartbeats and is
    visible.
    """
    resolving = _local(names.RESOLVE_DATASET, arg, ResolveResult, retry=_ONCE, attempt_timeout=_QUICK_RESOLVE)
    try:
        return await heed_cancel(resolving)
    except FailureError as error:
        if is_final(error):
            raise
        return None


# Normal activities.


async def _normal(
    name: str,
    arg: object,
    result: type[R],
    *,
    within: timedelta | None,
    heartbeat_timeout: timedelta,
    attempt_timeout: timedelta | None = None,
    summary: str | None = None,
) -> R:
    """within: of all attempts together; None = as long as it takes."""
    calling = workflow.execute_activity(
        name,
        arg,
        result_type=result,
        schedule_to_close_timeout=within,
        start_to_close_timeout=attempt_timeout,
        heartbeat_timeout=heartbeat_timeout,
        retry_policy=_LONG,
        summary=summary,
    )
    answer: R = await heed_cancel(calling)
    return answer


async def resolve_dataset(arg: ResolveInput, *, within: timedelta | None = None) -> ResolveResult:
    """within: of all attempts together; None = as long as it takes."""
    return await _normal(
        names.RESOLVE_DATASET,
        arg,
        ResolveResult,
        within=within,
        heartbeat_timeout=timedelta(seconds=10),
        attempt_timeout=timedelta(minutes=5),
        summary=cut(arg.dataset, 200),
    )


async def survey_cluster(arg: SurveyRef) -> SurveyResult:
    return await _reconcile_call(names.SURVEY_CLUSTER, arg, SurveyResult)


async def tell_workflows(arg: SurveyRef) -> TellResult:
    return await _reconcile_call(names.TELL_WORKFLOWS, arg, TellResult)


async def plan_shard(arg: ShardInput) -> ShardPlan:
    return await _reconcile_call(names.PLAN_SHARD, arg, ShardPlan)


async def settle_node(arg: SettleInput) -> SettleResult:
    return await _reconcile_call(names.SETTLE_NODE, arg, SettleResult, summary=arg.node)


async def join_for_prefetch(arg: JoinInput) -> None:
    """As `join_dataset`, but visible, and without a local activity: people ask a prefetch for its status all the time.

    Not ended before it is done, so that what comes after it is not overtaken.
    """
    await workflow.execute_activity(
        names.JOIN_DATASET,
        arg,
        result_type=NoneType,
        start_to_close_timeout=SHORT_TIMEOUT,
        retry_policy=_LONG,
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=arg.dataset.node,
    )


async def plan_prefetch(arg: PlanPrefetchInput) -> PrefetchPlan:
    return await _normal(
        names.PLAN_PREFETCH,
        arg,
        PrefetchPlan,
        within=None,
        heartbeat_timeout=timedelta(seconds=15),
        attempt_timeout=timedelta(minutes=2),
    )


async def make_forecast(arg: MakeForecastInput) -> MadeForecast:
    """Fails in the end, so that a run says so and the next one begins on time."""
    return await _normal(
        names.MAKE_FORECAST, arg, MadeForecast, within=timedelta(minutes=8), heartbeat_timeout=timedelta(seconds=15)
    )


async def carry_out_forecast(arg: CarryOutInput) -> None:
    await _normal(
        names.CARRY_OUT_FORECAST, arg, NoneType, within=timedelta(minutes=2), heartbeat_timeout=timedelta(seconds=15)
    )


async def place_placeholders(arg: PlacePlaceholdersInput) -> str:
    """Fails in the end, so that the run says so."""
    return await _normal(
        names.PLACE_PLACEHOLDERS, arg, str, within=timedelta(minutes=1), heartbeat_timeout=timedelta(seconds=15)
    )


async def start_prefetch(arg: StartPrefetchInput) -> ScheduledPrefetchResult:
    answer: ScheduledPrefetchResult = await workflow.execute_activity(
        names.START_PREFETCH,
        arg,
        result_type=ScheduledPrefetchResult,
        start_to_close_timeout=SHORT_TIMEOUT,
        retry_policy=_LONG,
    )
    return answer


async def _reconcile_call(name: str, arg: object, result: type[R], *, summary: str | None = None) -> R:
    """Fails in the end, so that a run of the reconcile fails where people see it instead of waiting."""
    # An operator that is killed holds a run up as long as a heartbeat may stay out, perhaps more than once.
    return await _normal(
        name,
        arg,
        result,
        within=timedelta(minutes=4),
        heartbeat_timeout=timedelta(seconds=15),
        summary=summary,
    )
