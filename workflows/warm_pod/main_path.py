"""The main path of a `WarmPod`: resolve, wait for foreign gates, take a seat, check the disk, warm, release, bind.

It runs as a task that `life` cancels when a request stops it, or when the workflow continues as new, and it may begin
anew at any time: each step looks at the state first. What it holds, a seat and pins, is given back by `withdraw`.
"""

from __future__ import annotations

import contextlib

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from kube_cache.contracts.common import ErrorInfo, Phase
    from kube_cache.contracts.warm_pod import PatchGateInput, WarmPodInput, WarmPodResult
    from kube_cache.contracts.warm_pod_state import ReleaseState, WarmPodState
    from kube_cache.errors import InvalidRequest, UnsafeMount
    from workflows.failures import error_info, is_final
    from workflows.warm_pod import messages, options
    from workflows.warm_pod.binding import Binding
    from workflows.warm_pod.disk_wait import DiskRejections
    from workflows.warm_pod.exceptions import (
        DiskRejected,
        GateIsGone,
        NeedsOperator,
        NoAlternativeNode,
        NodeLost,
        RetryRequested,
        SeatMoved,
        SourceChanged,
    )
    from workflows.warm_pod.group import GAVE_BACK
    from workflows.warm_pod.parts import Parts
    from workflows.warm_pod.waiting import Pauses, together, wait

# A source that changes faster than it can be read is for a person to mend; six is arbitrary, and is reached in minutes.
_MAX_RESOLVES = 6
# A snapshot that is damaged as often as it is fetched is left for another disk; three is arbitrary.
_MAX_FETCHES = 3
# Nodes that may turn the Pod away at once, one after another; with more of them there is no hurry.
_MAX_QUICK_LEAVES = 5
# First and longest pause before a release that waits for peers to be released, which takes them milliseconds or hours.
_PEERS_PAUSES_S = (1.0, 15.0)


