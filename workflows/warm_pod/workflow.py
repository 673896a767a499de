"""`WarmPod`: one workflow per gated Pod, from the first sight of it until it is bound to a node that holds its data.

The main path is `_warm`: resolve, wait for foreign gates, take a seat, check the disk, warm, release, bind. It runs as a
task of its own, so that a signal can stop it at any await: the Pod is gone, its owner cancels or pauses, its gate time is
over. Whatever stops it, interest is withdrawn and the seat is deleted; the gate is removed by `patch_gate` alone, and once
that has begun nothing but the Pod's end stops it.

Signals are hints, not truth: the reconcile sends `resync` and repeats them, so a lost one costs time and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from kube_cache import names
    from kube_cache.contracts.common import ErrorInfo, Phase, Snapshot
    from kube_cache.contracts.warm_pod import PatchGateInput, ResolveInput, WarmPodInput, WarmPodResult
    from kube_cache.errors import InvalidRequest
    from workflows import activity_calls as calls
    from workflows.failures import error_info
    from workflows.warm_pod import messages as wording
    from workflows.warm_pod import options
    from workflows.warm_pod.disk_wait import DiskRejected, NoAlternativeNode, RetryRequested
    from workflows.warm_pod.node_data import Failed, NodeLost, PodData, SourceChanged
    from workflows.warm_pod.requests import CANCEL, COLD, GONE, TIMEOUT, UNGATED
    from workflows.warm_pod.seat import SeatMoved

# A source that changes faster than it can be read is a person's problem; five tries is arbitrary, but says so in minutes.
_MOST_RERESOLVES = 5


@workflow.defn(name=names.WARM_POD)
class WarmPod(PodData):
    @workflow.init
    def __init__(self, inp: WarmPodInput) -> None:
        super().__init__(inp)

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
            except Failed as failure:
                self._error = failure.error
            if self._stop == TIMEOUT and self._view.on_timeout == "release":
                await self._release_cold()
            elif not self._has_ended():
                await self._await_operator()
            if self._has_ended():
                return await self._end()

    # The main path.

    async def _warm(self) -> WarmPodResult:
        if self._inp.policy.watch_wait_s:
            return await self._resolve_and_place()
        async with self._speaking():  # as older histories have it: a timer for every Pod, from the beginning
            return await self._resolve_and_place()

    async def _resolve_and_place(self) -> WarmPodResult:
        changes = 0
        while True:
            try:
                self._enter(Phase.RESOLVING)
                options.check(self._view)
                self._snapshots = await self._resolve()
                await self._wait_for_foreign_gates()
                return await self._place_and_release()
            except SourceChanged as changed:
                changes += 1
                if changes > _MOST_RERESOLVES:
                    break
                await self._withdraw()
                await self._report(
                    Phase.RESOLVING,
                    f"the source changed while it was fetched ({changed}); resolving it afresh",
                    event="SourceChanged",
                )
            except RetryRequested:
                continue
            except FailureError as error:
                raise Failed(error_info(error, node=self._node)) from error
            except InvalidRequest as error:
                raise Failed(ErrorInfo(type(error).__name__, error.message)) from error
        raise Failed(
            ErrorInfo(
                "SourceChanged",
                f"the source changed {_MOST_RERESOLVES + 1} times while it was fetched; retry when it is at rest",
            )
        )

    async def _resolve(self) -> list[Snapshot]:
        wanted = ResolveInput(self._inp.pod, self._view.dataset)
        resolved = await calls.resolve_quickly(wanted)
        if resolved is None:
            async with self._report_if_slow():
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
                node = await self._seat.take(self._snapshots, self._report_unschedulable, self._report_if_slow)
            except NoAlternativeNode:
                await self._seat.give_up()
                await self._wait_for_disk()
                continue
            try:
                started = workflow.now()
                checked = await self._check(node)
                fetched = await self._fetch_missing(node, checked)
                return await self._release(node, fetched, (workflow.now() - started).total_seconds())
            except NodeLost:
                self._seat.avoid(node, workflow.now() + timedelta(seconds=self._inp.policy.node_exclusion_s))
                event, message = "NodeLost", f"no living agent on node {node}; placing the Pod elsewhere"
            except DiskRejected as refused:
                self._refusals.add(node, refused.error)
                self._seat.avoid(node, workflow.now() + timedelta(seconds=self._inp.policy.node_exclusion_s))
                event = refused.error.type
                message = f"{event} on node {node}: {refused.error.message}; looking for another node"
            except SeatMoved as moved:
                event, message = "SeatLost", f"lost the seat on node {node} ({moved}); placing the Pod again"
            await self._report(Phase.PLACING, message, event=event, warning=True)
            await self._seat.give_up()
            await self._leave((node, self._cache_id))

    async def _release(self, node: str, fetched: int, seconds: float) -> WarmPodResult:
        if self._seat.lost:
            raise SeatMoved(self._seat.lost)
        self._enter(Phase.RELEASING)
        self._releasing = True
        digests = [snapshot.digest for snapshot in self._snapshots]
        watch_wait_s = self._inp.policy.watch_wait_s
        wanted = PatchGateInput(
            self._inp.pod,
            node,
            digests,
            cache_id=self._cache_id,
            seat=self._seat.deletion if watch_wait_s else None,
            wait_s=watch_wait_s,
        )
        try:
            patched = await calls.patch_gate(wanted)
        except FailureError as error:
            self._releasing = False
            info = error_info(error, node=node)
            if info.type == "ForeignGates":
                await self._seat.give_up()
            raise Failed(info) from error
        size = sum(snapshot.bytes for snapshot in self._snapshots)
        elsewhere = patched.outcome == "already" and patched.bound_node not in ("", node)
        gpus = self._seat.gpus
        if watch_wait_s:
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
            await calls.patch_gate(PatchGateInput(self._inp.pod, "", pin=False))
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

    async def _await_operator(self) -> None:
        stop, self._stop = self._stop, ""
        self._go = False
        if stop:
            self._error = None
        await self._withdraw()
        stopped = wording.stopped(stop, self._error, workflow.info().workflow_id)
        self._enter(stopped.phase, save=True)
        self._message = stopped.message
        await self._report(stopped.phase, stopped.message, event=stopped.event, warning=True)
        await self._wait_for_retry(timed_out=stop == TIMEOUT)
        if not self._has_ended():
            self._error = None
        self._go = False

    async def _wait_for_retry(self, *, timed_out: bool) -> None:
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
        self._gated_since = workflow.now()  # whoever says retry grants the Pod its gate time anew

    async def _report_unschedulable(self, message: str) -> None:
        if self._refusals.by_node:
            raise NoAlternativeNode(message)
        await self._report(Phase.PLACING, f"no node fits yet: {message}", event="NoNodeFits", warning=True)
