"""`WarmPod`: one workflow per gated Pod, from the first sight of it until it is bound to a node that holds its data.

The main path is `_warm`: resolve, wait for foreign gates, take a seat, check the disk, warm, release, bind. It runs as
a task of its own, so that a signal can stop it at any await: the Pod is gone, its owner cancels or pauses, its gate
time is over. Whatever stops it, the Pod leaves the entities that it joined and the seat is deleted. The gate is removed
by `patch_gate` alone, and once that has begun, nothing but the Pod's end stops it.

The workflow owns its parts and each part owns its state. A signal is a hint, not the truth: the reconcile sends
`resync` and repeats the others, so a lost signal costs time and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from kube_cache import names
    from kube_cache.contracts.common import ErrorInfo, Phase, PodView
    from kube_cache.contracts.warm_pod import (
        DatasetFailed,
        DatasetReady,
        PatchGateInput,
        PodBound,
        PodUnschedulable,
        ResolveInput,
        SeatBound,
        SeatLost,
        SeatUnschedulable,
        WarmPodInput,
        WarmPodResult,
        WarmPodStatus,
    )
    from kube_cache.errors import InvalidRequest
    from workflows import activity_calls
    from workflows.failures import error_info
    from workflows.warm_pod import messages, options
    from workflows.warm_pod.disk_wait import DiskRejections
    from workflows.warm_pod.exceptions import (
        DiskRejected,
        NeedsOperator,
        NoAlternativeNode,
        NodeLost,
        RetryRequested,
        SeatMoved,
        SourceChanged,
    )
    from workflows.warm_pod.node_data import NodeData
    from workflows.warm_pod.release import Release
    from workflows.warm_pod.reporter import Reporter
    from workflows.warm_pod.requests import Requests, Stop
    from workflows.warm_pod.seat import Seat

# A source that changes faster than it can be read is for a person to mend; five is arbitrary, and is reached within
# minutes.
_MAX_RESOLVES = 6


@workflow.defn(name=names.WARM_POD)
class WarmPod:
    @workflow.init
    def __init__(self, inp: WarmPodInput) -> None:
        workflow_id = workflow.info().workflow_id
        self._inp = inp
        self._requests = Requests(inp.view, inp.policy, workflow.now())
        self._seat = Seat(inp.pod, inp.policy, workflow_id)
        self._data = NodeData(inp.pod, inp.policy, workflow_id, self._requests, self._seat)
        self._reporter = Reporter(inp.pod, inp.policy, self._requests, self._data)
        self._release = Release(inp.policy, self._requests, self._reporter)
        self._rejections = DiskRejections(inp.policy)

    @workflow.run
    async def run(self, _inp: WarmPodInput) -> WarmPodResult:
        requests = self._requests
        requests.act_on(requests.view.action)
        while True:
            try:
                return await self._warm_until_stopped()
            except asyncio.CancelledError:
                pass  # `requests.stop` tells why
            except NeedsOperator as stopped:
                self._note_error(stopped.error)
            if requests.stop == Stop.TIMEOUT and options.releases_on_timeout(requests.view):
                await self._release_cold()
            elif not requests.have_ended:
                await self._await_operator()
            if requests.have_ended:
                return await self._end()

    async def _warm_until_stopped(self) -> WarmPodResult:
        """Run the main path. Raises CancelledError when a request stopped it, NeedsOperator when an error did."""
        requests = self._requests
        work = asyncio.create_task(self._warm())
        try:
            await workflow.wait_condition(
                lambda: work.done() or requests.stop is not None, timeout=requests.gate_time_left(workflow.now())
            )
        except TimeoutError:
            requests.request_stop(Stop.TIMEOUT)
        except asyncio.CancelledError:
            requests.request_stop(Stop.CANCEL)  # the UI's cancel button means what our signal `cancel` means
        if requests.releasing and requests.stop != Stop.GONE:
            await workflow.wait_condition(lambda: work.done() or requests.stop == Stop.GONE)
        if not work.done():
            work.cancel()
        return await work

    # The main path.

    async def _warm(self) -> WarmPodResult:
        changes = 0
        while changes < _MAX_RESOLVES:
            try:
                return await self._resolve_and_place()
            except RetryRequested:
                continue
            except SourceChanged as changed:
                changes += 1
                await self._withdraw()
                if changes < _MAX_RESOLVES:
                    message = messages.source_changed(str(changed))
                    await self._reporter.report(Phase.RESOLVING, message, event="SourceChanged")
            except FailureError as error:
                raise NeedsOperator(error_info(error, node=self._data.node)) from error
            except InvalidRequest as error:
                raise NeedsOperator(ErrorInfo(type(error).__name__, error.message)) from error
        raise NeedsOperator(ErrorInfo("SourceChanged", messages.source_keeps_changing(changes)))

    async def _resolve_and_place(self) -> WarmPodResult:
        self._reporter.set_phase(Phase.RESOLVING)
        options.check(self._requests.view)
        await self._resolve()
        await self._wait_for_foreign_gates()
        while True:
            self._reporter.set_phase(Phase.PLACING)
            try:
                node = await self._seat.take(
                    self._data.snapshots, self._report_unschedulable, self._reporter.report_if_slow
                )
            except NoAlternativeNode:
                await self._seat.give_up()
                await self._wait_for_disk()
                continue
            try:
                return await self._warm_and_release(node)
            except NodeLost:
                self._seat.avoid(node)
                event, message = "NodeLost", messages.node_lost(node)
            except DiskRejected as rejected:
                self._rejections.add(node, rejected.error)
                self._seat.avoid(node)
                event, message = rejected.error.type, messages.disk_rejected(node, rejected.error)
            except SeatMoved as moved:
                event, message = "SeatLost", messages.seat_lost(node, str(moved))
            await self._reporter.report(Phase.PLACING, message, event=event, warning=True)
            await self._seat.give_up()
            await self._data.leave()

    async def _resolve(self) -> None:
        request = ResolveInput(self._inp.pod, self._requests.view.dataset)
        resolved = await activity_calls.resolve_quickly(request)
        if resolved is None:
            async with self._reporter.report_if_slow():
                resolved = await activity_calls.resolve_dataset(request)
        self._data.snapshots = resolved.snapshots

    async def _wait_for_foreign_gates(self) -> None:
        requests = self._requests
        while requests.view.foreign_gates and requests.view.gated:
            gates = list(requests.view.foreign_gates)
            self._reporter.set_phase(Phase.WAITING_FOR_GATES, save=True)
            message = messages.waiting_for_gates(gates)
            await self._reporter.report(Phase.WAITING_FOR_GATES, message, event="WaitingForGates")
            await workflow.wait_condition(lambda: requests.view.foreign_gates != gates or not requests.view.gated)

    async def _report_unschedulable(self, scheduler: str) -> None:
        if self._rejections.by_node:
            raise NoAlternativeNode(scheduler)
        message = messages.no_node_fits(scheduler)
        await self._reporter.report(Phase.PLACING, message, event="NoNodeFits", warning=True)

    async def _wait_for_disk(self) -> None:
        """Hold neither seat nor pin until a disk that rejected the data can take it. Raises RetryRequested."""
        self._requests.retry_requested = False
        rejections = self._rejections.by_node
        message = messages.waiting_for_disk(rejections)
        self._reporter.set_phase(Phase.WAITING_FOR_DISK, message, save=True)
        await self._reporter.report(Phase.WAITING_FOR_DISK, message, event="WaitingForDisk", warning=True)
        try:
            await self._rejections.wait(self._data.snapshots, lambda: self._requests.retry_requested)
        finally:
            self._seat.avoid_no_more(rejections)
        if self._requests.retry_requested:
            self._requests.retry_requested = False
            raise RetryRequested

    async def _warm_and_release(self, node: str) -> WarmPodResult:
        started = workflow.now()
        self._reporter.set_phase(Phase.CHECKING)
        # A quick check is over in no time; a full one reads every byte.
        slow = options.verifies_fully(self._requests.view)
        async with self._reporter.report_if_slow() if slow else contextlib.nullcontext():
            await self._data.check(node)
        fetched = 0
        if self._data.missing:
            self._reporter.set_phase(Phase.WARMING, save=True)
            fetched = await self._data.fetch_missing()
        return await self._release_warm(node, fetched, (workflow.now() - started).total_seconds())

    async def _release_warm(self, node: str, fetched: int, seconds: float) -> WarmPodResult:
        self._seat.check_stands()
        self._reporter.set_phase(Phase.RELEASING)
        data, size, gpus = self._data, self._data.bytes, self._seat.gpus
        try:
            patched = await self._release.patch(
                PatchGateInput(
                    self._inp.pod,
                    node,
                    data.digests,
                    cache_id=data.cache_id,
                    seat=self._seat.deletion,
                    wait_s=self._inp.policy.watch_wait_s,
                )
            )
        except FailureError as error:
            info = error_info(error, node=node)
            if info.type == "ForeignGates":
                await self._seat.give_up()
            raise NeedsOperator(info) from error
        self._seat.on_deleted()
        self._reporter.set_phase(Phase.BINDING)
        elsewhere = patched.outcome == "already" and patched.bound_node not in ("", node)
        # The entity of a hit that the inventory did not know must be told; one that it knew need not be woken.
        unknown = [snapshot for snapshot in data.hits if not self._seat.is_known_to_hold(snapshot)]
        message = messages.warmed(size, node, fetched, seconds)
        await asyncio.gather(
            self._reporter.report(Phase.DONE, message, ready=not elsewhere, event="DatasetReady"),
            data.register_hits(unknown),
        )
        await self._release.wait_until_bound(node)
        if elsewhere or self._release.bound_node != node:
            await self._withdraw()
            return WarmPodResult("released_elsewhere", self._release.bound_node, seconds=self._age_s())
        self._reporter.set_phase(Phase.DONE, node=node, size=size, save=True)
        waited = self._age_s()
        return WarmPodResult(
            "released",
            node,
            size,
            fetched,
            hit=not data.missing,
            seconds=waited,
            rate=fetched / max(seconds, 0.001),
            gpu_seconds_saved=gpus * waited,
        )

    # When the main path has stopped.

    async def _release_cold(self) -> None:
        """`on-timeout: release`: the owner prefers a cold start to a longer wait."""
        self._requests.stop = None
        try:
            await self._release.patch(PatchGateInput(self._inp.pod, "", pin=False))
        except FailureError as error:
            self._note_error(error_info(error))
            return
        message = messages.RELEASED_COLD
        await self._reporter.report(Phase.BINDING, message, event="ReleasedCold", warning=True)
        # Not straight to the end: the server refuses a completion that crosses with the watcher's signals, and the
        # local activities of that workflow task would run again.
        await self._release.wait_for_bind_or_end()
        self._requests.request_stop(Stop.COLD)

    async def _await_operator(self) -> None:
        """Hold neither seat nor pin, say why on the Pod, and wait for `retry`, the Pod's end, or its gate time's."""
        stop = self._requests.take_stop()
        if stop is not None:
            self._reporter.error = None
        await self._withdraw()
        stopped = messages.stopped(stop, self._reporter.error, workflow.info().workflow_id)
        self._reporter.set_phase(stopped.phase, stopped.message, save=True)
        await self._reporter.report(stopped.phase, stopped.message, event=stopped.event, warning=True)
        await self._wait_for_retry(timed_out=stop == Stop.TIMEOUT)
        if not self._requests.have_ended:
            self._reporter.error = None
        self._requests.retry_requested = False

    async def _wait_for_retry(self, *, timed_out: bool) -> None:
        requests = self._requests
        while not (requests.retry_requested or requests.have_ended):
            left = None if timed_out else requests.gate_time_left(workflow.now())
            try:
                await workflow.wait_condition(lambda: requests.retry_requested or requests.have_ended, timeout=left)
            except TimeoutError:
                timed_out = True
                if options.releases_on_timeout(requests.view):
                    requests.stop = Stop.TIMEOUT
                    return
            except asyncio.CancelledError:
                continue  # stopped already
        if not requests.have_ended:
            requests.stop = None
        requests.restart_gate_time(workflow.now())  # a retry grants the Pod its gate time anew

    async def _end(self) -> WarmPodResult:
        await self._withdraw()
        match self._requests.stop:
            case Stop.COLD:
                self._reporter.set_phase(Phase.DONE, save=True)
                return WarmPodResult("released_cold", self._release.bound_node, seconds=self._age_s())
            case Stop.UNGATED:
                message = messages.GATE_REMOVED
                await self._reporter.report(Phase.DONE, message, event="GateRemoved", warning=True)
                self._reporter.set_phase(Phase.DONE, save=True)
                return WarmPodResult("released_elsewhere", seconds=self._age_s())
            case _:
                self._reporter.set_phase(Phase.POD_GONE, save=True)
                return WarmPodResult("pod_gone", seconds=self._age_s())

    async def _withdraw(self) -> None:
        """Give back everything that is held for the Pod: its seat and its pins."""
        await asyncio.gather(self._seat.give_up(), self._data.leave_all())

    def _note_error(self, error: ErrorInfo) -> None:
        self._reporter.error = error
        if error.type == "PodGone":
            self._requests.on_pod_gone()

    def _age_s(self) -> float:
        return (workflow.now() - workflow.info().workflow_start_time).total_seconds()

    # Signals and the query. Each is handed to the part that owns the state.

    @workflow.signal(description="Try again now: after an error was mended, or after cancel.")
    def retry(self) -> None:
        self._requests.request_retry()

    @workflow.signal(description="Stop warming, give the seat back; the Pod stays gated.")
    def cancel(self) -> None:
        self._requests.request_stop(Stop.CANCEL)

    @workflow.signal(description="Stop for now and keep what was fetched.")
    def pause(self) -> None:
        self._requests.request_stop(Stop.PAUSE)

    @workflow.signal(description="Go on after pause.")
    def resume(self) -> None:
        self._requests.request_retry()

    @workflow.signal(description="From the watcher: the Pod's gates or annotations changed.")
    def pod_changed(self, view: PodView) -> None:
        self._requests.on_pod_changed(view)

    @workflow.signal(description="From the watcher: the Pod was deleted or has ended.")
    def pod_gone(self) -> None:
        self._requests.on_pod_gone()

    @workflow.signal(description="From the watcher: the Pod is bound to a node.")
    def pod_bound(self, bound: PodBound) -> None:
        self._release.on_bound(bound)

    @workflow.signal(description="From the watcher: the scheduler finds no place for the released Pod.")
    def pod_unschedulable(self, unschedulable: PodUnschedulable) -> None:
        self._release.on_unschedulable(unschedulable)

    @workflow.signal(description="From the watcher: our seat is bound to a node.")
    def seat_bound(self, bound: SeatBound) -> None:
        self._seat.on_bound(bound)

    @workflow.signal(description="From the watcher: our seat was preempted or deleted, or its node is gone.")
    def seat_lost(self, lost: SeatLost) -> None:
        self._seat.on_lost(lost)

    @workflow.signal(description="From the watcher: the scheduler finds no node for the seat.")
    def seat_unschedulable(self, unschedulable: SeatUnschedulable) -> None:
        self._seat.on_unschedulable(unschedulable)

    @workflow.signal(description="From the reconcile: do not rely on signals, look how the seat stands.")
    def resync(self) -> None:
        self._seat.on_resync()

    @workflow.signal(description="From the entity: the snapshot is complete on the node.")
    def dataset_ready(self, ready: DatasetReady) -> None:
        self._data.on_ready(ready)

    @workflow.signal(description="From the entity: the download failed for good.")
    def dataset_failed(self, failed: DatasetFailed) -> None:
        self._data.on_failed(failed)

    @workflow.query(description="Phase, node, datasets and last error.")
    def status(self) -> WarmPodStatus:
        return self._reporter.status()
