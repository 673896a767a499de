"""When the page asks Temporal again: while somebody looks, one question at a time, and the later the longer it took."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final

# A question that takes a second is asked every 100 s: it is owed a hundredth of the time at most.
_SHARE: Final = 100


class Questions:
    """`ask_if_due` may be called by any thread but the event loop's."""

    def __init__(
        self,
        ask: Callable[[], Coroutine[Any, Any, None]],
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        every_s: float,
    ) -> None:
        """ask: asks once, on the loop. every_s: between two questions at least."""
        self._ask = ask
        self._loop = loop
        self._now = clock
        self._every_s = every_s
        self._next_at = 0.0
        self.running: Future[None] | None = None

    def ask_if_due(self) -> None:
        is_idle = self.running is None or self.running.done()
        if is_idle and self._now() >= self._next_at:
            self._next_at = self._now() + self._every_s
            self.running = asyncio.run_coroutine_threadsafe(self._timed(), self._loop)

    async def _timed(self) -> None:
        started = self._now()
        await self._ask()
        self._next_at = self._now() + max(self._every_s, _SHARE * (self._now() - started))
