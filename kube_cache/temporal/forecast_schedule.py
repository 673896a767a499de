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
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
)
from temporalio.service import RPCError, RPCStatusCode

from kube_cache import names
from kube_cache.contracts.forecast import ForecastInput

_RPC_TIMEOUT = timedelta(seconds=10)
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
    handle = client.get_schedule_handle(names.FORECAST_SCHEDULE)
    try:
        await client.create_schedule(names.FORECAST_SCHEDULE, schedule, rpc_timeout=_RPC_TIMEOUT)
    except ScheduleAlreadyRunningError:
        await handle.update(lambda _: ScheduleUpdate(schedule=schedule), rpc_timeout=_RPC_TIMEOUT)


async def remove(client: Client) -> None:
    """Delete the schedule, if there is one. Raises RPCError."""
    try:
        await client.get_schedule_handle(names.FORECAST_SCHEDULE).delete(rpc_timeout=_RPC_TIMEOUT)
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise


async def trigger(client: Client) -> None:
    """Have a run begin now; where one is under way, when it has ended. Raises RPCError."""
    await client.get_schedule_handle(names.FORECAST_SCHEDULE).trigger(
        overlap=ScheduleOverlapPolicy.BUFFER_ONE, rpc_timeout=_RPC_TIMEOUT
    )
