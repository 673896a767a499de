"""How the workflows call activities: queue, timeouts and retry policy of each, in one table.

The short operator activities run as *local* activities: executed by the worker that holds the workflow task, recorded
as one marker, with no round trip through a task queue. That keeps a cache hit short (docs/design/local-activities.md).
Long activities (resolve, progress) and those of another machine (check, stream, unpin) are normal ones.

Activities are called by name, because workflows must not import them: they bring the disk and Kubernetes along.
"""

from __future__ import annotations

from datetime import timedelta
from types import NoneType
from typing import TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import FailureError
from temporalio.workflow import ActivityCancellationType, ActivityHandle

with workflow.unsafe.imports_passed_through():
    from kube_cache import names
    from kube_cache.contracts.common import Policy
    from kube_cache.contracts.node import (
        AwaitDiskInput,
        CheckDiskInput,
        CheckDiskResult,
        EvictInput,
        EvictResult,
        JoinInput,
        StoreRequest,
        StoreResponse,
        StreamInput,
        StreamResult,
        UnpinInput,
    )
    from kube_cache.contracts.reconcile import (
        ClusterState,
        FindBoundPodsInput,
        FindBoundPodsResult,
        ReconcileDiskInput,
        ReconcileDiskResult,
    )
    from kube_cache.contracts.warm_pod import (
        CreateSeatInput,
        CreateSeatResult,
        DeleteSeatInput,
        PatchGateInput,
        PatchGateResult,
        PublishProgressInput,
        ReportInput,
        ResolveInput,
        ResolveResult,
    )
    from workflows.failures import is_final

R = TypeVar("R")

_SHORT = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=60))
_LONG = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30))
_THREE_TIMES = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=3)
_ONCE = RetryPolicy(maximum_attempts=1)
_SHORT_TIMEOUT = timedelta(seconds=15)
# Retries that would wait longer than this become timers, so that a workflow task is not held open for them.
_LOCAL_RETRY_THRESHOLD = timedelta(seconds=5)
# One attempt of a stream may take the time of its bytes at 4 MiB/s, and at least an hour: the heartbeat notices a dead
# attempt, this bound only ends one that heartbeats without any progress.
_MIN_BYTES_PER_S = 4 << 20
_MIN_STREAM_TIMEOUT = timedelta(hours=1)
# Well under the workflow task's timeout, so that the task is not held open for a list.
_QUICK_RESOLVE = timedelta(seconds=2)


# Local activities on the operator's queue.


async def _local(name: str, arg: object, result: type[R]) -> R:
    answer: R = await workflow.start_local_activity(
        name,
        arg,
        result_type=result,
        start_to_close_timeout=_SHORT_TIMEOUT,
        retry_policy=_SHORT,
        local_retry_threshold=_LOCAL_RETRY_THRESHOLD,
    )
    return answer


async def create_seat(arg: CreateSeatInput) -> CreateSeatResult:
    return await _local(names.CREATE_SEAT, arg, CreateSeatResult)


async def delete_seat(arg: DeleteSeatInput) -> None:
    await _local(names.DELETE_SEAT, arg, NoneType)


async def join_dataset(arg: JoinInput) -> None:
    await _local(names.JOIN_DATASET, arg, NoneType)


async def patch_gate(arg: PatchGateInput) -> PatchGateResult:
    return await _local(names.PATCH_GATE, arg, PatchGateResult)


async def report_phase(arg: ReportInput) -> None:
    await _local(names.REPORT_PHASE, arg, NoneType)


async def resolve_quickly(arg: ResolveInput) -> ResolveResult | None:
    """Resolve in a local activity, which costs no round trip: most lists take milliseconds.

    Returns None for a long list, or one that must be tried again: then call `resolve_dataset`, which heartbeats and is
    visible.
    """
    try:
        result: ResolveResult = await workflow.execute_local_activity(
            names.RESOLVE_DATASET,
            arg,
            result_type=ResolveResult,
            start_to_close_timeout=_QUICK_RESOLVE,
            retry_policy=_ONCE,
        )
        return result
    except FailureError as error:
        if is_final(error):
            raise
        return None


# Normal activities on the operator's queue.


async def resolve_dataset(arg: ResolveInput) -> ResolveResult:
    result: ResolveResult = await workflow.execute_activity(
        names.RESOLVE_DATASET,
        arg,
        result_type=ResolveResult,
        start_to_close_timeout=timedelta(minutes=5),
        heartbeat_timeout=timedelta(seconds=10),
        retry_policy=_LONG,
        summary=arg.dataset[:200],
    )
    return result


def publish_progress(arg: PublishProgressInput) -> ActivityHandle[None]:
    return workflow.start_activity(
        names.PUBLISH_PROGRESS,
        arg,
        start_to_close_timeout=timedelta(days=7),
        heartbeat_timeout=timedelta(seconds=30),
        retry_policy=_SHORT,
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=f"progress of {arg.pod.namespace}/{arg.pod.name}",
    )