class MainPath:
    def __init__(self, inp: WarmPodInput, parts: Parts, state: WarmPodState) -> None:
        self._inp = inp
        self._parts = parts
        self._policy = inp.policy
        self._requests = parts.requests
        self._seat = parts.seat
        self._data = parts.data
        self._source = parts.source
        self._reporter = parts.reporter
        self._release = parts.release
        self._patience = parts.patience
        self._calls = parts.calls
        self._group = parts.group
        self._binding = Binding(inp, parts, state)
        self._state = state
        self._rejections = DiskRejections(inp.policy, state.rejections)
        self._gate_pauses = Pauses()
        self._leaves, self._leave_pauses = 0, Pauses(1.0, 60.0)

    async def run(self) -> WarmPodResult:
        """Warm and release the Pod. Raises NeedsOperator, GateIsGone, ContinueNow, and CancelledError if cancelled."""
        data = self._state.data
        while True:
            if self._state.release.node:
                return await self._binding.run()
            try:
                return await self._resolve_and_place()
            except RetryRequested:
                data.snapshots = []
            except SourceChanged as changed:
                data.source_changes += 1
                await self.withdraw()
                data.snapshots = []
                if data.source_changes >= _MAX_RESOLVES:
                    times, data.source_changes = data.source_changes, 0
                    message = messages.source_keeps_changing(times)
                    raise NeedsOperator(ErrorInfo("SourceChanged", message)) from changed
                message = messages.source_changed(str(changed))
                await self._reporter.report(Phase.RESOLVING, message, event="SourceChanged")
            except FailureError as error:
                info = error_info(error, node=self._seat.node)
                if info.type != "ForeignGates":
                    raise NeedsOperator(info) from error
                await self.see_foreign_gates(info)
            except (InvalidRequest, UnsafeMount) as error:
                raise NeedsOperator(ErrorInfo(type(error).__name__, error.message)) from error

    async def see_foreign_gates(self, error: ErrorInfo) -> None:
        """The API server knows of gates that we did not: hold nothing, learn them, and wait for their owners."""
        await self.withdraw()
        self._requests.on_pod_changed((await self._patience.look_at_gated()).view)
        if not self._requests.view.foreign_gates:  # gone meanwhile
            await self._reporter.report(Phase.WAITING_FOR_GATES, error.message, noisy=True)
            await self._patience.pause(self._gate_pauses.next_s())

    async def _resolve_and_place(self) -> WarmPodResult:
        options.check(self._requests.view)
        if not self._data.snapshots:
            self._reporter.set_phase(Phase.RESOLVING)
            await self._source.resolve()
        await self.wait_for_foreign_gates()
        if self._rejections.are_waited_for:
            await self._wait_for_disk()
        while True:
            try:
                node = await self._place()
            except NoAlternativeNode:
                await self._seat.give_up()
                await self._wait_for_disk()
                continue
            except SeatMoved as moved:
                node, lost = self._seat.node, moved
            else:
                try:
                    return await self._warm_and_release(node)
                except NodeLost:
                    await self._leave_node(node, "NodeLost", messages.node_lost(node))
                    continue
                except DiskRejected as rejected:
                    self._rejections.add(node, rejected.error)
                    message = messages.disk_rejected(node, rejected.error)
                    await self._leave_node(node, rejected.error.type, message)
                    continue
                except SeatMoved as moved:
                    lost = moved
            await self._leave_lost_seat(node, lost)

    async def _leave_lost_seat(self, node: str, lost: SeatMoved) -> None:
        await self._patience.look_at_gated()
        await self._group.step_back()
        pause_s = self._seat.note_loss()
        # In a group that rests it is the group's words that are shown until the end of the rest.
        phase = Phase.WAITING_FOR_GROUP if lost.event == GAVE_BACK else Phase.PLACING
        message = messages.seat_left(node, str(lost), lost.event)
        await self._reporter.report(phase, message, event=lost.event or "SeatLost", warning=True)
        await self._seat.give_up()
        await self._data.leave(node)
        if pause_s:
            await self._patience.pause(pause_s)

    async def _leave_node(self, node: str, event: str, message: str) -> None:
        await self._patience.look_at_gated()
        await self._group.step_back()
        self._seat.avoid(node)
        await self._reporter.report(Phase.PLACING, message, event=event, warning=True)
        await self._seat.give_up()
        await self._data.leave(node)
        self._leaves += 1
        if self._leaves > _MAX_QUICK_LEAVES:
            await self._patience.pause(self._leave_pauses.next_s())

    # Wait for the gates of others.

    async def wait_for_foreign_gates(self) -> None:
        requests = self._requests
        while requests.view.foreign_gates and requests.view.gated:
            gates = list(requests.view.foreign_gates)
            self._reporter.set_phase(Phase.WAITING_FOR_GATES, save=True)
            message = messages.waiting_for_gates(gates)
            await self._reporter.report(Phase.WAITING_FOR_GATES, message, event="WaitingForGates")
            await wait(
                lambda: requests.view.foreign_gates != gates or not requests.view.gated or requests.resync_requested
            )
            if requests.take_resync():
                requests.on_pod_changed((await self._patience.look_at_gated()).view)

    # Take a seat.

    async def _place(self) -> str:
        self._reporter.set_phase(Phase.PLACING)
        if not self._seat.stands:
            if not self._seat.is_first:
                await self._patience.look_at_gated()
            await self._group.await_turn()
            self._data.begin_attempt()
        return await self._seat.take(self._data.snapshots, self._report_unschedulable, self._reporter.report_if_slow)

    async def _report_unschedulable(self, scheduler: str) -> None:
        if self._rejections.by_node:
            raise NoAlternativeNode(scheduler)
        message = messages.no_node_fits(scheduler, self._seat.avoided)
        phase = Phase.WAITING_FOR_CAPACITY
        self._reporter.set_phase(phase, message, save=True)
        await self._reporter.report(phase, message, event="NoNodeFits", warning=True, noisy=True)

    async def _wait_for_disk(self) -> None:
        """Hold neither seat nor pin until a disk that rejected the data can take it. Raises RetryRequested."""
        self._rejections.begin_wait()
        self._requests.take_retry()
        rejections = self._rejections.by_node
        message = messages.waiting_for_disk(rejections)
        self._reporter.set_phase(Phase.WAITING_FOR_DISK, message, save=True)
        await self._reporter.report(Phase.WAITING_FOR_DISK, message, event="WaitingForDisk", warning=True)
        await self._rejections.wait(self._data.snapshots, lambda: self._requests.retry_requested)
        self.end_disk_wait()
        if self._requests.take_retry():
            raise RetryRequested

    def end_disk_wait(self) -> None:
        """Try every node again. A wait that a person stopped is over, too: what is asked for next may fit."""
        self._seat.avoid_no_more(self._rejections.by_node)
        self._rejections.end_wait()

    # Check, warm, release.

    async def _warm_and_release(self, node: str) -> WarmPodResult:
        await self._source.refresh(node)
        pauses, peers_pauses = Pauses(), Pauses(*_PEERS_PAUSES_S)
        self._data.forget_check()
        while True:
            self._seat.check_stands()
            if self._data.check_age_s() > self._policy.fresh_check_s:
                await self._check(node)
            if self._data.missing:
                await self._group.note_seated()
                await self._fetch(node)
                continue
            self._refuse_unproven()
            self._seat.check_stands()
            if not await self._group.may_go():
                await self._follow_group(node)
                continue
            try:
                return await self._release_warm(node)
            except FailureError as error:
                self._seat.heed(error_info(error))
                self._seat.check_stands()
                if is_final(error):
                    raise
                await self._patience.tell_and_pause(
                    "remove the gate",
                    error,
                    peers_pauses if error_info(error).type == "PeersFirst" else pauses,
                    until=lambda: self._seat.lost,
                )

    async def _follow_group(self, node: str) -> None:
        """Resolve again if another Pod of the group has a newer snapshot, whatever becomes of the digest."""
        if self._group.take_resolve():
            self._state.data.resolved_at = 0
            await self._source.refresh(node)
            self._data.forget_check()

    async def _check(self, node: str) -> None:
        self._reporter.set_phase(Phase.CHECKING)
        # A quick check is over in no time; a full one reads every byte.
        slow = options.verifies_fully(self._requests.view)
        while True:
            try:
                async with self._reporter.report_if_slow() if slow else contextlib.nullcontext():
                    await self._data.check(node)
            except NodeLost:
                await self._seat.look_again()  # the node may be gone with its agent
                self._seat.check_stands()
                if not self._seat.is_on_new_node:
                    raise
                message = messages.awaiting_agent(node, self._policy.new_node_s)
                await self._reporter.report(Phase.CHECKING, message, event="AwaitingAgent")
            else:
                return

    async def _fetch(self, node: str) -> None:
        uris = ", ".join(snapshot.uri for snapshot in self._data.missing)
        downloads = self._state.data.downloads
        if downloads == _MAX_FETCHES:
            raise DiskRejected(ErrorInfo("SnapshotLost", messages.never_complete(uris, downloads)))
        self._reporter.set_phase(Phase.WARMING, save=True)
        if downloads:
            message = messages.incomplete(node, uris)
            await self._reporter.report(Phase.WARMING, message, event="SnapshotLost", warning=True)
        warming = self._data.warming
        # At once: an API server that is away must not keep the download waiting. The leading operator writes the
        # progress from here on, until the next report (docs/design/progress.md).
        await together(
            self._data.fetch_missing(),
            self._reporter.report(Phase.WARMING, messages.fetching(warming), event="Warming", warming=warming),
        )
        await self._reporter.tell_banned()

    def _refuse_unproven(self) -> None:
        unproven = self._data.unproven
        if unproven and options.requires_checksum(self._requests.view, self._policy):
            uris = ", ".join(snapshot.uri for snapshot in unproven)
            raise NeedsOperator(ErrorInfo("ChecksumRequired", messages.checksum_required(uris)))

    async def _release_warm(self, node: str) -> WarmPodResult:
        self._reporter.set_phase(Phase.RELEASING)
        data = self._data
        # A hit that nothing was said of: what is to be said goes along, and needs no write, and no Event, of its own.
        released = self._released_to(node)
        say = self._binding.ready_words(released) if self._reporter.is_silent else ""
        if say:
            self._reporter.note_told(say)
        try:
            patched = await self._release.patch(
                PatchGateInput(
                    self._inp.pod,
                    node,
                    data.digests,
                    cache_id=data.cache_id,
                    seat=self._seat.deletion,
                    wait_s=self._policy.watch_wait_s,
                    requirements=self._seat.requirements,
                    prefer=bool(self._seat.unreserved),
                    say=say,
                    bytes=released.bytes,
                    fetched_bytes=released.fetched_bytes,
                    fetch_s=0 if released.hit else released.seconds,
                    hit=released.hit,
                )
            )
        except GateIsGone:
            self._reporter.forget_told()
            raise
        if say and not patched.said:
            self._reporter.forget_told()
        self._seat.on_deleted()
        self._release.note_released(self._released_to(node))
        return await self._binding.run()

    def _released_to(self, node: str) -> ReleaseState:
        placement = self._state.data
        return ReleaseState(
            node,
            self._data.bytes,
            placement.fetched_bytes,
            seconds=_now() - placement.warm_since,
            waited_s=_now() - self._state.started_at,
            hit=not placement.is_miss,
            neighbour_bytes=placement.neighbour_bytes,
            neighbours=placement.neighbours,
        )

    async def withdraw(self) -> None:
        """Give back everything that is held for the Pod: its seat and its pins. Raises GateIsGone, ContinueNow."""
        if self._seat.stands or self._data.has_pins or self._group.is_joined:
            await self._patience.look_at_gated()
            await self._parts.give_back()


def _now() -> float:
    return workflow.now().timestamp()
