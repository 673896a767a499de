"""The seat of a `WarmPod`: a placeholder Pod that makes the scheduler choose a node, and hold it while it is warmed.

State and decisions only; `create_seat` and `delete_seat` do the work. A seat that is lost is taken again under the next
number, so that a late signal about the old one is recognised. Losses back off, and a node that lost two is avoided.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from kube_cache import names
    from kube_cache.contracts.common import ErrorInfo, PodRef, Policy, Snapshot
    from kube_cache.contracts.warm_pod import (
        CreateSeatInput,
        DeleteSeatInput,
        Reach,
        SeatBound,
        SeatLost,
        SeatUnschedulable,
    )
    from kube_cache.contracts.warm_pod_state import SeatState
    from workflows import cluster_calls
    from workflows.failures import error_info
    from workflows.warm_pod import messages
    from workflows.warm_pod.exceptions import SeatMoved
    from workflows.warm_pod.patience import Patience
    from workflows.warm_pod.requests import Requests
    from workflows.warm_pod.waiting import wait

# Classes of `kube_cache.errors`, and reasons of Events.
NODE_UNFIT, PLACEMENT_RACED, SEAT_OUTDATED = "NodeUnfit", "PlacementRaced", "SeatOutdated"
_LOSSES_BEFORE_EXCLUSION = 2
_MAX_LOSS_PAUSE_S = 300.0
_MAX_DOUBLINGS = 9
# Seconds between looks at peers that leave the Pod no node. Each look costs two or three lists of its group.
_PEERS_LOOK_S = 60.0
# Seconds between looks whether a node that the seat keeps away from was deleted: an autoscaler may wait for that.
_NAMED_LOOK_S = 60.0


class Seat:
    def __init__(
        self, pod: PodRef, policy: Policy, workflow_id: str, requests: Requests, patience: Patience, state: SeatState
    ) -> None:
        self._pod = pod
        self._workflow_id = workflow_id
        self._namespace = policy.operator_namespace
        self._wait_s = policy.watch_wait_s
        self._exclusion_s = policy.node_exclusion_s
        self._requests = requests
        self._patience = patience
        self._state = state
        self._snapshots: list[Snapshot] = []
        self._new_node_s = policy.new_node_s
        self._node_created_at = 0.0
        self._names_gone_node = False

    @property
    def node(self) -> str:
        return self._state.node

    @property
    def lost(self) -> str:
        """Why the seat is gone; empty while it stands."""
        return self._state.lost

    @property
    def gpus(self) -> int:
        return self._state.gpus

    @property
    def stands(self) -> bool:
        """Whether a seat was created and not given up; it may have been lost."""
        return self._state.created

    @property
    def is_first(self) -> bool:
        return self._state.number == 0

    async def take(
        self,
        snapshots: list[Snapshot],
        report: Callable[[str], Awaitable[None]],
        report_if_slow: Callable[[], AbstractAsyncContextManager[None]],
    ) -> str:
        """Create a seat, or go on with the one that stands; return its node. Waits as long as no node fits.

        report: called with the scheduler's message each time that it may have changed. report_if_slow: context of the
        wait. Raises SeatMoved, FailureError.
        """
        state = self._state
        self._snapshots = snapshots
        if not state.created:
            self._begin()
        wait_s = self._wait_s
        while True:
            self._requests.resync_requested = False
            await self.look_again(wait_s=wait_s)
            wait_s = 0  # only the scheduler's first answer comes in milliseconds
            if not (state.node or state.lost or self._names_gone_node):
                async with report_if_slow():
                    await self._wait_for_scheduler(report)
            self.check_stands()
            if state.node and state.depends_on_peers and not state.judged:  # it was bound while nobody asked
                continue
            if state.node:
                state.taken_at = state.taken_at or _now()
                return state.node
            if self._is_to_reach_further:
                await self.give_up()
                self._begin(Reach.NEAR)
                wait_s = self._wait_s
            elif self._has_served_exclusion() or self._names_gone_node:
                await self.give_up()
                self._begin()

    def _begin(self, reach: Reach = Reach.HOLDERS) -> None:
        state = self._state
        state.number += 1
        state.reach = reach
        state.node, state.lost, state.unschedulable, state.held, state.taken_at = "", "", "", [], 0
        state.requirements, state.recalled, state.lost_as = "", False, ""
        state.depends_on_peers, state.judged, state.peers = False, False, ""
        state.avoided = {node: until for node, until in state.avoided.items() if until > _now()}
        state.excluded, state.named, self._names_gone_node = sorted(state.avoided), [], False

    async def _wait_for_scheduler(self, report: Callable[[str], Awaitable[None]]) -> None:
        """Until the seat is bound or lost, a resync asks for a look, or a node that was excluded may be tried again."""
        state, requests = self._state, self._requests
        while not (state.node or state.lost or requests.resync_requested or self._is_to_reach_further):
            heard = self._unschedulable
            if heard:
                await report(heard)
            try:
                await wait(
                    lambda: state.node or state.lost or requests.resync_requested or self._unschedulable != heard,
                    self._look_in_s(),
                )
            except TimeoutError:
                return

    @property
    def _unschedulable(self) -> str:
        """Why no node takes the seat, in the scheduler's words and in ours about the Pod's peers."""
        return "; ".join(words for words in (self._state.unschedulable, self._state.peers) if words)

    def _look_in_s(self) -> float | None:
        """Seconds to the end of the first exclusion, or until the Pod's peers may have moved; None: nothing changes."""
        ends = [self._state.avoided.get(node, 0) - _now() for node in self._state.excluded]
        if self._state.depends_on_peers:
            ends.append(_PEERS_LOOK_S * workflow.random().uniform(0.75, 1.25))
        if self._state.named:
            ends.append(_NAMED_LOOK_S)
        return max(0.001, min(ends)) if ends else None

    @property
    def _is_to_reach_further(self) -> bool:
        """Whether the nodes that hold the data have no room: no reason yet to tell the Pod, or to wait."""
        return self._state.reach == Reach.HOLDERS and bool(self._unschedulable)

    def _has_served_exclusion(self) -> bool:
        """Whether a node that this seat keeps away from may be tried again."""
        return any(self._state.avoided.get(node, 0) <= _now() for node in self._state.excluded)

    async def look_again(self, *, wait_s: float = 0) -> None:
        """Create the seat if it does not stand (idempotent); learn the node that binds it within `wait_s` seconds."""
        state = self._state
        state.created = True
        prefer = [state.preferred] if state.preferred else []
        required = self._requests.view.requirements
        arg = CreateSeatInput(
            self._pod,
            self._workflow_id,
            state.number,
            self._namespace,
            self._snapshots,
            state.excluded,
            wait_s,
            prefer,
            requirements=required,
            is_judged=state.judged,
            reach=state.reach,
        )
        try:
            seat = await self._patience.until_done("take a seat", cluster_calls.create_seat, arg)
        except FailureError as error:
            if not self.heed(error_info(error)):
                raise
            return
        state.gpus, state.requirements, state.unreserved = seat.gpus, seat.requirements, seat.unreserved
        state.depends_on_peers = seat.depends_on_peers
        state.judged = seat.depends_on_peers and bool(seat.node)
        state.peers = seat.peers
        state.reach = seat.reach or Reach.NEAR
        self._names_gone_node = not set(state.named).issubset(seat.avoids)
        state.named = seat.avoids
        self._node_created_at = seat.node_created_at
        if seat.unschedulable:
            state.unschedulable = seat.unschedulable
        if self._requests.view.requirements != required:  # the news came while the seat was being made
            self.on_requirements(self._requests.view.requirements)
        if state.node and seat.node != state.node:
            state.lost = "it was removed"
        elif seat.node:
            state.node, state.held = seat.node, seat.held
        if seat.unfit and not state.lost:
            state.lost, state.lost_as = seat.unfit, NODE_UNFIT
        if seat.lower_priority and not state.told_lower:
            state.told_lower = True
            message = messages.seat_less_important(seat.lower_priority, self._namespace)
            await self._patience.tell(message, "SeatLessImportant")

    def heed(self, error: ErrorInfo) -> bool:
        """Count the seat as lost if the error says so; return whether it does. `check_stands` raises then."""
        if error.type == SEAT_OUTDATED:
            self.recall(error.message, SEAT_OUTDATED)
        elif error.type in (NODE_UNFIT, PLACEMENT_RACED):
            self._state.lost, self._state.lost_as = error.message, error.type
        return bool(self._state.lost)

    def check_stands(self) -> None:
        """Raises SeatMoved."""
        if self._state.lost:
            raise SeatMoved(self._state.lost, self._state.lost_as)

    @property
    def is_on_new_node(self) -> bool:
        """Whether the node's agent may still be on its way. Known after `look_again`."""
        return _now() < self._node_created_at + self._new_node_s

    def is_known_to_hold(self, snapshot: Snapshot) -> bool:
        """Whether the inventory, when the seat was bound, had an entity for this snapshot on the seat's node."""
        return snapshot.digest in self._state.held

    def avoid(self, node: str) -> None:
        """Exclude the node from placement for the policy's time."""
        self._state.avoided[node] = _now() + self._exclusion_s

    @property
    def avoided(self) -> dict[str, float]:
        """Nodes of the cluster that the present seat keeps away from -> the end of that, seconds since the epoch."""
        return {node: self._state.avoided[node] for node in self._state.named if node in self._state.avoided}

    def avoid_no_more(self, nodes: Iterable[str]) -> None:
        for node in nodes:
            self._state.avoided.pop(node, None)

    def note_loss(self) -> float:
        """Count a lost seat. Returns the seconds to wait before the next one: the first may be taken at once.

        The node of the first loss is preferred: it holds what was fetched, and what pushed the seat out may be over.
        So is an unfit one, which the scheduler leaves alone for as long as it is unfit. A node that loses seats again
        and again is avoided, but not one where another Pod was quicker.
        """
        state = self._state
        if state.recalled:
            state.preferred = state.node or state.preferred
            return 0
        if state.taken_at and _now() - state.taken_at > self._exclusion_s:
            state.losses = {}
        state.losses[state.node] = state.losses.get(state.node, 0) + 1
        losses = sum(state.losses.values())
        state.preferred = state.node if losses == 1 or state.lost_as == NODE_UNFIT else ""
        is_blamed = state.node and state.lost_as != PLACEMENT_RACED
        if is_blamed and state.losses[state.node] >= _LOSSES_BEFORE_EXCLUSION:
            self.avoid(state.node)
        if losses == 1:
            return 0
        return min(_MAX_LOSS_PAUSE_S, 2.0 ** min(losses - 1, _MAX_DOUBLINGS)) * workflow.random().uniform(0.75, 1.25)

    async def give_up(self) -> None:
        """Delete the seat if one was created."""
        if self._state.created:
            await self._patience.until_done("give the seat back", cluster_calls.delete_seat, self.deletion)
            self.on_deleted()

    @property
    def deletion(self) -> DeleteSeatInput:
        return DeleteSeatInput(self._namespace, self._name(), self._pod)

    def on_deleted(self) -> None:
        """The seat is gone by our own doing."""
        self._state.created = False
        self._state.lost = self._state.lost_as = ""

    def _name(self) -> str:
        return names.seat_name(self._pod.uid, self._state.number)

    def on_bound(self, bound: SeatBound) -> None:
        if bound.seat == self._name() and self._state.created:
            self._state.node = bound.node

    def on_lost(self, lost: SeatLost) -> None:
        if lost.seat == self._name() and self._state.created:
            self._state.lost = lost.reason or "it was removed"
            self._state.lost_as = NODE_UNFIT if lost.unfit else ""

    def on_requirements(self, required: str) -> None:
        """The watcher shows what the Pod requires of its node now."""
        if required and self._state.requirements not in ("", required):
            self.recall("the Pod requires something else of its node now", SEAT_OUTDATED)

    def recall(self, why: str, event: str) -> None:
        """Have the main path give the seat up, without blame for its node. event: reason of the Event."""
        if self._state.created and not self._state.lost:
            self._state.lost, self._state.lost_as, self._state.recalled = why, event, True

    @property
    def unreserved(self) -> list[str]:
        """What the Pod needs and the seat cannot stand for, in words: with it the Pod only prefers the node."""
        return self._state.unreserved

    @property
    def requirements(self) -> str:
        """What the Pod required of its node when the seat was made."""
        return self._state.requirements

    def on_unschedulable(self, unschedulable: SeatUnschedulable) -> None:
        if unschedulable.seat == self._name():
            self._state.unschedulable = unschedulable.message


def _now() -> float:
    return workflow.now().timestamp()
