"""Nodes whose disk refused a `WarmPod`, for lack of room or because it is ill, and the wait until one of them would take it.

The wait is one activity a node that the server retries: no timer loop, no history, no slot of the agent. Meanwhile the Pod
holds neither a seat nor a pin, so those that wait for each other's data cannot block each other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable
from datetime import timedelta

from temporalio import workflow
from temporalio.workflow import ActivityHandle

with workflow.unsafe.imports_passed_through():
    from kube_cache.contracts.common import ErrorInfo, Policy, Snapshot
    from kube_cache.contracts.node import AwaitDiskInput
    from workflows import activity_calls as calls

PATCH = "waits-for-disk"
"""Older histories left this to people."""
# Who was refused again and again waits longer before it looks: room for one is seen by all that wait for it.
_LONGEST_PAUSE_S = 16.0
# A disk that fails under downloads may look well to a short look; each try of it writes history.
_LONGEST_PAUSE_ILL_S = 3600.0
_MOST_DOUBLINGS = 14
# An hour, at the default of five minutes.
_MOST_WAITS = 12


class DiskRejected(Exception):
    """The node's disk has no room for the data, or is ill."""

    def __init__(self, error: ErrorInfo) -> None:
        super().__init__(error.message)
        self.error = error


class NoAlternativeNode(Exception):
    """None but those whose disk refused."""


class RetryRequested(Exception):
    """Somebody said `retry`, or changed what is asked for: resolve afresh."""


class DiskRejections:
    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._count = 0
        self._faults: dict[str, int] = {}
        self.by_node: dict[str, ErrorInfo] = {}
        """Since we last waited."""

    def add(self, node: str, error: ErrorInfo) -> None:
        self.by_node[node] = error
        self._count += 1
        if _is_fault(error):
            self._faults[node] = self._faults.get(node, 0) + 1

    async def wait(self, snapshots: Iterable[Snapshot], asked: Callable[[], bool]) -> None:
        """Until a disk would take it, it was asked for, or it is time to look at all nodes again."""
        # Looking at all nodes writes some forty events, which must last for weeks.
        longest = timedelta(seconds=self._policy.disk_wait_s * min(self._count, _MOST_WAITS))
        what = ", ".join(snapshot.uri for snapshot in snapshots)
        waits = {
            node: calls.await_disk(
                node,
                AwaitDiskInput(what, error.needed_bytes, error.needed_inodes),
                self._policy,
                longest=longest,
            )
            for node, error in self.by_node.items()
        }
        ill = {node for node, error in self.by_node.items() if _is_fault(error)}
        well = [wait for node, wait in waits.items() if node not in ill]
        self.by_node = {}
        with contextlib.suppress(TimeoutError):
            try:
                await workflow.wait_condition(lambda: asked() or any(wait.done() for wait in waits.values()))
                if self._count > 1:
                    woken = {node for node, wait in waits.items() if wait.done()}
                    pause = workflow.random().uniform(0, self.longest_pause(woken, ill))
                    # A long pause because of an ill disk ends when another disk has room.
                    await workflow.wait_condition(
                        lambda: asked() or (woken <= ill and any(wait.done() for wait in well)),
                        timeout=timedelta(seconds=pause),
                    )
            except asyncio.CancelledError:
                await _end(waits.values())
                raise
        await _end(waits.values())

    def longest_pause(self, woken: set[str], ill: set[str]) -> float:
        """Seconds. woken: nodes whose wait is over; ill: those that refused because their disk failed."""
        if woken and woken <= ill:
            return min(_LONGEST_PAUSE_ILL_S, _doubled(min(self._faults[node] for node in woken)))
        return min(_LONGEST_PAUSE_S, _doubled(self._count))


def _is_fault(error: ErrorInfo) -> bool:
    return error.type != "InsufficientDisk"


def _doubled(times: int) -> float:
    return 0.25 * 2.0 ** min(times, _MOST_DOUBLINGS)


async def _end(waits: Collection[ActivityHandle[None]]) -> None:
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
