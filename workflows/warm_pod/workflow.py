"""`WarmPod`: one workflow per gated Pod, from the first sight of it until it is bound to a node that holds its data.

The main path (`main_path`) runs as a task of its own, so that a signal can stop it at any await: the Pod is gone, its
owner cancels or pauses, its gate time is over. Whatever stops it, the Pod leaves the entities that it joined and the
seat is deleted. The gate is removed by `patch_gate` alone, and once that has begun, nothing but the Pod's end stops it.

The workflow owns its parts and each part owns its state. A signal is a hint, not the truth: the reconcile sends
`resync` and repeats the others, so a lost signal costs time and nothing else.
"""

from __future__ import annotations

import asyncio

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
        SeatBound,
        SeatLost,
        SeatUnschedulable,
        WarmPodInput,
        WarmPodResult,
        WarmPodStatus,
    )
    from workflows.failures import error_info
    from workflows.warm_pod import messages, options
    from workflows.warm_pod.exceptions import NeedsOperator
    from workflows.warm_pod.main_path import MainPath, age_s
    from workflows.warm_pod.node_data import NodeData
    from workflows.warm_pod.release import Release
    from workflows.warm_pod.reporter import Reporter
    from workflows.warm_pod.requests import Requests, Stop
    from workflows.warm_pod.seat import Seat


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
        self._path = MainPath(inp, self._requests, self._seat, self._data, self._reporter, self._release)

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
        work = asyncio.create_task(self._path.run())
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
        await self._path.withdraw()
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
        await self._path.withdraw()
        match self._requests.stop:
            case Stop.COLD:
                self._reporter.set_phase(Phase.DONE, save=True)
                return WarmPodResult("released_cold", self._release.bound_node, seconds=age_s())
            case Stop.UNGATED:
                message = messages.GATE_REMOVED
                await self._reporter.report(Phase.DONE, message, event="GateRemoved", warning=True)
                self._reporter.set_phase(Phase.DONE, save=True)
                return WarmPodResult("released_elsewhere", seconds=age_s())
            case _:
                self._reporter.set_phase(Phase.POD_GONE, save=True)
                return WarmPodResult("pod_gone", seconds=age_s())

    def _note_error(self, error: ErrorInfo) -> None:
        self._reporter.error = error
        if error.type == "PodGone":
            self._requests.on_pod_gone()

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
