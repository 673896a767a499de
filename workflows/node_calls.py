"""How the workflows call what a node's agent does: queue, timeouts and retries of each, in one table.

Schedule-to-start notices a node without a living agent. Downloads have a queue of their own, which they may fill. The
operator's own activities are called in workflows.cluster_calls.

Activities are called by name, because workflows must not import them: they bring the disk along.
"""

from __future__ import annotations

from datetime import timedelta
from types import NoneType
from typing import TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.workflow import ActivityCancellationType, ActivityHandle

with workflow.unsafe.imports_passed_through():
    from kube_cache import names
    from kube_cache.contracts.common import Policy
    from kube_cache.contracts.node import (
        MIN_STREAM_BYTES_PER_S,
        AwaitDiskInput,
        CheckDiskInput,
        CheckDiskResult,
        EvictInput,
        EvictResult,
        StoreRequest,
        StoreResponse,
        StreamInput,
        StreamResult,
        UnpinInput,
    )
    from kube_cache.contracts.prefetch import HoldPrefetchedInput, HoldPrefetchedResult, ReleasePrefetchedInput
    from kube_cache.contracts.reconcile import ReconcileDiskInput, ReconcileDiskResult
    from kube_cache.units import cut
    from workflows.heed_cancel import heed_cancel

R = TypeVar("R")

# Of an agent that the caller does without, or asks again later.
_SCHEDULE_TO_START_S = 10.0
# One attempt of a stream may take the time of its bytes at `MIN_STREAM_BYTES_PER_S`, and at least an hour: the
# heartbeat notices a dead attempt, this bound only ends one that heartbeats without any progress.
_MIN_STREAM_TIMEOUT = timedelta(hours=1)
_PING_TIMEOUT = timedelta(seconds=5)
_THREE_TIMES = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=3)
_ONCE = RetryPolicy(maximum_attempts=1)
_LONG = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30))
_EACH_TEN_SECONDS = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=10))
# An agent that froze with a poll open swallows a task; the next one may reach it when it is awake again.
_EACH_SECOND = RetryPolicy(
    initial_interval=timedelta(seconds=1), backoff_coefficient=1, non_retryable_error_types=["NotFoundError"]
)
# The caller goes on only when nothing of it runs on the node any more.
_TO_ITS_END = ActivityCancellationType.WAIT_CANCELLATION_COMPLETED


def _start(
    name: str,
    node: str,
    arg: object,
    result: type[R],
    *,
    attempt_timeout: timedelta,
    schedule_to_start_s: float = _SCHEDULE_TO_START_S,
    total_timeout: timedelta | None = None,
    heartbeat_timeout: timedelta | None = None,
    retry: RetryPolicy = _THREE_TIMES,
    cancellation: ActivityCancellationType = ActivityCancellationType.TRY_CANCEL,
    queue: str = "",
    summary: str = "",
) -> ActivityHandle[R]:
    """queue: if not the node's for short work. summary: shown in the UI; empty = the node."""
    handle: ActivityHandle[R] = workflow.start_activity(
        name,
        args=[] if arg is None else [arg],
        result_type=result,
        task_queue=queue or names.node_queue(node),
        schedule_to_start_timeout=timedelta(seconds=schedule_to_start_s),
        start_to_close_timeout=attempt_timeout,
        schedule_to_close_timeout=total_timeout,
        heartbeat_timeout=heartbeat_timeout,
        retry_policy=retry,
        cancellation_type=cancellation,
        summary=summary or node,
    )
    return handle


async def check_disk(node: str, arg: CheckDiskInput, schedule_to_start_s: float) -> CheckDiskResult:
    checking = _start(
        names.CHECK_DISK,
        node,
        arg,
        CheckDiskResult,
        attempt_timeout=timedelta(hours=6) if arg.verify_full else timedelta(seconds=10),
        schedule_to_start_s=schedule_to_start_s,
        heartbeat_timeout=timedelta(seconds=10) if arg.verify_full else None,
    )
    return await heed_cancel(checking)


