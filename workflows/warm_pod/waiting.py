"""Waiting inside a `WarmPod`: for a condition that only its own task's cancel ends, growing pauses, joint ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from temporalio import workflow

_FIRST_PAUSE_S = 2.0
_MAX_PAUSE_S = 300.0


class ContinueNow(Exception):
    """The history is long: continue as new, everything of worth is in the state."""


async def wait(condition: Callable[[], object], timeout_s: float | None = None) -> None:
    """Wait for the condition. Raises TimeoutError, and CancelledError only if this very task was cancelled.

    The SDK also raises CancelledError in a task whose condition is met in the activation that brings the cancel of the
    workflow, though nobody cancelled that task. And `asyncio.wait_for` swallows a cancel that comes as the condition is
    met: a main path that went on would wait for ever for whom waits for its end.
    """
    timeout = None if timeout_s is None else timedelta(seconds=timeout_s)
    task = asyncio.current_task()
    try:
        await workflow.wait_condition(lambda: bool(condition()), timeout=timeout)
    except asyncio.CancelledError:
        if task is None or task.cancelling():
            raise
        if not condition():
            raise TimeoutError from None
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class Pauses:
    """Pauses of a loop that tries again: each twice as long, with jitter, at most five minutes."""

    def __init__(self, first_s: float = _FIRST_PAUSE_S, max_s: float = _MAX_PAUSE_S) -> None:
        self._next_s = first_s
        self._max_s = max_s

    def next_s(self) -> float:
        pause_s = self._next_s
        self._next_s = min(2 * pause_s, self._max_s)
        return pause_s * workflow.random().uniform(0.75, 1.25)


async def together(*calls: Awaitable[Any]) -> None:
    """Run all to their end, also if one fails; then raise the first error."""
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
