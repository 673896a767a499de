"""Facts that activities of this process wait for: a fact delivered in time spares Temporal a signal.

The scheduler binds a seat, or a released Pod, milliseconds after the activity that asked for it, and the operator's own
watch sees the binding anyway. An activity that waits for that moment returns the node as its result; a signal would
cost a transaction and a workflow task more. Nothing depends on the wait: it is bounded, a fact that no activity takes
is signalled, and another operator delivers the same by signal. See docs/design/expectations.md.

Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Expected(Generic[T]):
    """One fact of one of the kinds, about one workflow, that an activity waits for."""

    def __init__(self, *kinds: type[T]) -> None:
        self._kinds = kinds
        self._outcome: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()

    async def wait(self, timeout_s: float) -> T | None:
        """Return the fact; None on timeout, or when another message for this workflow must be delivered first."""
        done, _ = await asyncio.wait([self._outcome], timeout=timeout_s)
        return self._outcome.result() if done else None

    def resolve(self, fact: object) -> bool:
        """End the wait, with the fact if it is of one of the kinds. Return whether the waiting activity takes it."""
        if self._outcome.done():
            return False
        if isinstance(fact, self._kinds):
            self._outcome.set_result(fact)
            return True
        self._outcome.set_result(None)
        return False


class Expectations:
    """The activities that wait for a fact, at most one for each workflow."""

    def __init__(self) -> None:
        self._expected: dict[str, Expected[Any]] = {}

    @contextmanager
    def expect(self, workflow_id: str, *kinds: type[T]) -> Iterator[Expected[T]]:
        """Enter before the API call: the watch event can arrive before the call returns."""
        expected = self._expected[workflow_id] = Expected(*kinds)
        try:
            yield expected
        finally:
            if self._expected.get(workflow_id) is expected:
                del self._expected[workflow_id]

    def is_expected(self, workflow_id: str) -> bool:
        """Whether an activity is inside `expect` for this workflow."""
        return workflow_id in self._expected

    def notify(self, workflow_id: str, fact: object = None) -> bool:
        """Offer a fact to the workflow's waiting activity; True if taken, so that no signal is needed.

        Any other fact ends the wait: Temporal handles no signal while the workflow task that runs the activity is open.
        """
        expected = self._expected.get(workflow_id)
        return expected is not None and expected.resolve(fact)
