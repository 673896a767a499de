"""Local activities of a `WarmPod` in flight: none is cancelled, and the main path starts none once it must stop.

A local activity that is cancelled may still do its work, for a thread cannot be cancelled: a seat would be created
after its deletion. So whoever stops the main path first waits until nothing is in flight, which takes seconds: each
call is bounded (workflows.cluster_calls).
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from workflows.warm_pod.requests import Requests
    from workflows.warm_pod.waiting import wait

A = TypeVar("A")
R = TypeVar("R")


class Calls:
    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._uninterrupted = 0
        self.in_flight = 0
        """Number of calls that must end before the main path may be stopped."""
        self.serve_main_path = False
        """The main path runs: a request that stops it holds back further calls."""

    async def run(self, call: Callable[[A], Awaitable[R]], arg: A) -> R:
        """Raises FailureError. Never returns in a main path that must stop: that is about to be cancelled."""
        if self._is_held():
            await wait(lambda: not self._is_held())
        with self.counted():
            return await call(arg)

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Context of a call that ends within seconds."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    @contextlib.contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """Context of a long call that a stop may cancel, but no continue-as-new, after which it would begin again."""
        self._uninterrupted += 1
        try:
            yield
        finally:
            self._uninterrupted -= 1

    def must_continue_as_new(self) -> bool:
        """Whether the server asks for a new history, or only a new one can be cancelled, and nothing is in flight."""
        due = workflow.info().is_continue_as_new_suggested() or self._requests.wants_new_run
        return due and not (self.in_flight or self._uninterrupted)

    def _is_held(self) -> bool:
        return self.serve_main_path and self._requests.must_halt
