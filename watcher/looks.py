"""Looks again and again at what one operator must look after: only while it leads, whatever the last look met with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog


async def keep_looking(
    look: Callable[[], Awaitable[object]],
    is_leading: Callable[[], bool],
    every_s: float,
    log: structlog.stdlib.BoundLogger,
    failed: str,
) -> None:
    """Return never. failed: what the log says of a look that raised, since the next one is owed all the same."""
    while True:
        await asyncio.sleep(every_s)
        if not is_leading():
            continue
        try:
            await look()
        except Exception as error:  # Temporal or the API server is away, or an answer is another build's
            log.warning(failed, error=repr(error))
