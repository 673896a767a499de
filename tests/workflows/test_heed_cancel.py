"""A cancel that comes in the moment in which an activity ends is not lost, or a stopped main path would never end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from workflows.heed_cancel import heed_cancel


class Ended(Exception):
    """The activity failed."""


def handle(outcome: str | Exception) -> asyncio.Task[str]:
    """An activity as the SDK hands it over: asked to cancel when its outcome is there, it gives the outcome."""

    async def run() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if isinstance(outcome, Exception):
                raise outcome from None
        return str(outcome)

    return asyncio.create_task(run())


@pytest.mark.parametrize("outcome", ["a result", Ended()], ids=["result", "error"])
async def test_a_cancel_that_an_activity_swallows_as_it_ends_is_raised(outcome: str | Exception) -> None:
    task = await started(lambda: heed_cancel(handle(outcome)))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_a_cancelled_task_does_to_clean_up_is_not_cancelled_again() -> None:
    async def work() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return await heed_cancel(asyncio.sleep(0, "cleaned up"))
        return ""

    task = await started(work)
    task.cancel()
    assert await task == "cleaned up"


async def started(work: Callable[[], Awaitable[str]]) -> asyncio.Task[str]:
    """A task that has come to where it waits."""

    async def run() -> str:
        return await work()

    task = asyncio.create_task(run())
    for _ in range(3):
        await asyncio.sleep(0)
    return task
