"""A `WarmPod` and the data on its node: check, join, wait for the answer, or for a disk that takes it; and leave again.

Knows nodes and snapshots, not gates: whether the Pod may go is `warm_pod`'s to say. Whatever was touched is remembered, so
that `withdraw` takes back all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from kube_cache import names
    from kube_cache.contracts.common import Consumer, ErrorInfo, Phase, Snapshot
    from kube_cache.contracts.node import CheckDiskInput, CheckDiskResult, DatasetOnNodeInput, JoinInput
    from kube_cache.contracts.warm_pod import DatasetReady, PublishProgressInput, WarmPodInput
    from workflows import activity_calls as calls
    from workflows.failures import AGENT_LOST, error_info
    from workflows.warm_pod import disk_wait, options
    from workflows.warm_pod import messages as wording
    from workflows.warm_pod.disk_wait import DiskRejected, DiskRejections, RetryRequested
    from workflows.warm_pod.reporter import PodReports
    from workflows.warm_pod.seat import SeatMoved

_LOOK_AGAIN = timedelta(seconds=60)


class NodeLost(Exception):
    """The seat's node has no living agent."""


class SourceChanged(Exception):
    """Resolve afresh."""


class Failed(Exception):
    """A person must act."""

    def __init__(self, error: ErrorInfo) -> None:
        super().__init__(error.message)
        self.error = error


class PodData(PodReports):
    def __init__(self, inp: WarmPodInput) -> None:
        super().__init__(inp)
        self._hits: list[Snapshot] = []
        self._cache_id = ""
        self._refusals = DiskRejections(inp.policy)
        self._pinned_on: dict[tuple[str, str], list[Snapshot]] = {}  # (node, cache id): what we pinned there

    async def _check(self, node: str) -> CheckDiskResult:
        self._enter(Phase.CHECKING)
        self._node = node
        verify = self._view.verify == "full"
        try:
            async with self._report_if_slow() if verify else contextlib.nullcontext():
                checked = await calls.check_disk(
                    node,
                    CheckDiskInput(self._snapshots, self._inp.pod, verify),
                    self._inp.policy.check_schedule_to_start_s,
                )
        except FailureError as error:
            info = error_info(error, node=node)
            if info.type in (AGENT_LOST, "Timeout"):
                raise NodeLost from error
            if info.type == "DiskFault" and workflow.patched(disk_wait.PATCH):
                raise DiskRejected(info) from error
            raise
        self._cache_id = checked.cache_id
        self._pinned_on[node, checked.cache_id] = list(self._snapshots)
        return checked

    async def _fetch_missing(self, node: str, checked: CheckDiskResult) -> int:
        """Bytes that crossed the network for this Pod's datasets while it waited."""
        complete = {found.digest for found in checked.snapshots if found.complete}
        self._hits = [snapshot for snapshot in self._snapshots if snapshot.digest in complete]
        missing = [snapshot for snapshot in self._snapshots if snapshot.digest not in complete]
        if not missing:
            return 0
        self._enter(Phase.WARMING, save=True)
        self._outcomes.clear()
        await asyncio.gather(*(self._join(snapshot) for snapshot in missing))
        progress = calls.publish_progress(
            PublishProgressInput(
                self._inp.pod,
                [names.dataset_on_node_id(node, self._cache_id, snapshot.digest) for snapshot in missing],
                node,
                total_bytes=sum(snapshot.bytes for snapshot in self._snapshots),
                present_bytes=sum(snapshot.bytes for snapshot in self._hits),
            )
        )
        try:
            fetched = 0
            for snapshot in missing:
                fetched += await self._answer_for(snapshot)
            return fetched
        finally:
            # Not awaited on the way to a release: the activity itself never writes over a Pod that is no longer gated.
            progress.cancel()
            if self._stop or not self._all_ready(missing):
                await asyncio.gather(progress, return_exceptions=True)

    def _all_ready(self, snapshots: list[Snapshot]) -> bool:
        return all(isinstance(self._outcomes.get(snapshot.digest), DatasetReady) for snapshot in snapshots)

    async def _answer_for(self, snapshot: Snapshot) -> int:
        while True:
            try:
                await workflow.wait_condition(
                    lambda: snapshot.digest in self._outcomes or bool(self._seat.lost), timeout=_LOOK_AGAIN
                )
            except TimeoutError:
                # The entity may have been terminated, the seat may have been lost unseen: both calls are idempotent.
                await self._join(snapshot)
                await self._seat.resync()
                continue
            if self._seat.lost:
                raise SeatMoved(self._seat.lost)
            answer = self._outcomes[snapshot.digest]
            if isinstance(answer, DatasetReady):
                return answer.fetched_bytes
            if answer.error.type == AGENT_LOST:
                raise NodeLost
            if answer.error.type == "NodeUnsuitable":
                raise SeatMoved(answer.error.message)  # its disk was replaced
            if answer.error.type in ("InsufficientDisk", "PersistentDiskFault") and workflow.patched(disk_wait.PATCH):
                raise DiskRejected(answer.error)
            if answer.error.type == "SourceChanged":
                raise SourceChanged(answer.error.message)
            raise Failed(answer.error)

    async def _wait_for_disk(self) -> None:
        """Hold nothing, say why, and go on when that is over."""
        self._enter(Phase.WAITING_FOR_DISK, save=True)
        self._go = False
        refused = self._refusals.by_node
        self._message = wording.waits_for_disk(refused)
        await self._report(Phase.WAITING_FOR_DISK, self._message, event="WaitingForDisk", warning=True)
        try:
            await self._refusals.wait(self._snapshots, lambda: self._go)
        finally:
            self._seat.avoid_no_more(refused)
        if self._go:
            self._go = False
            raise RetryRequested

    async def _withdraw(self) -> None:
        await asyncio.gather(self._seat.give_up(), *(self._leave(place) for place in list(self._pinned_on)))

    async def _join(self, snapshot: Snapshot, *, hit: bool = False) -> None:
        await calls.join_dataset(self._join_input(self._node, self._cache_id, snapshot, hit=hit))

    async def _leave(self, place: tuple[str, str]) -> None:
        snapshots = self._pinned_on.pop(place, [])
        await asyncio.gather(
            *(calls.join_dataset(self._join_input(*place, snapshot, leave=True)) for snapshot in snapshots)
        )

    def _join_input(
        self, node: str, cache_id: str, snapshot: Snapshot, *, hit: bool = False, leave: bool = False
    ) -> JoinInput:
        interest = Consumer(workflow.info().workflow_id, self._inp.pod, options.priority(self._view), hit)
        return JoinInput(DatasetOnNodeInput(node, cache_id, snapshot, self._inp.policy), interest, leave)
