"""Schedules of prefetches, which Temporal keeps: make, look at, pause and remove them.

A schedule has the id of its prefetch, and starts a `ScheduledPrefetch` at each of its times. What Temporal was asked
for is told apart by a digest in the schedule's note, because its server gives a schedule back in other words than it
took it in. The server resolves the time zone, and fires when no operator is there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleDescription,
    ScheduleHandle,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
)
from temporalio.service import RPCError

from kube_cache import names
from kube_cache.contracts.common import Policy
from kube_cache.contracts.prefetch import PrefetchSchedule, PrefetchSpec, ScheduledPrefetchInput
from kube_cache.temporal import schedules
from kube_cache.temporal.executions import is_missing
from kube_cache.units import cut

# A server that was away starts what it missed, as long as the window is open. Temporal's least is 10 s.
_MIN_CATCH_UP_S = 10.0


class Found(NamedTuple):
    """A schedule as Temporal has it."""

    digest: str
    """Of what was asked for."""
    next_at: float
    """When it fires next, in seconds since the epoch; 0 = never, or it is paused."""
    last_at: float
    """When it fired last; 0 = not yet."""
    paused: bool


def digest(spec: PrefetchSpec, schedule: PrefetchSchedule, policy: Policy, *, paused: bool) -> str:
    what = [{**asdict(spec), "expires_s": 0}, asdict(schedule), asdict(policy), paused]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


async def ensure(
    client: Client,
    spec: PrefetchSpec,
    schedule: PrefetchSchedule,
    policy: Policy | None = None,
    *,
    paused: bool = False,
    resource: str = "",
) -> None:
    """Make the schedule, or change the one that is there. resource: uid of the one that asks for it.

    Raises RPCError: INVALID_ARGUMENT for a cron expression or a time zone that Temporal does not know.
    """
    policy = policy or Policy()
    window = timedelta(seconds=schedule.window_s)
    made = Schedule(
        action=ScheduleActionStartWorkflow(
            names.SCHEDULED_PREFETCH,
            ScheduledPrefetchInput(spec, schedule.window_s, policy, resource),
            id=names.scheduled_prefetch_id(spec.namespace, spec.name),
            task_queue=names.OPERATOR_QUEUE,
            execution_timeout=max(window, timedelta(seconds=1)),  # one that no operator has begun by then is late
            static_summary=cut(f"scheduled prefetch of {', '.join(spec.datasets)}", 200),
        ),
        spec=ScheduleSpec(cron_expressions=[schedule.cron], time_zone_name=schedule.time_zone),
        policy=SchedulePolicy(
            # One that waits for an operator must not swallow the next: its window ends before the next one's.
            overlap=ScheduleOverlapPolicy.BUFFER_ONE,
            catchup_window=max(window, timedelta(seconds=_MIN_CATCH_UP_S)),
        ),
        state=ScheduleState(note=digest(spec, schedule, policy, paused=paused), paused=paused),
    )
    await schedules.ensure(client, names.prefetch_id(spec.namespace, spec.name), made, {names.RESOURCE_MEMO: resource})


async def find(client: Client, namespace: str, name: str) -> Found | None:
    """Look at a schedule; None if there is none. Raises RPCError."""
    try:
        description = await _handle(client, namespace, name).describe(rpc_timeout=schedules.RPC_TIMEOUT)
    except RPCError as error:
        if is_missing(error):
            return None
        raise
    return _read(description)


def _read(description: ScheduleDescription) -> Found:
    state, info = description.schedule.state, description.info
    upcoming = [] if state.paused else [moment.timestamp() for moment in info.next_action_times]
    last = [action.scheduled_at.timestamp() for action in info.recent_actions]
    return Found(state.note or "", min(upcoming, default=0.0), max(last, default=0.0), state.paused)


async def remove(client: Client, namespace: str, name: str) -> bool:
    """Remove a schedule; False if there is none. Raises RPCError."""
    return await schedules.remove(client, names.prefetch_id(namespace, name))


async def set_paused(client: Client, namespace: str, name: str, *, paused: bool) -> bool:
    """Pause a schedule, or let it go on; False if there is none. Raises RPCError."""
    handle = _handle(client, namespace, name)
    try:
        if paused:
            await handle.pause(rpc_timeout=schedules.RPC_TIMEOUT)
        else:
            await handle.unpause(rpc_timeout=schedules.RPC_TIMEOUT)
    except RPCError as error:
        if is_missing(error):
            return False
        raise
    return True


async def scheduled(client: Client) -> AsyncIterator[tuple[str, str, str]]:
    """Yield namespace and name of each prefetch with a schedule, and the uid of its resource. Raises RPCError."""
    async for entry in await client.list_schedules(rpc_timeout=schedules.RPC_TIMEOUT):
        try:
            namespace, name = names.parse_prefetch_id(entry.id)
        except ValueError:  # of another kind
            continue
        yield namespace, name, str(await entry.memo_value(names.RESOURCE_MEMO, ""))


def _handle(client: Client, namespace: str, name: str) -> ScheduleHandle:
    return client.get_schedule_handle(names.prefetch_id(namespace, name))


def spoken(moment: float) -> str:
    """Return a time for people: `2026-11-30T07:45:00Z`."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
