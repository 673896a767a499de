"""Turns: what is done for one group at a time, as far as that is possible within seconds.

Turns save work and prove nothing: other operators take no part in them, and whoever has waited long enough goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# Longest wait for a turn, seconds. A turn takes some 50 ms; the activity that waits has 15 s.
_MAX_WAIT_S = 3.0


class Turns:
    """Belongs to one event loop."""

    def __init__(self, max_wait_s: float = _MAX_WAIT_S) -> None:
        self._max_wait_s = max_wait_s
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: dict[str, int] = {}

    @asynccontextmanager
    async def take(self, group: str) -> AsyncIterator[None]:
        """Wait for the group's turn; no group, no wait."""
        if not group:
            yield
            return
        lock = self._locks.setdefault(group, asyncio.Lock())
        self._users[group] = self._users.get(group, 0) + 1
        held = False
        try:
            with contextlib.suppress(TimeoutError):
                held = await asyncio.wait_for(lock.acquire(), self._max_wait_s)
            yield
        finally:
            if held:
                lock.release()
            self._users[group] -= 1
            if not self._users[group]:
                del self._users[group], self._locks[group]
