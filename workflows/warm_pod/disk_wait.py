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
    from kube_cache.contracts.warm_pod_state import RejectionState
    from workflows import node_calls
    from workflows.warm_pod.waiting import wait

_MAX_PAUSE_S = 16.0
# A disk that fails under downloads may pass a short probe; each further try on it writes history.
_MAX_PAUSE_FAULTY_S = 3600.0
_FIRST_PAUSE_S = 0.25
_MAX_DOUBLINGS = 14
# Bounds one wait at an hour with the default policy of five minutes.
_MAX_WAITS = 12


class DiskRejections:
    def __init__(self, policy: Policy, state: RejectionState) -> None:
        self._policy = policy
        self._state = state

    @property
    def by_node(self) -> dict[str, ErrorInfo]:
        """Rejections since the last wait."""
        return self._state.by_node

    @property
    def are_waited_for(self) -> bool:
        """Whether a wait has begun and is not over."""
        return self._state.is_waiting

    def add(self, node: str, error: ErrorInfo) -> None:
        state = self._state
        state.by_node[node] = error
        state.count += 1
        if _is_fault(error):
            state.faults[node] = state.faults.get(node, 0) + 1

    def begin_wait(self) -> None:
        self._state.is_waiting = True

    def end_wait(self) -> None:
        self._state.is_waiting = False
        self._state.by_node = {}

    async def wait(self, snapshots: Iterable[Snapshot], retry_requested: Callable[[], bool]) -> None:
        """Wait until a disk can take the data, the user asks for a retry, or it is time to try all nodes again.

        Backs off with jitter after repeated rejections: when space frees up, every waiting Pod sees it at once.
        """
        # Trying all nodes again writes some forty history events, so the waits grow and the history lasts for weeks.
        timeout = timedelta(seconds=self._policy.disk_wait_s * min(self._state.count, _MAX_WAITS))
        what = ", ".join(snapshot.uri for snapshot in snapshots)
        waits = {
            node: node_calls.await_disk(
                node,
                AwaitDiskInput(what, error.needed_bytes, error.needed_inodes),
                self._policy,
                timeout=timeout,
            )
            for node, error in self.by_node.items()
        }
        faulty = {node for node, error in self.by_node.items() if _is_fault(error)}
        try:
            await wait(lambda: retry_requested() or any(handle.done() for handle in waits.values()))
            if self._state.count > 1:
                await self._pause(waits, faulty, retry_requested)
        except asyncio.CancelledError:  # no `finally`: a workflow that is evicted from memory must not await
            await _cancel(waits.values())
            raise
        await _cancel(waits.values())

    async def _pause(
        self, waits: dict[str, ActivityHandle[None]], faulty: set[str], retry_requested: Callable[[], bool]
    ) -> None:
        done = {node for node, handle in waits.items() if handle.done()}
        sound = [handle for node, handle in waits.items() if node not in faulty]
        pause = workflow.random().uniform(0, self.max_pause_s(done, faulty))
        with contextlib.suppress(TimeoutError):
            # A long pause because of a faulty disk ends when another disk has space.
            await wait(lambda: retry_requested() or (done <= faulty and any(handle.done() for handle in sound)), pause)

    def max_pause_s(self, done: set[str], faulty: set[str]) -> float:
        """Upper bound of the pause, seconds. done: nodes whose wait is over; faulty: nodes with a disk fault."""
        if done and done <= faulty:
            return min(_MAX_PAUSE_FAULTY_S, _doubled(min(self._state.faults[node] for node in done)))
        return min(_MAX_PAUSE_S, _doubled(self._state.count))


def _is_fault(error: ErrorInfo) -> bool:
    return error.type != "InsufficientDisk"


def _doubled(times: int) -> float:
    return _FIRST_PAUSE_S * 2.0 ** min(times, _MAX_DOUBLINGS)


async def _cancel(waits: Collection[ActivityHandle[None]]) -> None:
    for handle in waits:
        handle.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
