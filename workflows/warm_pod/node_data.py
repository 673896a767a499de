"""A Pod's snapshots on a node: check them, join their entities, await the outcomes, and leave again.

Knows nodes and snapshots, not gates: whether the Pod may go is decided in `main_path`. Every disk on which something
was pinned is remembered until `leave` or `leave_all` gives the pins back. Each placement has a number, the attempt:
what an earlier one leaves late removes no pin of a later one.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from kube_cache.contracts.common import Consumer, PodRef, Policy, Snapshot, Warming
    from kube_cache.contracts.node import CheckDiskInput, DatasetOnNodeInput, DiskSnapshot, JoinInput, UnpinInput
    from kube_cache.contracts.warm_pod import DatasetFailed, DatasetReady
    from kube_cache.contracts.warm_pod_state import DataState, Pins
    from workflows import cluster_calls, node_calls
    from workflows.failures import AGENT_LOST, error_info
    from workflows.warm_pod import options
    from workflows.warm_pod.calls import Calls
    from workflows.warm_pod.exceptions import (
        DiskRejected,
        NeedsOperator,
        NodeLost,
        SeatMoved,
        SourceChanged,
        WarmingHeld,
    )
    from workflows.warm_pod.patience import Patience
    from workflows.warm_pod.requests import Requests
    from workflows.warm_pod.seat import Seat
    from workflows.warm_pod.waiting import together, wait

# An entity may have been terminated, a seat lost without a signal: both are asked for again, ever more seldom, because
# each time writes history.
_FIRST_RESYNC_S = 60.0
_MAX_RESYNC_S = 300.0


class _Disk(NamedTuple):
    node: str
    cache_id: str


class NodeData:
    def __init__(
        self,
        pod: PodRef,
        policy: Policy,
        workflow_id: str,
        *,
        requests: Requests,
        calls: Calls,
        patience: Patience,
        seat: Seat,
        state: DataState,
    ) -> None:
        self._pod = pod
        self._policy = policy
        self._workflow_id = workflow_id
        self._requests = requests
        self._calls = calls
        self._patience = patience
        self._seat = seat
        self._state = state
        self._outcomes: dict[str, DatasetReady | DatasetFailed] = {}  # by digest
        self._disk = _Disk("", "")
        self._checked: list[DiskSnapshot] = []
        self._checked_at = -math.inf
        self._joined: set[str] = set()  # digests whose entity counts the Pod

    @property
    def snapshots(self) -> list[Snapshot]:
        return self._state.snapshots

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
    def missing(self) -> list[Snapshot]:
        """Snapshots that were not complete on the disk when it was checked."""
        complete = {snapshot.digest for snapshot in self._checked if snapshot.complete}
        return [snapshot for snapshot in self.snapshots if snapshot.digest not in complete]

    @property
    def warming(self) -> Warming:
        """What is missing, as the Pod's progress needs it."""
        missing = self.missing
        present = self.bytes - sum(snapshot.bytes for snapshot in missing)
        return Warming(*self._disk, [snapshot.digest for snapshot in missing], self.bytes, present)

    @property
    def unproven(self) -> list[Snapshot]:
        """Snapshots with an object whose content no checksum of the origin proves, as far as the check tells."""
        unproven = {
            snapshot.digest for snapshot in self._checked if snapshot.verified in ("", "transport-only", "peer-sampled")
        }
        return [snapshot for snapshot in self.snapshots if snapshot.digest in unproven]

    @property
    def has_pins(self) -> bool:
        return bool(self._state.pins)

    def begin_attempt(self) -> None:
        """Number a new placement."""
        now = workflow.now()
        self._state.attempt = max(self._state.attempt + 1, int(now.timestamp() * 1000))
        state = self._state
        state.warm_since, state.fetched_bytes, state.downloads, state.is_miss = 0, 0, 0, False
        state.neighbour_bytes = state.neighbours = 0

    def check_age_s(self) -> float:
        """Seconds since the last check of this placement; infinite when there was none, or it no longer holds."""
        return workflow.now().timestamp() - self._checked_at

    def forget_check(self) -> None:
        self._checked_at = -math.inf

    async def check(self, node: str) -> None:
        """Pin the snapshots on the node and learn which are complete.

        Raises NodeLost, DiskRejected, SeatMoved, FailureError.
        """
        state = self._state
        state.warm_since = state.warm_since or workflow.now().timestamp()
        if self._disk.node != node:
            self._joined.clear()
        self._disk, self._checked = _Disk(node, ""), []
        after_download = state.downloads > 0
        full = options.verifies_fully(self._requests.view) and not after_download
        arg = CheckDiskInput(self.snapshots, self._pod, full, state.attempt, self._requests.view.mounts_current)
        # An agent that restarts after a long download is worth some patience; a new node is quicker otherwise.
        policy = self._policy
        within_s = policy.stream_schedule_to_start_s if after_download else policy.check_schedule_to_start_s
        pins = self._pins_on(node)
        if pins is None:
            state.pins.append(pins := Pins(node, "", state.attempt, []))
        pinned = {snapshot.digest for snapshot in pins.snapshots}
        pins.snapshots += [snapshot for snapshot in self.snapshots if snapshot.digest not in pinned]
        try:
            with self._calls.uninterrupted() if full else self._calls.counted():
                checked = await node_calls.check_disk(node, arg, within_s)
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            info = error_info(error, node=node)
            if not pins.cache_id:  # nothing is known to be pinned; if something is, the reconcile finds it
                state.pins.remove(pins)
            if info.type in (AGENT_LOST, "Timeout"):
                raise NodeLost from error
            if info.type == "DiskFault":
                raise DiskRejected(info) from error
            if info.type == "StalePlacement":  # a clock that jumped, or a run that was reset: a new number is greater
                raise SeatMoved(info.message) from error
            raise
        self._disk, self._checked = _Disk(node, checked.cache_id), checked.snapshots
        self._checked_at = workflow.now().timestamp()
        pins.cache_id = checked.cache_id

    def _pins_on(self, node: str) -> Pins | None:
        """Of this placement."""
        found = [pins for pins in self._state.pins if (pins.node, pins.attempt) == (node, self._state.attempt)]
        return found[0] if found else None

    async def fetch_missing(self) -> int:
        """Join the entities of the missing snapshots and wait for all of them.

        Returns the bytes that were fetched meanwhile. Raises NodeLost, SeatMoved, DiskRejected,
        SourceChanged, NeedsOperator, WarmingHeld.
        """
        self._state.is_miss = True
        self._outcomes.clear()
        missing = self.missing
        await together(*(self._join(snapshot) for snapshot in missing))
        fetched = sum([await self._await_outcome(snapshot) for snapshot in missing])
        self._state.fetched_bytes += fetched
        self._state.downloads += 1
        self.forget_check()
        return fetched

    async def register_hits(self) -> None:
        """Tell the entities that do not count the Pod yet that it uses their snapshot; nothing is downloaded.

        The entity of a hit that the inventory knew need not be woken.
        """
        unknown = [
            snapshot
            for snapshot in self.snapshots
            if snapshot.digest not in self._joined and not self._seat.is_known_to_hold(snapshot)
        ]
        if self._disk.cache_id:
            await together(*(self._join(snapshot, hit=True) for snapshot in unknown))

    async def leave(self, node: str) -> None:
        """Give back what was pinned on the node."""
        await together(*(self._leave(pins) for pins in list(self._state.pins) if pins.node == node))

    async def leave_all(self, *, but: str = "") -> None:
        """Give back everything that was pinned on any disk, except on the node `but`."""
        await together(*(self._leave(pins) for pins in list(self._state.pins) if not but or pins.node != but))

    def return_to(self, node: str) -> bool:
        """The Pod was released to this node by a task that nobody remembers. Return whether it has a pin there."""
        for pins in self._state.pins:
            if pins.node == node:
                self._disk = _Disk(node, pins.cache_id)
                return True
        return False

    def on_ready(self, ready: DatasetReady) -> None:
        self._outcomes[ready.digest] = ready

    def on_failed(self, failed: DatasetFailed) -> None:
        self._outcomes[failed.digest] = failed

    async def _await_outcome(self, snapshot: Snapshot) -> int:
        resync_s = _FIRST_RESYNC_S

        def has_news() -> object:
            return snapshot.digest in self._outcomes or self._seat.lost or self._requests.held

        while not has_news():
            try:
                await wait(has_news, resync_s)
            except TimeoutError:
                resync_s = min(2 * resync_s, _MAX_RESYNC_S)
                await self._join(snapshot, again=True)
                if self._seat.stands:
                    await self._seat.look_again()
        self._seat.check_stands()
        if snapshot.digest not in self._outcomes:
            raise WarmingHeld
        outcome = self._outcomes[snapshot.digest]
        if isinstance(outcome, DatasetFailed):
            self._joined.discard(snapshot.digest)
            raise consequence(outcome)
        state = self._state
        state.neighbour_bytes += outcome.neighbour_bytes
        state.neighbours = max(state.neighbours, outcome.neighbours)
        state.banned += outcome.banned
        return outcome.fetched_bytes

    async def _join(self, snapshot: Snapshot, *, hit: bool = False, again: bool = False) -> None:
        arg = self._join_input(self._disk, snapshot, self._state.attempt)
        arg = replace(arg, consumer=replace(arg.consumer, hit=hit), again=again)
        await self._patience.until_done("join the dataset's workflow", cluster_calls.join_dataset, arg)
        self._joined.add(snapshot.digest)

    async def _leave(self, pins: Pins) -> None:
        if pins.cache_id:
            disk = _Disk(pins.node, pins.cache_id)
            leaves = [replace(self._join_input(disk, one, pins.attempt), leave=True) for one in pins.snapshots]
            await together(
                *(
                    self._patience.until_done("leave the dataset's workflow", cluster_calls.join_dataset, leave)
                    for leave in leaves
                )
            )
        else:
            await self._unpin(pins)
        self._state.pins.remove(pins)

    async def _unpin(self, pins: Pins) -> None:
        """The check that pinned was stopped before it told the identity of the disk, hence that of the entities."""
        digests = [snapshot.digest for snapshot in pins.snapshots]
        try:
            await node_calls.unpin(pins.node, UnpinInput(digests, self._pod, pins.attempt))
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            # The agent is gone; the pins that it made, if any, go with the Pod (reconcile).

    def _join_input(self, disk: _Disk, snapshot: Snapshot, attempt: int) -> JoinInput:
        view = self._requests.view
        consumer = Consumer(
            self._workflow_id,
            self._pod,
            options.priority(view),
            attempt=attempt,
            forbids_neighbours=options.forbids_neighbours(view),
        )
        return JoinInput(DatasetOnNodeInput(*disk, snapshot, self._policy), consumer)


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
