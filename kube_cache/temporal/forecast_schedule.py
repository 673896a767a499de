"""The schedule of the forecast, which all operators share: one run for each slot of demand; none while it is off.

A run gets the result of the last one that succeeded from the schedule, so that deleting the schedule forgets the
scores. Prefetches that a plan has started end by themselves.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
)

from kube_cache import names
from kube_cache.contracts.forecast import ForecastInput
from kube_cache.temporal import schedules

RUN_TIMEOUT = timedelta(minutes=15)
# Seconds after the begin of a slot, so that Prometheus has scraped what was true then.
_AFTER_S = 20


async def ensure(client: Client, *, step_s: int, clock_offset_s: float = 0) -> None:
    """Create or update the schedule. clock_offset_s: for tests, see ForecastInput. Raises RPCError."""
    schedule = Schedule(
        action=ScheduleActionStartWorkflow(
            names.FORECAST,
            ForecastInput(clock_offset_s),
            id=names.FORECAST_ID,
            task_queue=names.OPERATOR_QUEUE,
            run_timeout=RUN_TIMEOUT,
        ),
        spec=ScheduleSpec(
            intervals=[
                ScheduleIntervalSpec(
                    every=timedelta(seconds=step_s), offset=timedelta(seconds=min(_AFTER_S, step_s / 2))
                )
            ]
        ),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
    )
    await schedules.ensure(client, names.FORECAST_SCHEDULE, schedule)


async def remove(client: Client) -> None:
    """Delete the schedule, if there is one. Raises RPCError."""
    await schedules.remove(client, names.FORECAST_SCHEDULE)


async def trigger(client: Client) -> None:
    """Have a run begin now; where one is under way, when it has ended. Raises RPCError."""
    await client.get_schedule_handle(names.FORECAST_SCHEDULE).trigger(
        overlap=ScheduleOverlapPolicy.BUFFER_ONE, rpc_timeout=schedules.RPC_TIMEOUT
    )
