"""Makes and removes schedules of Temporal, whatever they start; what a schedule is for stands beside its workflow."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from temporalio.client import Client, Schedule, ScheduleAlreadyRunningError, ScheduleUpdate
from temporalio.service import RPCError

from kube_cache.temporal.executions import is_missing

RPC_TIMEOUT: Final = timedelta(seconds=10)


async def ensure(client: Client, identity: str, schedule: Schedule, memo: Mapping[str, Any] | None = None) -> None:
    """Create the schedule, or have the one that is there be like it. memo: of a new one. Raises RPCError."""
    try:
        await client.create_schedule(identity, schedule, memo=memo, rpc_timeout=RPC_TIMEOUT)
    except ScheduleAlreadyRunningError:
        handle = client.get_schedule_handle(identity)
        await handle.update(lambda _: ScheduleUpdate(schedule=schedule), rpc_timeout=RPC_TIMEOUT)


async def remove(client: Client, identity: str) -> bool:
    """Remove the schedule; False if there is none. Raises RPCError."""
    try:
        await client.get_schedule_handle(identity).delete(rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if is_missing(error):
            return False
        raise
    return True
