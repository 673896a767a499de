"""Nodes whose disk refused a `WarmPod`, for lack of room or because it is ill, and the wait until one of them would take it.

The wait is one activity a node that the server retries: no timer loop, no history, no slot of the agent. Meanwhile the Pod
holds neither a seat nor a pin, so those that wait for each other's data cannot block each other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from datetime import timedelta

from temporalio import workflow
from temporalio.workflow import ActivityHandle

with workflow.unsafe.imports_passed_through():
    from kube_cache import contracts
    from kube_cache.contracts import ErrorInfo, Policy, Snapshot
    from workflows import calls

PATCH = "waits-for-disk"
"""Older histories left this to people."""
# Who was refused again and again waits longer before it looks: room for one is seen by all that wait for it.
_LONGEST_PAUSE_S = 16.0
# An hour, at the default of five minutes.
_MOST_WAITS = 12


class DiskRefused(Exception):
    """The node's disk has no room for the data, or is ill."""

    def __init__(self, error: ErrorInfo) -> None:
        super().__init__(error.message)
        self.error = error


class NoOtherNode(Exception):
    """None but those whose disk refused."""


class AskedAgain(Exception):
    """Somebody said `retry`, or changed what is asked for: resolve afresh."""


class Refusals:
    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._count = 0
        self.by_node: dict[str, ErrorInfo] = {}
        """Since we last waited."""

    def add(self, node: str, error: ErrorInfo) -> None:
        self.by_node[node] = error
        self._count += 1

    async def wait(self, snapshots: Iterable[Snapshot], asked: Callable[[], bool]) -> None:
        """Until a disk would take it, it was asked for, or it is time to look at all nodes again."""
        # Looking at all nodes writes some forty events, which must last for weeks.
        longest = timedelta(seconds=self._policy.disk_wait_s * min(self._count, _MOST_WAITS))
        what = ", ".join(snapshot.uri for snapshot in snapshots)
        waits = [
            calls.await_disk(
                node,
                contracts.AwaitDiskInput(what, error.needed_bytes, error.needed_inodes),
                self._policy,
                longest=longest,
            )
            for node, error in self.by_node.items()
        ]
        self.by_node = {}
        with contextlib.suppress(TimeoutError):
            try:
                await workflow.wait_condition(lambda: asked() or any(wait.done() for wait in waits))
                if self._count > 1:
                    pause = workflow.random().uniform(0, min(_LONGEST_PAUSE_S, 0.25 * 2**self._count))
                    await workflow.wait_condition(asked, timeout=timedelta(seconds=pause))
            except asyncio.CancelledError:
                await _end(waits)
                raise
        await _end(waits)


async def _end(waits: list[ActivityHandle[None]]) -> None:
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
