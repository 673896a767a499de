"""`WarmPod`: one workflow per gated Pod, from the first sight of it until it is bound to a node that holds its data.

The main path is `_warm`: resolve, wait for foreign gates, take a seat, check the disk, warm, release, bind. It runs as a
task of its own, so that a signal can stop it at any await: the Pod is gone, its owner cancels or pauses, its gate time is
over. Whatever stops it, interest is withdrawn and the seat is deleted; the gate is removed by `patch_gate` alone, and once
that has begun nothing but the Pod's end stops it.

Signals are hints, not truth: the reconcile sends `look_again` and repeats them, so a lost one costs time and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from kube_cache import contracts, names
    from kube_cache.contracts import ErrorInfo, Phase, Snapshot, WarmPodInput, WarmPodResult, WarmPodStatus
    from kube_cache.errors import InvalidRequest
    from kube_cache.text import format_bytes
    from workflows import calls, disk_wait, options, wording
    from workflows.attributes import upsert
    from workflows.disk_wait import AskedAgain, DiskRefused, NoOtherNode, Refusals
    from workflows.failures import AGENT_LOST, error_info
    from workflows.pod_signals import CANCEL, COLD, GONE, TIMEOUT, UNGATED, PodSignals
    from workflows.seat import SeatMoved

# A source that changes faster than it can be read is a person's problem; five tries is arbitrary, but says so in minutes.
_MOST_RERESOLVES = 5
_LOOK_AGAIN = timedelta(seconds=60)


class _NodeLost(Exception):
    """The seat's node has no living agent."""


class _SourceChanged(Exception):
    """Resolve afresh."""


class _Failed(Exception):
    def __init__(self, error: ErrorInfo) -> None:
        super().__init__(error.message)
        self.error = error


