"""Lets the starts of workflows overtake the first steps of those that run. Changes nothing else.

On a busy machine all calls of Temporal are equal, so the start of the last Pod of a burst would wait behind the work
for all Pods before it. Only what comes before a seat yields: who holds one is brought to the end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from kube_cache import names

_BEFORE_A_SEAT = (names.RESOLVE_DATASET, names.CREATE_SEAT)


class StartsFirst(Interceptor):
    """To be given to a worker, before those that measure an activity."""

    def __init__(self, yield_to_starts: Callable[[], Awaitable[None]]) -> None:
        """yield_to_starts: returns when no start is in a hurry, or when that takes too long."""
        self._yield_to_starts = yield_to_starts

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002 -- SDK's
        return _Yielding(next, self._yield_to_starts)


class _Yielding(ActivityInboundInterceptor):
    def __init__(self, following: ActivityInboundInterceptor, yield_to_starts: Callable[[], Awaitable[None]]) -> None:
        super().__init__(following)
        self._yield_to_starts = yield_to_starts

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 -- the SDK's word
        info = activity.info()
        if info.is_local and info.activity_type in _BEFORE_A_SEAT:
            await self._yield_to_starts()
        return await super().execute_activity(input)
