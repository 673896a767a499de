"""How the workflows call activities: queue, timeouts and retry policy of each, in one table.

The short operator activities run as *local* activities: executed by the worker that holds the workflow task, recorded as
one marker, with no round trip through a task queue. That is what keeps a cache hit short (docs/design/local-activities.md).
What is long (resolve, progress) or belongs to another machine (check, stream, unpin) is a normal activity.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

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

_SHORT = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=60))
_LONG = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30))
_SHORT_TIMEOUT = timedelta(seconds=15)
# Retries that would wait longer than this become timers, so that a workflow task is not held open for them.
_LOCAL_RETRY_THRESHOLD = timedelta(seconds=5)
# One attempt of a stream may take the time of its bytes at 4 MiB/s, and never less than an hour: the heartbeat is what
# notices a dead attempt, this bound only ends one that heartbeats without ever progressing.
_SLOWEST_BYTES_PER_S = 4 << 20
_LEAST_STREAM = timedelta(hours=1)
# Well under the workflow task's timeout, so that the task is not held open for a list.
_QUICK_RESOLVE = timedelta(seconds=2)


async def _local(name: str, arg: object, result: type | None) -> Any:
    return await workflow.start_local_activity(
        name,
        arg,
        result_type=result,
        start_to_close_timeout=_SHORT_TIMEOUT,
        retry_policy=_SHORT,
        local_retry_threshold=_LOCAL_RETRY_THRESHOLD,
    )


async def create_seat(arg: CreateSeatInput) -> CreateSeatResult:
    result: CreateSeatResult = await _local(names.CREATE_SEAT, arg, CreateSeatResult)
    return result


async def delete_seat(arg: DeleteSeatInput) -> None:
    await _local(names.DELETE_SEAT, arg, None)


async def join_dataset(arg: JoinInput) -> None:
    await _local(names.JOIN_DATASET, arg, None)


async def patch_gate(arg: PatchGateInput) -> PatchGateResult:
    result: PatchGateResult = await _local(names.PATCH_GATE, arg, PatchGateResult)
    return result


async def report_phase(arg: ReportInput) -> None:
    await _local(names.REPORT_PHASE, arg, None)


async def resolve_quickly(arg: ResolveInput) -> ResolveResult | None:
    """Most lists take milliseconds, and a local activity costs no round trip; None for a long one, or one that must be
    tried again: then call `resolve_dataset`, which heartbeats and can be seen.
    """
    try:
        result: ResolveResult = await workflow.execute_local_activity(
            names.RESOLVE_DATASET,
            arg,
            result_type=ResolveResult,
            start_to_close_timeout=_QUICK_RESOLVE,
            retry_policy=RetryPolicy(maximum_attempts=1),
        )
        return result
    except FailureError as error:
        if is_final(error):
            raise
        return None


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


async def check_disk(node: str, arg: CheckDiskInput, schedule_to_start_s: float) -> CheckDiskResult:
    result: CheckDiskResult = await workflow.execute_activity(
        names.CHECK_DISK,
        arg,
        result_type=CheckDiskResult,
        task_queue=names.node_queue(node),
        schedule_to_start_timeout=timedelta(seconds=schedule_to_start_s),
        start_to_close_timeout=timedelta(hours=6) if arg.verify_full else timedelta(seconds=10),
        heartbeat_timeout=timedelta(seconds=10) if arg.verify_full else None,
        retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=3),
        summary=node,
    )
    return result


def await_disk(node: str, arg: AwaitDiskInput, policy: Policy, *, longest: timedelta) -> ActivityHandle[None]:
    """Done when the disk would take it. A failure means that it was too long, or that the node has no living agent."""
    return workflow.start_activity(
        names.AWAIT_DISK,
        arg,
        task_queue=names.node_queue(node),
        schedule_to_start_timeout=timedelta(seconds=policy.stream_schedule_to_start_s),
        start_to_close_timeout=timedelta(minutes=1),
        schedule_to_close_timeout=longest,
        retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=10)),
        summary=node,
    )


def stream_dataset(node: str, arg: StreamInput, policy: Policy) -> ActivityHandle[StreamResult]:
    by_size = timedelta(seconds=arg.snapshot.bytes / _SLOWEST_BYTES_PER_S)
    return workflow.start_activity(
        names.STREAM_DATASET,
        arg,
        result_type=StreamResult,
        task_queue=names.node_queue(node),
        # Without it the retry after a node's death would sit on a dead queue for ever.
        schedule_to_start_timeout=timedelta(seconds=policy.stream_schedule_to_start_s),
        start_to_close_timeout=max(_LEAST_STREAM, by_size),
        heartbeat_timeout=timedelta(seconds=policy.stream_heartbeat_s),
        retry_policy=_LONG,
        # The journal must be at rest before the parts are given up or another attempt starts.
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=f"{arg.snapshot.uri} -> {node}",
    )


async def _briefly(name: str, node: str, arg: object, result: type | None, *, at_most: timedelta) -> Any:
    """On a node's queue, three times at most: who asks does without the answer, or asks again later."""
    return await workflow.execute_activity(
        name,
        arg,
        result_type=result,
        task_queue=names.node_queue(node),
        schedule_to_start_timeout=timedelta(seconds=10),
        start_to_close_timeout=at_most,
        retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=3),
        summary=node,
    )


async def unpin(node: str, arg: UnpinInput) -> None:
    await _briefly(names.UNPIN, node, arg, None, at_most=timedelta(seconds=10))


async def evict(node: str, arg: EvictInput) -> EvictResult:
    result: EvictResult = await _briefly(names.EVICT, node, arg, EvictResult, at_most=timedelta(minutes=5))
    return result


async def reconcile_disk(node: str, arg: ReconcileDiskInput) -> ReconcileDiskResult:
    result: ReconcileDiskResult = await _briefly(
        names.RECONCILE_DISK, node, arg, ReconcileDiskResult, at_most=timedelta(minutes=5)
    )
    return result


async def store_command(ask: StoreRequest) -> StoreResponse:
    result: StoreResponse = await workflow.execute_activity(
        names.RUN_STORE_COMMAND,
        ask,
        result_type=StoreResponse,
        task_queue=names.node_queue(ask.node),
        schedule_to_start_timeout=timedelta(seconds=8),
        start_to_close_timeout=timedelta(days=7) if _lasts(ask) else timedelta(minutes=5),
        heartbeat_timeout=timedelta(seconds=30) if _lasts(ask) else None,
        # Whoever typed it sees what happened and decides.
        retry_policy=RetryPolicy(maximum_attempts=1),
        # So that a command that was stopped is over on the node when it is over here.
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=f"{ask.verb} {ask.digest[:12]}",
    )
    return result


def _lasts(ask: StoreRequest) -> bool:
    """Reads every byte, and heartbeats."""
    return ask.verb == "scrub" or ask.full


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
