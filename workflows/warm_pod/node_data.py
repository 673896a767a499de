"""A Pod's snapshots on a node: check them, join their entities, await the outcomes, and leave again.

Knows nodes and snapshots, not gates: whether the Pod may go is decided in `workflow`. Every disk on which something was
pinned is remembered until `leave` or `leave_all` gives the pins back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from typing import NamedTuple

from temporalio import workflow
from temporalio.exceptions import FailureError
from temporalio.workflow import ActivityHandle

with workflow.unsafe.imports_passed_through():
    from kube_cache import names
    from kube_cache.contracts.common import Consumer, PodRef, Policy, Snapshot
    from kube_cache.contracts.node import CheckDiskInput, DatasetOnNodeInput, JoinInput
    from kube_cache.contracts.warm_pod import DatasetFailed, DatasetReady, PublishProgressInput
    from workflows import activity_calls
    from workflows.failures import AGENT_LOST, error_info
    from workflows.warm_pod import options
    from workflows.warm_pod.exceptions import DiskRejected, NeedsOperator, NodeLost, SeatMoved, SourceChanged
    from workflows.warm_pod.requests import Requests
    from workflows.warm_pod.seat import Seat

# An entity may have been terminated, a seat lost without a signal: both are asked for again this often.
_RESYNC = timedelta(seconds=60)


class _Disk(NamedTuple):
    node: str
    cache_id: str


class NodeData:
    def __init__(self, pod: PodRef, policy: Policy, workflow_id: str, requests: Requests, seat: Seat) -> None:
        self._pod = pod
        self._policy = policy
        self._workflow_id = workflow_id
        self._requests = requests
        self._seat = seat
        self._outcomes: dict[str, DatasetReady | DatasetFailed] = {}  # by digest
        self._pinned_on: dict[_Disk, list[Snapshot]] = {}
        self._disk = _Disk("", "")
        self._complete: frozenset[str] = frozenset()  # digests
        self.snapshots: list[Snapshot] = []

    @property
    def node(self) -> str:
        """Node that was checked last; empty before."""
        return self._disk.node

    @property
    def cache_id(self) -> str:
        return self._disk.cache_id

    @property
    def digests(self) -> list[str]:
        return [snapshot.digest for snapshot in self.snapshots]

    @property
    def bytes(self) -> int:
        return sum(snapshot.bytes for snapshot in self.snapshots)

    @property
    def hits(self) -> list[Snapshot]:
        """Snapshots that were complete on the disk when it was checked."""
        return [snapshot for snapshot in self.snapshots if snapshot.digest in self._complete]

    @property
    def missing(self) -> list[Snapshot]:
        return [snapshot for snapshot in self.snapshots if snapshot.digest not in self._complete]

    async def check(self, node: str) -> None:
        """Pin the snapshots on the node and learn which are complete. Raises NodeLost, DiskRejected, FailureError."""
        self._disk = _Disk(node, "")
        self._complete = frozenset()
        arg = CheckDiskInput(self.snapshots, self._pod, options.verifies_fully(self._requests.view))
        try:
            checked = await activity_calls.check_disk(node, arg, self._policy.check_schedule_to_start_s)
        except FailureError as error:
            info = error_info(error, node=node)
            if info.type in (AGENT_LOST, "Timeout"):
                raise NodeLost from error
            if info.type == "DiskFault":
                raise DiskRejected(info) from error
            raise
        self._disk = _Disk(node, checked.cache_id)
        self._pinned_on[self._disk] = list(self.snapshots)
        self._complete = frozenset(snapshot.digest for snapshot in checked.snapshots if snapshot.complete)

    async def fetch_missing(self) -> int:
        """Join the entities of the missing snapshots and wait for all of them.

        Returns the bytes that were read from the origin meanwhile. Raises NodeLost, SeatMoved, DiskRejected,
        SourceChanged, NeedsOperator.
        """
        missing = self.missing
        self._outcomes.clear()
        await asyncio.gather(*(self._join(snapshot) for snapshot in missing))
        progress = activity_calls.publish_progress(
            PublishProgressInput(
                self._pod,
                [names.dataset_on_node_id(*self._disk, snapshot.digest) for snapshot in missing],
                self.node,
                total_bytes=self.bytes,
                present_bytes=sum(snapshot.bytes for snapshot in self.hits),
            )
        )
        try:
            fetched = sum([await self._await_outcome(snapshot) for snapshot in missing])
        except (Exception, asyncio.CancelledError):  # no `finally`: a workflow evicted from memory must not await
            await _end(progress)
            raise
        if self._requests.stop:
            await _end(progress)
        else:
            # Not awaited on the way to a release: the activity itself never writes over a Pod that is no longer gated.
            progress.cancel()
        return fetched

    async def register_hits(self, snapshots: Iterable[Snapshot]) -> None:
        """Tell the entities of these snapshots that the Pod uses them; nothing is downloaded."""
        await asyncio.gather(*(self._join(snapshot, hit=True) for snapshot in snapshots))

    async def leave(self) -> None:
        """Give back what was pinned on the disk that was checked last."""
        await self._leave(self._disk)

    async def leave_all(self) -> None:
        """Give back everything that was pinned on any disk."""
        await asyncio.gather(*(self._leave(disk) for disk in list(self._pinned_on)))

    def on_ready(self, ready: DatasetReady) -> None:
        self._outcomes[ready.digest] = ready

    def on_failed(self, failed: DatasetFailed) -> None:
        self._outcomes[failed.digest] = failed

    async def _await_outcome(self, snapshot: Snapshot) -> int:
        while not (snapshot.digest in self._outcomes or self._seat.lost):
            try:
                await workflow.wait_condition(
                    lambda: snapshot.digest in self._outcomes or bool(self._seat.lost), timeout=_RESYNC
                )
            except TimeoutError:
                await self._join(snapshot)
                await self._seat.resync()
        if self._seat.lost:
            raise SeatMoved(self._seat.lost)
        outcome = self._outcomes[snapshot.digest]
        if isinstance(outcome, DatasetFailed):
            raise consequence(outcome)
        return outcome.fetched_bytes

    async def _join(self, snapshot: Snapshot, *, hit: bool = False) -> None:
        await activity_calls.join_dataset(self._join_input(self._disk, snapshot, hit=hit))

    async def _leave(self, disk: _Disk) -> None:
        snapshots = self._pinned_on.pop(disk, [])
        await asyncio.gather(
            *(activity_calls.join_dataset(self._join_input(disk, snapshot, leave=True)) for snapshot in snapshots)
        )

    def _join_input(self, disk: _Disk, snapshot: Snapshot, *, hit: bool = False, leave: bool = False) -> JoinInput:
        consumer = Consumer(self._workflow_id, self._pod, options.priority(self._requests.view), hit)
        return JoinInput(DatasetOnNodeInput(*disk, snapshot, self._policy), consumer, leave)


async def _end(activity: ActivityHandle[None]) -> None:
    activity.cancel()
    await asyncio.gather(activity, return_exceptions=True)


def consequence(failed: DatasetFailed) -> Exception:
    """What a failed download means to the Pod."""
    error = failed.error
    if error.type == AGENT_LOST:
        return NodeLost()
    if error.type == "NodeUnsuitable":  # the node's disk was replaced
        return SeatMoved(error.message)
    if error.type in ("InsufficientDisk", "PersistentDiskFault"):
        return DiskRejected(error)
    if error.type == "SourceChanged":
        return SourceChanged(error.message)
    return NeedsOperator(error)
