"""Heartbeats of an activity that does many small things, whatever each of them waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from typing import TypeVar

from temporalio import activity

T = TypeVar("T")

_EVERY_S = 2.0
# Signals and queries at once.
_CONCURRENCY = 16


@asynccontextmanager
async def heartbeats() -> AsyncIterator[None]:
    """Heartbeat while the block runs; the activity's own time limit ends one that hangs."""

    async def beat() -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(_EVERY_S)

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()


async def at_once(work: Iterable[Awaitable[T]]) -> list[T]:
    """Await all of it, a few at once."""
    slots = asyncio.Semaphore(_CONCURRENCY)

    async def one(each: Awaitable[T]) -> T:
        async with slots:
            return await each

    return await asyncio.gather(*(one(each) for each in work))