@workflow.defn(name=names.WARM_POD)
class WarmPod(PodSignals):
    @workflow.init
    def __init__(self, inp: WarmPodInput) -> None:
        super().__init__(inp)
        self._inp = inp
        self._phase = Phase.RESOLVING
        self._message = ""
        self._snapshots: list[Snapshot] = []
        self._hits: list[Snapshot] = []
        self._node = ""
        self._cache_id = ""
        self._refusals = Refusals(inp.policy)
        self._touched: dict[tuple[str, str], list[Snapshot]] = {}  # (node, cache id): what we pinned there
        self._clock = workflow.now()  # the gate time runs from here

    @workflow.run
    async def run(self, _inp: WarmPodInput) -> WarmPodResult:
        self._act_on(self._view.action)
        while True:
            work = asyncio.create_task(self._warm())
            try:
                await workflow.wait_condition(lambda: work.done() or bool(self._stop), timeout=self._gate_time_left())
            except TimeoutError:
                self._request_stop(TIMEOUT)
            except asyncio.CancelledError:
                self._request_stop(CANCEL)  # the UI's cancel button means what our cancel means
            if self._releasing and self._stop != GONE:
                await workflow.wait_condition(lambda: work.done() or self._stop == GONE)
            if not work.done():
                work.cancel()
            try:
                return await work
            except asyncio.CancelledError:
                pass
            except _Failed as failure:
                self._error = failure.error
            if self._stop == TIMEOUT and self._view.on_timeout == "release":
                await self._release_cold()
            elif not self._has_ended():
                await self._wait_for_people()
            if self._has_ended():
                return await self._end()

    # The main path.

    async def _warm(self) -> WarmPodResult:
        if self._inp.policy.sight_s:
            return await self._resolve_and_place()
        async with self._speaking():  # as older histories have it: a timer for every Pod, from the beginning
            return await self._resolve_and_place()

    def _slowly(self) -> AbstractAsyncContextManager[None]:
        """Around what a hit does without."""
        return self._speaking() if self._inp.policy.sight_s else contextlib.nullcontext()

    @contextlib.asynccontextmanager
    async def _speaking(self) -> AsyncIterator[None]:
        speaker = asyncio.create_task(self._speak_when_slow())
        try:
            yield
        finally:
            speaker.cancel()

    async def _speak_when_slow(self) -> None:
        """A hit goes by in silence; whoever waits longer for a list, a seat or an agent is told for what."""
        await asyncio.sleep(self._inp.policy.speak_after_s)
        if (words := wording.WAITING.get(self._phase)) is not None:
            await self._report(self._phase, words.format(node=self._node, dataset=self._view.dataset))

    async def _resolve_and_place(self) -> WarmPodResult:
        changes = 0
        while True:
            try:
                self._enter(Phase.RESOLVING)
                options.check(self._view)
                self._snapshots = await self._resolve()
                await self._wait_for_foreign_gates()
                return await self._place_and_release()
            except _SourceChanged as changed:
                changes += 1
                if changes > _MOST_RERESOLVES:
                    break
                await self._withdraw()
                await self._report(
                    Phase.RESOLVING,
                    f"the source changed while it was fetched ({changed}); resolving it afresh",
                    event="SourceChanged",
                )
            except AskedAgain:
                continue
            except FailureError as error:
                raise _Failed(error_info(error, node=self._node)) from error
            except InvalidRequest as error:
                raise _Failed(ErrorInfo(type(error).__name__, error.message)) from error
        raise _Failed(
            ErrorInfo(
                "SourceChanged",
                f"the source changed {_MOST_RERESOLVES + 1} times while it was fetched; retry when it is at rest",
            )
        )

    async def _resolve(self) -> list[Snapshot]:
        wanted = contracts.ResolveInput(self._inp.pod, self._view.dataset)
        resolved = await calls.resolve_quickly(wanted)
        if resolved is None:
            async with self._slowly():
                resolved = await calls.resolve_dataset(wanted)
        return resolved.snapshots

    async def _wait_for_foreign_gates(self) -> None:
        while self._view.foreign_gates and self._view.gated:
            gates = list(self._view.foreign_gates)
            self._enter(Phase.WAITING_FOR_GATES, save=True)
            await self._report(
                Phase.WAITING_FOR_GATES,
                f"waiting for other controllers to remove their gates: {', '.join(gates)}",
                event="WaitingForGates",
            )
            await workflow.wait_condition(lambda: self._view.foreign_gates != gates or not self._view.gated)

    async def _place_and_release(self) -> WarmPodResult:
        while True:
            self._enter(Phase.PLACING)
            try:
                node = await self._seat.take(self._snapshots, self._report_unschedulable, self._slowly)
            except NoOtherNode:
                await self._seat.give_up()
                await self._wait_for_disk()
                continue
            try:
                started = workflow.now()
                checked = await self._check(node)
                fetched = await self._fetch_missing(node, checked)
                return await self._release(node, fetched, (workflow.now() - started).total_seconds())
            except _NodeLost:
                self._seat.avoid(node, workflow.now() + timedelta(seconds=self._inp.policy.node_exclusion_s))
                event, message = "NodeLost", f"no living agent on node {node}; placing the Pod elsewhere"
            except DiskRefused as refused:
                self._refusals.add(node, refused.error)
                self._seat.avoid(node, workflow.now() + timedelta(seconds=self._inp.policy.node_exclusion_s))
                event = refused.error.type
                message = f"{event} on node {node}: {refused.error.message}; looking for another node"
            except SeatMoved as moved:
                event, message = "SeatLost", f"lost the seat on node {node} ({moved}); placing the Pod again"
            await self._report(Phase.PLACING, message, event=event, warning=True)
            await self._seat.give_up()
            await self._leave((node, self._cache_id))

    async def _check(self, node: str) -> contracts.CheckDiskResult:
        self._enter(Phase.CHECKING)
        self._node = node
        verify = self._view.verify == "full"
        try:
            async with self._slowly() if verify else contextlib.nullcontext():
                checked = await calls.check_disk(
                    node,
                    contracts.CheckDiskInput(self._snapshots, self._inp.pod, verify),
                    self._inp.policy.check_schedule_to_start_s,
                )
        except FailureError as error:
            info = error_info(error, node=node)
            if info.type in (AGENT_LOST, "Timeout"):
                raise _NodeLost from error
            if info.type == "DiskFault" and workflow.patched(disk_wait.PATCH):
                raise DiskRefused(info) from error
            raise
        self._cache_id = checked.cache_id
        self._touched[node, checked.cache_id] = list(self._snapshots)
        return checked

    async def _fetch_missing(self, node: str, checked: contracts.CheckDiskResult) -> int:
        """Bytes that crossed the network for this Pod's datasets while it waited."""
        complete = {found.digest for found in checked.snapshots if found.complete}
        self._hits = [snapshot for snapshot in self._snapshots if snapshot.digest in complete]
        missing = [snapshot for snapshot in self._snapshots if snapshot.digest not in complete]
        if not missing:
            return 0
        self._enter(Phase.WARMING, save=True)
        self._answers.clear()
        await asyncio.gather(*(self._join(snapshot) for snapshot in missing))
        progress = calls.publish_progress(
            contracts.PublishProgressInput(
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
        return all(isinstance(self._answers.get(snapshot.digest), contracts.DatasetReady) for snapshot in snapshots)

    async def _answer_for(self, snapshot: Snapshot) -> int:
        while True:
            try:
                await workflow.wait_condition(
                    lambda: snapshot.digest in self._answers or bool(self._seat.lost), timeout=_LOOK_AGAIN
                )
            except TimeoutError:
                # The entity may have been terminated, the seat may have been lost unseen: both calls are idempotent.
                await self._join(snapshot)
                await self._seat.look_again()
                continue
            if self._seat.lost:
                raise SeatMoved(self._seat.lost)
            answer = self._answers[snapshot.digest]
            if isinstance(answer, contracts.DatasetReady):
                return answer.fetched_bytes
            if answer.error.type == AGENT_LOST:
                raise _NodeLost
            if answer.error.type == "NodeUnsuitable":
                raise SeatMoved(answer.error.message)  # its disk was replaced
            if answer.error.type == "InsufficientDisk" and workflow.patched(disk_wait.PATCH):
                raise DiskRefused(answer.error)
            if answer.error.type == "SourceChanged":
                raise _SourceChanged(answer.error.message)
            raise _Failed(answer.error)

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
            raise AskedAgain

    async def _release(self, node: str, fetched: int, seconds: float) -> WarmPodResult:
        if self._seat.lost:
            raise SeatMoved(self._seat.lost)
        self._enter(Phase.RELEASING)
        self._releasing = True
        digests = [snapshot.digest for snapshot in self._snapshots]
        sight_s = self._inp.policy.sight_s
        wanted = contracts.PatchGateInput(
            self._inp.pod,
            node,
            digests,
            cache_id=self._cache_id,
            seat=self._seat.deletion if sight_s else None,
            wait_s=sight_s,
        )
        try:
            patched = await calls.patch_gate(wanted)
        except FailureError as error:
            self._releasing = False
            info = error_info(error, node=node)
            if info.type == "ForeignGates":
                await self._seat.give_up()
            raise _Failed(info) from error
        size = sum(snapshot.bytes for snapshot in self._snapshots)
        elsewhere = patched.outcome == "already" and patched.bound_node not in ("", node)
        gpus = self._seat.gpus
        if sight_s:
            self._seat.on_deleted()
            self._bound_node = self._bound_node or patched.bound_node
        self._enter(Phase.BINDING)
        # A node that the inventory did not know to hold it: tell the entity. One that it knew needs no telling for a hit.
        unknown = [snapshot for snapshot in self._hits if not self._seat.is_known_to_hold(snapshot)]
        await asyncio.gather(
            self._seat.give_up(),
            self._report(
                Phase.DONE, wording.warmed(size, node, fetched, seconds), ready=not elsewhere, event="DatasetReady"
            ),
            *(self._join(snapshot, hit=True) for snapshot in unknown),
        )
        await self._wait_until_bound()
        if elsewhere or (self._bound_node and self._bound_node != node):
            await self._withdraw()
            return WarmPodResult("released_elsewhere", self._bound_node, seconds=self._age_s())
        self._enter(Phase.DONE, node=node, size=size, save=True)
        waited = self._age_s()
        return WarmPodResult(
            "released",
            node,
            size,
            fetched,
            hit=len(self._hits) == len(self._snapshots),
            seconds=waited,
            rate=fetched / max(seconds, 0.001),
            gpu_seconds_saved=gpus * waited,
        )

    async def _wait_until_bound(self) -> None:
        await workflow.wait_condition(lambda: bool(self._bound_node or self._unschedulable))
        grace = timedelta(seconds=self._inp.policy.bind_grace_s)
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(lambda: bool(self._bound_node), timeout=grace)
            return
        self._enter(Phase.BINDING, save=True)
        message = wording.not_scheduled(self._node, grace.total_seconds(), self._unschedulable)
        await self._report(Phase.BINDING, message, ready=True, event="NotScheduled", warning=True)
        await workflow.wait_condition(lambda: bool(self._bound_node))

    async def _release_cold(self) -> None:
        """`on-timeout: release`: the owner prefers a cold start to a longer wait."""
        self._stop = ""
        self._releasing = True
        try:
            await calls.patch_gate(contracts.PatchGateInput(self._inp.pod, "", pin=False))
        except FailureError as error:
            self._releasing = False
            self._error = error_info(error)
            return
        await self._report(
            Phase.BINDING,
            "gate time is over and on-timeout is release: the Pod starts without its data",
            event="ReleasedCold",
            warning=True,
        )
        # Not straight to the end: a completion that crosses with the watcher's signals is refused by the server, and the
        # local activities of that workflow task would run again.
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: bool(self._bound_node) or self._stop == GONE,
                timeout=timedelta(seconds=self._inp.policy.bind_grace_s),
            )
        self._request_stop(COLD)

    async def _end(self) -> WarmPodResult:
        await self._withdraw()
        if self._stop == COLD:
            self._enter(Phase.DONE, save=True)
            return WarmPodResult("released_cold", self._bound_node, seconds=self._age_s())
        if self._stop == UNGATED:
            await self._report(
                Phase.DONE,
                "another controller or a person removed the gate: the Pod starts without its data being checked",
                event="GateRemoved",
                warning=True,
            )
            self._enter(Phase.DONE, save=True)
            return WarmPodResult("released_elsewhere", seconds=self._age_s())
        self._enter(Phase.POD_GONE, save=True)
        return WarmPodResult("pod_gone", seconds=self._age_s())

    # When people must act.

    async def _wait_for_people(self) -> None:
        stop, self._stop = self._stop, ""
        self._go = False
        if stop:
            self._error = None
        await self._withdraw()
        stopped = wording.stopped(stop, self._error, workflow.info().workflow_id)
        self._enter(stopped.phase, save=True)
        self._message = stopped.message
        await self._report(stopped.phase, stopped.message, event=stopped.event, warning=True)
        await self._until_told(timed_out=stop == TIMEOUT)
        if not self._has_ended():
            self._error = None
        self._go = False

    async def _until_told(self, *, timed_out: bool) -> None:
        while True:
            try:
                await workflow.wait_condition(
                    lambda: self._go or self._has_ended(), timeout=None if timed_out else self._gate_time_left()
                )
                break
            except TimeoutError:
                timed_out = True
                if self._view.on_timeout == "release":
                    self._stop = TIMEOUT
                    return
            except asyncio.CancelledError:
                continue  # cancelled already
        if not self._has_ended():
            self._stop = ""
        self._clock = workflow.now()  # whoever says retry grants the Pod its gate time anew

    async def _withdraw(self) -> None:
        await asyncio.gather(self._seat.give_up(), *(self._leave(place) for place in list(self._touched)))

    async def _join(self, snapshot: Snapshot, *, hit: bool = False) -> None:
        await calls.join_dataset(self._join_input(self._node, self._cache_id, snapshot, hit=hit))

    async def _leave(self, place: tuple[str, str]) -> None:
        snapshots = self._touched.pop(place, [])
        await asyncio.gather(
            *(calls.join_dataset(self._join_input(*place, snapshot, leave=True)) for snapshot in snapshots)
        )

    def _join_input(
        self, node: str, cache_id: str, snapshot: Snapshot, *, hit: bool = False, leave: bool = False
    ) -> contracts.JoinInput:
        interest = contracts.Interest(workflow.info().workflow_id, self._inp.pod, options.priority(self._view), hit)
        return contracts.JoinInput(
            contracts.DatasetOnNodeInput(node, cache_id, snapshot, self._inp.policy), interest, leave
        )

    # What the Pod and the UI show.

    async def _report(
        self, phase: Phase, message: str, *, ready: bool = False, event: str = "", warning: bool = False
    ) -> None:
        await calls.report_phase(contracts.ReportInput(self._inp.pod, phase, message, ready, event, warning))

    async def _report_unschedulable(self, message: str) -> None:
        if self._refusals.by_node:
            raise NoOtherNode(message)
        await self._report(Phase.PLACING, f"no node fits yet: {message}", event="NoNodeFits", warning=True)

    def _enter(self, phase: Phase, *, node: str | None = None, size: int | None = None, save: bool = False) -> None:
        """`save` writes the search attribute: a history event, so only for phases that may last."""
        self._phase = phase
        self._message = ""
        lines = [f"**{phase}** {self._inp.pod.namespace}/{self._inp.pod.name}"]
        lines += [
            f"- `{s.uri}`: {s.files} files, {format_bytes(s.bytes)}, snapshot `{s.digest[:12]}`"
            for s in self._snapshots
        ]
        if self._node:
            lines.append(f"- node `{self._node}`")
        if self._error is not None:
            lines.append(f"- **{self._error.type}**: {self._error.message}")
        workflow.set_current_details("\n".join(lines))
        if save:
            upsert(phase=phase, node=node or (self._node or None), size=size)

    def _age_s(self) -> float:
        return (workflow.now() - workflow.info().workflow_start_time).total_seconds()

    def _gate_time_left(self) -> timedelta | None:
        limit = options.gate_time_s(self._view, self._inp.policy)
        if limit is None:
            return None
        return timedelta(seconds=max(0.001, limit - (workflow.now() - self._clock).total_seconds()))

    @workflow.query(description="Phase, node, datasets and last error.")
    def status(self) -> WarmPodStatus:
        return WarmPodStatus(
            self._phase,
            self._message,
            self._node,
            [s.uri for s in self._snapshots],
            [s.digest for s in self._snapshots],
            self._error,
        )
