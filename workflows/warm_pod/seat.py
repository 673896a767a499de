"""The seat of a `WarmPod`: a placeholder Pod that makes the scheduler choose a node, and hold it while it is warmed.

State and decisions only; `create_seat` and `delete_seat` do the work. A seat that is lost is taken again under the next
number, so that a late signal about the old one is recognised.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from kube_cache import names
    from kube_cache.contracts.common import PodRef, Policy, Snapshot
    from kube_cache.contracts.warm_pod import CreateSeatInput, DeleteSeatInput, SeatBound, SeatLost, SeatUnschedulable
    from workflows import activity_calls
    from workflows.warm_pod.exceptions import SeatMoved


class Seat:
    def __init__(self, pod: PodRef, policy: Policy, workflow_id: str) -> None:
        self._pod = pod
        self._workflow_id = workflow_id
        self._namespace = policy.operator_namespace
        self._wait_s = policy.watch_wait_s
        self._exclusion = timedelta(seconds=policy.node_exclusion_s)
        self._number = 0
        self._created = False
        self._snapshots: list[Snapshot] = []
        self._avoided: dict[str, datetime] = {}  # node -> end of its exclusion
        self._unschedulable = ""
        self._resync_requested = False
        self._holders: dict[str, list[str]] = {}  # digest -> nodes
        self.node = ""
        self.lost = ""
        """Why the seat is gone; empty while it stands."""
        self.gpus = 0

    async def take(
        self,
        snapshots: list[Snapshot],
        report: Callable[[str], Awaitable[None]],
        report_if_slow: Callable[[], AbstractAsyncContextManager[None]],
    ) -> str:
        """Create a seat and return the node that it is bound to. Waits as long as no node fits.

        report: called with the scheduler's message each time that changes. report_if_slow: context of the wait.
        """
        self._snapshots = snapshots
        self._number += 1
        self.node, self.lost, self._unschedulable = "", "", ""
        reported = ""
        while True:
            self._resync_requested = False
            await self.resync(wait_s=self._wait_s)
            if not self.node:
                async with report_if_slow():
                    reported = await self._wait_for_scheduler(reported, report)
            if self.node:
                return self.node
            if self.lost:
                self._number += 1
                self.lost = ""

    async def _wait_for_scheduler(self, reported: str, report: Callable[[str], Awaitable[None]]) -> str:
        while not (self.node or self.lost or self._resync_requested):
            await workflow.wait_condition(
                lambda: bool(self.node or self.lost or self._resync_requested or self._unschedulable != reported)
            )
            if self._unschedulable != reported and not self.node:
                reported = self._unschedulable
                await report(reported)
        return reported

    async def resync(self, *, wait_s: float = 0) -> None:
        """Create the seat if it does not stand (idempotent); learn the node that binds it within `wait_s` seconds."""
        self._created = True
        seat = await activity_calls.create_seat(
            CreateSeatInput(
                self._pod, self._workflow_id, self._number, self._namespace, self._snapshots, self._excluded(), wait_s
            )
        )
        self.gpus = seat.gpus
        self._holders = seat.holders
        if self.node and seat.node != self.node:
            self.lost = "it was removed"
        elif seat.node:
            self.node = seat.node

    def check_stands(self) -> None:
        """Raises SeatMoved."""
        if self.lost:
            raise SeatMoved(self.lost)

    def is_known_to_hold(self, snapshot: Snapshot) -> bool:
        """Whether the inventory, when the seat was made, had an entity for this snapshot on the seat's node."""
        return self.node in self._holders.get(snapshot.digest, [])

    def avoid(self, node: str) -> None:
        """Exclude the node from placement for the policy's time."""
        self._avoided[node] = workflow.now() + self._exclusion

    def avoid_no_more(self, nodes: Iterable[str]) -> None:
        for node in nodes:
            self._avoided.pop(node, None)

    def _excluded(self) -> list[str]:
        now = workflow.now()
        return sorted(node for node, until in self._avoided.items() if until > now)

    async def give_up(self) -> None:
        """Delete the seat if one was created."""
        if self._created:
            self._created = False
            await activity_calls.delete_seat(self.deletion)

    @property
    def deletion(self) -> DeleteSeatInput:
        return DeleteSeatInput(self._namespace, self._name())

    def on_deleted(self) -> None:
        """The release of the Pod has deleted the seat."""
        self._created = False

    def _name(self) -> str:
        return names.seat_name(self._pod.uid, self._number)

    def on_bound(self, bound: SeatBound) -> None:
        if bound.seat == self._name():
            self.node = bound.node

    def on_lost(self, lost: SeatLost) -> None:
        if lost.seat == self._name() and self._created:
            self.lost = lost.reason or "it was removed"

    def on_resync(self) -> None:
        self._resync_requested = True

    def on_unschedulable(self, unschedulable: SeatUnschedulable) -> None:
        if unschedulable.seat == self._name():
            self._unschedulable = unschedulable.message
