"""Nodes whose disk rejected a `WarmPod`'s data, and the wait until one of those disks can take it.

The wait is one activity per node that the server retries: no timer loop, no history, no slot of the agent. Meanwhile
the Pod holds neither a seat nor a pin, so that Pods which wait for each other's data cannot block each other.
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
    from workflows import activity_calls

_MAX_PAUSE_S = 16.0
# A disk that fails under downloads may pass a short probe; each further try on it writes history.
_MAX_PAUSE_FAULTY_S = 3600.0
_FIRST_PAUSE_S = 0.25
_MAX_DOUBLINGS = 14
# Bounds one wait at an hour with the default policy of five minutes.
_MAX_WAITS = 12


class DiskRejections:
    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._count = 0
        self._faults: dict[str, int] = {}  # by node
        self.by_node: dict[str, ErrorInfo] = {}
        """Rejections since the last wait."""

    def add(self, node: str, error: ErrorInfo) -> None:
        self.by_node[node] = error
        self._count += 1
        if _is_fault(error):
            self._faults[node] = self._faults.get(node, 0) + 1

    async def wait(self, snapshots: Iterable[Snapshot], retry_requested: Callable[[], bool]) -> None:
        """Wait until a disk can take the data, the user asks for a retry, or it is time to try all nodes again.

        Backs off with jitter after repeated rejections: when space frees up, every waiting Pod sees it at once.
        """
        # Trying all nodes again writes some forty history events, so the waits grow and the history lasts for weeks.
        timeout = timedelta(seconds=self._policy.disk_wait_s * min(self._count, _MAX_WAITS))
        what = ", ".join(snapshot.uri for snapshot in snapshots)
        waits = {
            node: activity_calls.await_disk(
                node,
                AwaitDiskInput(what, error.needed_bytes, error.needed_inodes),
                self._policy,
                timeout=timeout,
            )
            for node, error in self.by_node.items()
        }
        faulty = {node for node, error in self.by_node.items() if _is_fault(error)}
        self.by_node = {}
        try:
            await workflow.wait_condition(lambda: retry_requested() or any(wait.done() for wait in waits.values()))
            if self._count > 1:
                await self._pause(waits, faulty, retry_requested)
        except asyncio.CancelledError:  # no `finally`: a workflow that is evicted from memory must not await
            await _cancel(waits.values())
            raise
        await _cancel(waits.values())

    async def _pause(
        self, waits: dict[str, ActivityHandle[None]], faulty: set[str], retry_requested: Callable[[], bool]
    ) -> None:
        done = {node for node, wait in waits.items() if wait.done()}
        sound = [wait for node, wait in waits.items() if node not in faulty]
        pause = workflow.random().uniform(0, self.max_pause_s(done, faulty))
        with contextlib.suppress(TimeoutError):
            # A long pause because of a faulty disk ends when another disk has space.
            await workflow.wait_condition(
                lambda: retry_requested() or (done <= faulty and any(wait.done() for wait in sound)),
                timeout=timedelta(seconds=pause),
            )

    def max_pause_s(self, done: set[str], faulty: set[str]) -> float:
        """Upper bound of the pause, seconds. done: nodes whose wait is over; faulty: nodes with a disk fault."""
        if done and done <= faulty:
            return min(_MAX_PAUSE_FAULTY_S, _doubled(min(self._faults[node] for node in done)))
        return min(_MAX_PAUSE_S, _doubled(self._count))


def _is_fault(error: ErrorInfo) -> bool:
    return error.type != "InsufficientDisk"


def _doubled(times: int) -> float:
    return _FIRST_PAUSE_S * 2.0 ** min(times, _MAX_DOUBLINGS)


async def _cancel(waits: Collection[ActivityHandle[None]]) -> None:
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
