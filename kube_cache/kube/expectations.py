"""What the operator's watches see, for the activities of the same process: a word in time spares a signal.

The scheduler binds a seat, or a released Pod, milliseconds after the activity that asked for it. An activity that waits
that moment returns the node as its result; a signal would cost Temporal a transaction and a whole workflow task more. Nobody
depends on it: what no activity waits for is signalled, and an activity waits for a bounded time only.

Belongs to one event loop; only `gated_pod` may be called from any thread. It keeps no truth: another operator's watch, or
one that starts anew, tells the same by signal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Expected(Generic[T]):
    """Somebody waits for a fact of one kind about one workflow."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._told: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()

    async def wait(self, seconds: float) -> T | None:
        """None when it did not come in time, or when something else is to be said first."""
        done, _ = await asyncio.wait([self._told], timeout=seconds)
        return self._told.result() if done else None

    def take(self, fact: object) -> bool:
        """True when that was what is waited for, and nobody took it before."""
        if self._told.done():
            return False
        if isinstance(fact, self._kind):
            self._told.set_result(fact)
            return True
        self._told.set_result(None)
        return False


class Expectations:
    def __init__(self) -> None:
        self._expected: dict[str, Expected[Any]] = {}
        self._gated: dict[str, dict[str, Any]] = {}

    # For the watcher.

    def tell(self, workflow_id: str, fact: object = None) -> bool:
        """True when an activity took it: no signal is needed. Anything but what it waits for ends its wait, so that the
        workflow task in which it runs ends, too, and the signal comes through.
        """
        expected = self._expected.get(workflow_id)
        return expected is not None and expected.take(fact)

    def is_expected(self, workflow_id: str) -> bool:
        return workflow_id in self._expected

    def show(self, uid: str, pod: dict[str, Any] | None) -> None:
        """A gated Pod as the watch has it; None when it is gated no more."""
        if pod is None:
            self._gated.pop(uid, None)
        else:
            self._gated[uid] = pod

    # For the activities.

    def gated_pod(self, uid: str) -> dict[str, Any] | None:
        """As stale as a watch may be: for reads that a resource version or a later signal corrects."""
        return self._gated.get(uid)

    @contextmanager
    def expect(self, workflow_id: str, kind: type[T]) -> Iterator[Expected[T]]:
        """Begin before the deed whose effect is waited for: the watch may be quicker than the deed's answer."""
        expected = self._expected[workflow_id] = Expected(kind)
        try:
            yield expected
        finally:
            if self._expected.get(workflow_id) is expected:
                del self._expected[workflow_id]