def await_disk(node: str, arg: AwaitDiskInput, policy: Policy, *, timeout: timedelta) -> ActivityHandle[None]:
    """Succeeds when the disk can take the data. Fails when `timeout` is over, or the node has no living agent."""
    return _start(
        names.AWAIT_DISK,
        node,
        arg,
        NoneType,
        attempt_timeout=timedelta(minutes=1),
        schedule_to_start_s=policy.stream_schedule_to_start_s,
        total_timeout=timeout,
        retry=_EACH_TEN_SECONDS,
    )


def stream_dataset(
    node: str, arg: StreamInput, policy: Policy, *, queue: str, schedule_to_start_s: float
) -> ActivityHandle[StreamResult]:
    return _start(
        names.STREAM_DATASET,
        node,
        arg,
        StreamResult,
        queue=queue,
        attempt_timeout=max(_MIN_STREAM_TIMEOUT, timedelta(seconds=arg.snapshot.bytes / MIN_STREAM_BYTES_PER_S)),
        # Without it the retry after a node's death would sit on a dead queue for ever.
        schedule_to_start_s=schedule_to_start_s,
        heartbeat_timeout=timedelta(seconds=policy.stream_heartbeat_s),
        retry=_LONG,
        # The journal must be at rest before the parts are given up or another attempt starts.
        cancellation=_TO_ITS_END,
        summary=cut(f"{arg.snapshot.uri} -> {node}", 200),
    )


def ping(node: str, patience_s: float) -> ActivityHandle[None]:
    """Succeeds as soon as the node's agent answers; fails if none does within `patience_s`."""
    return _start(
        names.PING,
        node,
        None,
        NoneType,
        attempt_timeout=_PING_TIMEOUT,
        schedule_to_start_s=patience_s,
        total_timeout=timedelta(seconds=patience_s) + _PING_TIMEOUT,
        retry=_EACH_SECOND,
    )


async def run_store_command(request: StoreRequest) -> StoreResponse:
    # These read every byte, and heartbeat.
    is_long = request.verb == "scrub" or request.full
    return await _start(
        names.RUN_STORE_COMMAND,
        request.node,
        request,
        StoreResponse,
        attempt_timeout=timedelta(days=7) if is_long else timedelta(minutes=5),
        schedule_to_start_s=8,
        heartbeat_timeout=timedelta(seconds=30) if is_long else None,
        # The user who typed the command sees the error and decides.
        retry=_ONCE,
        cancellation=_TO_ITS_END,
        summary=f"{request.verb} {request.digest[:12]}",
    )


async def unpin(node: str, arg: UnpinInput) -> None:
    await _start(names.UNPIN, node, arg, NoneType, attempt_timeout=timedelta(seconds=10))


async def hold_prefetched(node: str, arg: HoldPrefetchedInput) -> HoldPrefetchedResult:
    # A check stats every file of the snapshots.
    return await _start(names.HOLD_PREFETCHED, node, arg, HoldPrefetchedResult, attempt_timeout=timedelta(minutes=1))


async def release_prefetched(node: str, arg: ReleasePrefetchedInput) -> None:
    await _start(names.RELEASE_PREFETCHED, node, arg, NoneType, attempt_timeout=timedelta(seconds=10))


async def evict(node: str, arg: EvictInput) -> EvictResult:
    return await _start(names.EVICT, node, arg, EvictResult, attempt_timeout=timedelta(minutes=5))


async def reconcile_disk(node: str, arg: ReconcileDiskInput) -> ReconcileDiskResult:
    return await _start(
        names.RECONCILE_DISK,
        node,
        arg,
        ReconcileDiskResult,
        attempt_timeout=timedelta(minutes=5),
        # A run of the reconcile is ended after nine minutes.
        total_timeout=timedelta(minutes=5, seconds=30),
        # An agent that is killed meanwhile must not hold up the reconcile of its shard for five minutes.
        heartbeat_timeout=timedelta(seconds=10),
    )
