"""Awaiting an activity in a task that others cancel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

R = TypeVar("R")


async def heed_cancel(call: Awaitable[R]) -> R:
    """Await an activity. Raises CancelledError if this task was cancelled as the activity ended.

    The SDK hands over the activity's result or error then, and the cancel is lost: a main path that goes on waits for
    ever for its turn to call, while another task waits for its end.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        return await call
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError
