"""A download by a node's agent that may be busy, away for a while, gone, or of an older build.

A download that no agent takes within its schedule-to-start says little: the agent may have all its slots in use, or its
image may just be pulled. So the agent is asked on its other queue, which is short. An answer means that the download is
scheduled again. Without an answer the agent is waited for as long as what its disk holds of the snapshot would take to
fetch elsewhere, and then given up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeAlias

from temporalio import workflow
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    TimeoutError,  # noqa: A004
    is_cancelled_exception,
)
from temporalio.workflow import ActivityHandle

with workflow.unsafe.imports_passed_through():
    from kube_cache import names
    from kube_cache.contracts.common import Consumer, Policy
    from kube_cache.contracts.node import DatasetOnNodeInput, DatasetState, StreamInput, StreamResult
    from workflows import node_calls
    from workflows.failures import AGENT_LOST, error_info

PATCH = "ping-before-agent-lost"
"""In histories without this marker the download failed without a ping."""

# Of the seconds after which an agent without data counts as lost, two thirds go to the download and one to the ping.
_DOWNLOAD_SHARE = 2 / 3
# Longer than a rollout keeps a node without its agent; after it the Pod's node is given up, however much it holds.
_MAX_ABSENCE_S = 600.0
# A download that waits for a busy agent is scheduled anew after 20, 40, … 320 s, each time with some ten events.
_MAX_DOUBLINGS = 4
# Type of the error by which Temporal's worker refuses an activity that it does not know.
_UNKNOWN_ACTIVITY = "NotFoundError"

Attend: TypeAlias = Callable[[ActivityHandle[Any]], Awaitable[Any]]
"""Awaits an activity and cancels it when its result is no longer wanted."""


async def fetch(inp: DatasetOnNodeInput, state: DatasetState, priority: int, attend: Attend) -> StreamResult:
    """Download the snapshot. Raises ActivityError: that of the download, as if there had been no ping."""
    queue = names.node_stream_queue(inp.node)
    times_busy = 0
    while True:
        spare = is_spare(state)
        arg = StreamInput(
            inp.cache_id,
            inp.snapshot,
            priority,
            state.done_bytes,
            _first_waiting(state),
            spare,
            _max_bytes_per_s(state) if spare else 0,
        )
        schedule_to_start_s = inp.policy.stream_schedule_to_start_s * _DOWNLOAD_SHARE * 2.0**times_busy
        try:
            result: StreamResult = await attend(
                node_calls.stream_dataset(
                    inp.node, arg, inp.policy, queue=queue, schedule_to_start_s=schedule_to_start_s
                )
            )
        except ActivityError as error:
            if error_info(error).type != AGENT_LOST or not workflow.patched(PATCH):
                raise
            lost = error
        else:
            return result
        # An attempt that was heard of means that the agent went away, not that it was busy.
        done_bytes = _done_bytes(lost)
        times_busy = 0 if done_bytes is not None else min(times_busy + 1, _MAX_DOUBLINGS)
        state.done_bytes = max(state.done_bytes, done_bytes or 0)
        try:
            await attend(node_calls.ping(inp.node, patience_s(inp.policy, state.done_bytes)))
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            if not isinstance(error.cause, ApplicationError) or error.cause.type != _UNKNOWN_ACTIVITY:
                raise lost from lost.cause
            # An agent from before this queue lives there. Agents of today serve downloads on both.
            queue = names.node_queue(inp.node)


def is_spare(state: DatasetState) -> bool:
    """Whether prefetches wait for the snapshot, and no Pod."""
    return bool(state.waiting) and all(state.consumers[name].prefetch for name in state.waiting)


def _max_bytes_per_s(state: DatasetState) -> int:
    """Return the largest budget of the prefetches that wait; 0 = one of them has no limit."""
    budgets = [state.consumers[name].max_bytes_per_s for name in state.waiting]
    return max(budgets) if all(budgets) else 0


def _first_waiting(state: DatasetState) -> Consumer | None:
    """Return the Pod that has waited longest for an answer, else a prefetch; a Pod under repair awaits none.

    One Pod that forbids neighbours decides for all that wait: it relies on its word, the others lose only time.
    """
    asked = [state.consumers[name] for name in state.waiting if name not in state.repairing]
    if not asked:
        return None
    first = next((consumer for consumer in asked if not consumer.prefetch), asked[0])
    waiting = [state.consumers[name] for name in state.waiting]
    return replace(
        first,
        peer_token="" if any(consumer.forbids_neighbours for consumer in waiting) else first.peer_token,
        expects_others=state.done_bytes > 0 or any(consumer.expects_others for consumer in waiting),
    )


def patience_s(policy: Policy, done_bytes: int) -> float:
    """Seconds in which an agent whose disk holds `done_bytes` of the snapshot must answer a ping."""
    absence_s = min(_MAX_ABSENCE_S, done_bytes / policy.refetch_bytes_per_s)
    return policy.stream_schedule_to_start_s * (1 - _DOWNLOAD_SHARE) + absence_s


def _done_bytes(error: ActivityError) -> int | None:
    """Bytes on the disk by the last heartbeat before the failure; None without one."""
    if not isinstance(error.cause, TimeoutError) or not error.cause.last_heartbeat_details:
        return None
    details = error.cause.last_heartbeat_details[0]
    return int(details.get("done_bytes", 0)) if isinstance(details, dict) else 0