async def collect_cluster_state() -> ClusterState:
    result: ClusterState = await workflow.execute_activity(
        names.COLLECT_CLUSTER_STATE,
        result_type=ClusterState,
        start_to_close_timeout=timedelta(minutes=10),
        heartbeat_timeout=timedelta(seconds=30),
        retry_policy=_LONG,
    )
    return result


async def find_bound_pods(arg: FindBoundPodsInput) -> FindBoundPodsResult:
    result: FindBoundPodsResult = await workflow.execute_activity(
        names.FIND_BOUND_PODS,
        arg,
        result_type=FindBoundPodsResult,
        start_to_close_timeout=timedelta(minutes=1),
        retry_policy=_LONG,
        summary=arg.node,
    )
    return result


# Normal activities on a node's queue.


async def check_disk(node: str, arg: CheckDiskInput, schedule_to_start_s: float) -> CheckDiskResult:
    result: CheckDiskResult = await workflow.execute_activity(
        names.CHECK_DISK,
        arg,
        result_type=CheckDiskResult,
        task_queue=names.node_queue(node),
        schedule_to_start_timeout=timedelta(seconds=schedule_to_start_s),
        start_to_close_timeout=timedelta(hours=6) if arg.verify_full else timedelta(seconds=10),
        heartbeat_timeout=timedelta(seconds=10) if arg.verify_full else None,
        retry_policy=_THREE_TIMES,
        summary=node,
    )
    return result


def await_disk(node: str, arg: AwaitDiskInput, policy: Policy, *, timeout: timedelta) -> ActivityHandle[None]:
    """Succeeds when the disk can take the data. Fails when `timeout` is over, or the node has no living agent."""
    return workflow.start_activity(
        names.AWAIT_DISK,
        arg,
        task_queue=names.node_queue(node),
        schedule_to_start_timeout=timedelta(seconds=policy.stream_schedule_to_start_s),
        start_to_close_timeout=timedelta(minutes=1),
        schedule_to_close_timeout=timeout,
        retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=10)),
        summary=node,
    )


def stream_dataset(node: str, arg: StreamInput, policy: Policy) -> ActivityHandle[StreamResult]:
    return workflow.start_activity(
        names.STREAM_DATASET,
        arg,
        result_type=StreamResult,
        task_queue=names.node_queue(node),
        # Without it the retry after a node's death would sit on a dead queue for ever.
        schedule_to_start_timeout=timedelta(seconds=policy.stream_schedule_to_start_s),
        start_to_close_timeout=max(_MIN_STREAM_TIMEOUT, timedelta(seconds=arg.snapshot.bytes / _MIN_BYTES_PER_S)),
        heartbeat_timeout=timedelta(seconds=policy.stream_heartbeat_s),
        retry_policy=_LONG,
        # The journal must be at rest before the parts are given up or another attempt starts.
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=f"{arg.snapshot.uri} -> {node}",
    )


async def run_store_command(request: StoreRequest) -> StoreResponse:
    # These read every byte, and heartbeat.
    is_long = request.verb == "scrub" or request.full
    result: StoreResponse = await workflow.execute_activity(
        names.RUN_STORE_COMMAND,
        request,
        result_type=StoreResponse,
        task_queue=names.node_queue(request.node),
        schedule_to_start_timeout=timedelta(seconds=8),
        start_to_close_timeout=timedelta(days=7) if is_long else timedelta(minutes=5),
        heartbeat_timeout=timedelta(seconds=30) if is_long else None,
        # The user who typed the command sees the error and decides.
        retry_policy=_ONCE,
        # So that a command that was stopped is over on the node when it is over here.
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=f"{request.verb} {request.digest[:12]}",
    )
    return result


async def _node_call(
    name: str,
    node: str,
    arg: object,
    result: type[R],
    *,
    attempt_timeout: timedelta,
    heartbeat_timeout: timedelta | None = None,
) -> R:
    """At most three attempts: the callers do without the answer, or ask again later."""
    answer: R = await workflow.execute_activity(
        name,
        arg,
        result_type=result,
        task_queue=names.node_queue(node),
        schedule_to_start_timeout=timedelta(seconds=10),
        start_to_close_timeout=attempt_timeout,
        heartbeat_timeout=heartbeat_timeout,
        retry_policy=_THREE_TIMES,
        summary=node,
    )
    return answer


async def unpin(node: str, arg: UnpinInput) -> None:
    await _node_call(names.UNPIN, node, arg, NoneType, attempt_timeout=timedelta(seconds=10))


async def evict(node: str, arg: EvictInput) -> EvictResult:
    return await _node_call(names.EVICT, node, arg, EvictResult, attempt_timeout=timedelta(minutes=5))


async def reconcile_disk(node: str, arg: ReconcileDiskInput) -> ReconcileDiskResult:
    return await _node_call(
        names.RECONCILE_DISK,
        node,
        arg,
        ReconcileDiskResult,
        attempt_timeout=timedelta(minutes=5),
        # An agent that is killed meanwhile must not hold up the reconcile of the whole cluster for five minutes.
        heartbeat_timeout=timedelta(seconds=10),
    )
