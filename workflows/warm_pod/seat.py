"""The seat of a `WarmPod`: a placeholder Pod that makes the scheduler choose, and hold, the node that is warmed.

State and decisions only; `create_seat` and `delete_seat` do the work. A seat that is lost is taken again under the next
number, so that a late signal about the old one is recognised.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from datetime import datetime

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from kube_cache import names
    from kube_cache.contracts.common import PodRef, Snapshot
    from kube_cache.contracts.warm_pod import CreateSeatInput, DeleteSeatInput, SeatBound, SeatLost, SeatUnschedulable
    from workflows import activity_calls as calls


class SeatMoved(Exception):
    """The seat no longer stands where we warm; str() says why."""


class Seat:
    def __init__(self, pod: PodRef, workflow_id: str, namespace: str, watch_wait_s: float) -> None:
        self._pod = pod
        self._watch_wait_s = watch_wait_s
        self._workflow_id = workflow_id
        self._namespace = namespace
        self._number = 0
        self._created = False
        self._snapshots: list[Snapshot] = []
        self._avoided: dict[str, datetime] = {}
        self._unschedulable = ""
        self._look = False
        self._holders: dict[str, list[str]] = {}
        self.node = ""
        self.lost = ""
        """Why the seat is gone; empty while it stands."""
        self.gpus = 0

    async def take(
        self,
        snapshots: list[Snapshot],
        tell: Callable[[str], Awaitable[None]],
        slowly: Callable[[], AbstractAsyncContextManager[None]],
    ) -> str:
        """The node where the seat is bound. Waits as long as no node fits, and tells why when the scheduler does."""
        self._snapshots = snapshots
        self._number += 1
        self.node, self.lost, self._unschedulable = "", "", ""
        told = ""
        while True:
            self._look = False
            await self.resync(wait_s=self._watch_wait_s)
            if not self.node:
                async with slowly():
                    told = await self._wait_for_scheduler(told, tell)
            if self.node:
                return self.node
            if self.lost:
                self._number += 1
                self.lost = ""

    async def _wait_for_scheduler(self, told: str, tell: Callable[[str], Awaitable[None]]) -> str:
        while not (self.node or self.lost or self._look):
            await workflow.wait_condition(
                lambda: bool(self.node or self.lost or self._look or self._unschedulable != told)
            )
            if self._unschedulable != told and not self.node:
                told = self._unschedulable
                await tell(told)
        return told

    async def resync(self, *, wait_s: float = 0) -> None:
        """Create the seat if it does not stand (idempotent), and learn where it is bound, or is within `wait_s` seconds."""
        self._created = True
        made = await calls.create_seat(
            CreateSeatInput(
                self._pod, self._workflow_id, self._number, self._namespace, self._snapshots, self._avoid_now(), wait_s
            )
        )
        self.gpus = made.gpus
        self._holders = made.holders
        if self.node and made.node != self.node:
            self.lost = "it was removed"
        elif made.node:
            self.node = made.node

    def is_known_to_hold(self, snapshot: Snapshot) -> bool:
        """Whether the inventory, when the seat was made, had an entity for this snapshot on the seat's node."""
        return self.node in self._holders.get(snapshot.digest, [])

    def avoid(self, node: str, until: datetime) -> None:
        self._avoided[node] = until

    def avoid_no_more(self, nodes: Iterable[str]) -> None:
        for node in nodes:
            self._avoided.pop(node, None)

    def _avoid_now(self) -> list[str]:
        now = workflow.now()
        return sorted(node for node, until in self._avoided.items() if until > now)

    async def give_up(self) -> None:
        if self._created:
            self._created = False
            await calls.delete_seat(self.deletion)

    @property
    def deletion(self) -> DeleteSeatInput:
        return DeleteSeatInput(self._namespace, self._name())

    def on_deleted(self) -> None:
        """Whoever released the Pod has deleted it."""
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
        self._look = True

    def on_unschedulable(self, why: SeatUnschedulable) -> None:
        if why.seat == self._name():
            self._unschedulable = why.message
