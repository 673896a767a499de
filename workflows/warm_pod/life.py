"""The life of a Pod behind our gate: its main path, what stops that, the wait for a person, and the end.

Runs as a task that Temporal's cancel does not reach: the UI's button is a request like any other. The end is decided
by the API server alone: a signal that says `gone` or `ungated` is a claim, and one look tells whether it is true. Each
turn of the loop waits for something, or ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from kube_cache.contracts.common import ErrorInfo, Phase
    from kube_cache.contracts.warm_pod import PodState, WarmPodInput, WarmPodResult
    from kube_cache.contracts.warm_pod_state import WarmPodState
    from workflows.failures import error_info
    from workflows.warm_pod import messages, options
    from workflows.warm_pod.binding import Binding
    from workflows.warm_pod.exceptions import GateIsGone, NeedsOperator
    from workflows.warm_pod.main_path import MainPath
    from workflows.warm_pod.parts import Parts
    from workflows.warm_pod.patience import is_over
    from workflows.warm_pod.requests import Stop
    from workflows.warm_pod.waiting import ContinueNow, Pauses, wait


# The shortest timer; any ends the workflow task.
_BREATH_S = 0.001


class Life:
    def __init__(self, inp: WarmPodInput, parts: Parts, state: WarmPodState) -> None:
        self._inp = inp
        self._parts = parts
        self._requests = parts.requests
        self._calls = parts.calls
        self._patience = parts.patience
        self._reporter = parts.reporter
        self._state = state
        self._path = MainPath(inp, parts, state)
        self._binding = Binding(inp, parts, state)
        self._claim_pauses = Pauses()

    async def live(self) -> WarmPodResult | None:
        """Returns None when it is time to continue as new, with all that matters in the state."""
        self._requests.begin()
        self._reporter.settle_later()
        try:
            while True:
                result = await self._take_turn()
                if result is not None:
                    return result
        except ContinueNow:
            await self._hear_out()
            return None

    async def _hear_out(self) -> None:
        """Let the workflow task end before the run does: the next one brings the signals that came meanwhile.

        A run that ended where a local activity ended would lose them: the server has such a task done again because of
        them, and the SDK comes to the end of the run before it hands them over.
        """
        await asyncio.sleep(_BREATH_S)
        while self._calls.in_flight:
            await wait(lambda: not self._calls.in_flight)
            await asyncio.sleep(_BREATH_S)

    async def _take_turn(self) -> WarmPodResult | None:
        requests = self._requests
        try:
            if requests.must_stop:
                return await self._act_on_stop()
            if requests.parked is not None:
                return await self._stay_parked(requests.parked)
            return await self._run_path()
        except GateIsGone as gone:
            return await self._end(gone.state)

    # The main path, and what stops it.

    async def _run_path(self) -> WarmPodResult | None:
        """Run the main path, or the cold release, until it has ended or must be stopped."""
        requests = self._requests
        self._calls.serve_main_path = True
        work = asyncio.create_task(self._work())
        try:
            while not work.done():
                await self._wait_for(work.done)
                if not requests.claims_end:
                    if requests.must_stop:
                        break
                    continue
                found = await self._patience.look()
                if self._has_ended(found):
                    requests.has_ended = True
                    break
                self._refute(found)
        except ContinueNow:
            await self._halt(work)
            if _has_result(work):
                return work.result()
            raise
        await self._halt(work)
        return await self._conclude(work)

    async def _work(self) -> WarmPodResult:
        while self._requests.goes_cold:
            await self._path.wait_for_foreign_gates()
            await self._path.withdraw()
            try:
                return await self._binding.run_cold()
            except FailureError as error:
                await self._path.see_foreign_gates(error_info(error))
            if self._requests.retry_requested:
                self._go_on()
        return await self._path.run()

    async def _halt(self, work: asyncio.Task[WarmPodResult]) -> None:
        """End the task; what is in flight ends first."""
        if not work.done():
            await wait(lambda: work.done() or not self._calls.in_flight)
        if not work.done():
            work.cancel()
            await wait(work.done)
        self._calls.serve_main_path = self._requests.has_ended = False

    async def _conclude(self, work: asyncio.Task[WarmPodResult]) -> WarmPodResult | None:
        if _has_result(work):
            return work.result()
        error = None if work.cancelled() else work.exception()
        if isinstance(error, GateIsGone | ContinueNow):
            raise error
        if self._requests.must_stop:
            return None  # the next turn acts on it; an error that stays will come again
        if isinstance(error, NeedsOperator):
            return await self._need_person(error.error)
        if error is not None:
            raise error
        return None

    async def _need_person(self, error: ErrorInfo) -> WarmPodResult | None:
        if error.type != "PodGone":
            self._requests.park(Stop.ERROR, error)
            return None
        found = await self._patience.look()
        if self._has_ended(found):
            return await self._end(found)
        await self._patience.pause(self._claim_pauses.next_s())
        return None

    async def _act_on_stop(self) -> WarmPodResult | None:
        requests = self._requests
        if requests.claims_end:
            found = await self._patience.look()
            if self._has_ended(found):
                return await self._end(found)
            self._refute(found)
            return None
        match stop := requests.take_stop():
            case Stop.CHANGED:
                self._begin_anew()
                await self._path.withdraw()
                await self._reporter.take_back(messages.BEGINS_ANEW)
            case Stop.TIMEOUT:
                requests.note_timeout()
                if options.releases_on_timeout(requests.view):
                    requests.go_cold()
                elif requests.parked is None:
                    requests.park(stop)
            case None:
                pass
            case _:
                requests.park(stop)
        return None

    # Claims: the API server has the last word.

    def _has_ended(self, found: PodState) -> bool:
        if self._requests.released:  # an absent gate is our own doing
            return found.gone or found.view.deleting
        return is_over(found)

    def _refute(self, found: PodState) -> None:
        self._requests.take_stop()
        self._parts.release.forget_bound()
        self._requests.on_pod_changed(found.view)

    # Waiting for a person.

    async def _stay_parked(self, reason: Stop) -> WarmPodResult | None:
        """Hold neither seat nor pin, say why on the Pod, and wait for `retry`, the Pod's end, or its gate time's."""
        requests = self._requests
        await self._path.withdraw()
        stopped = messages.stopped(reason, requests.error, workflow.info().workflow_id, requests.view.action)
        self._reporter.set_phase(stopped.phase, stopped.message, save=True)
        await self._reporter.report(stopped.phase, stopped.message, event=stopped.event, warning=True)
        while not (requests.must_stop or requests.retry_requested):
            await self._wait_for(lambda: requests.retry_requested or requests.resync_requested)
            if requests.take_resync():
                requests.on_pod_changed((await self._patience.look_at_gated()).view)
        if not requests.must_stop:
            if self._calls.must_continue_as_new():
                raise ContinueNow  # the retry is remembered; a run that was cancelled once cannot be cancelled again
            self._go_on()
        return None

    def _go_on(self) -> None:
        self._requests.unpark(workflow.now())
        self._reporter.forget_told()  # an error that stays is told again, so that people see that it was tried
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._state.data.snapshots = []
        self._path.end_disk_wait()

    async def _wait_for(self, event: Callable[[], bool]) -> None:
        """Until the event, or something that stops the main path: a request, or the end of the gate time.

        Raises ContinueNow.
        """
        requests, calls = self._requests, self._calls
        while True:
            requests.tick(workflow.now())
            clock = requests.clock
            left_s = requests.gate_time_left_s(workflow.now())
            try:
                await wait(
                    lambda: event() or requests.must_stop or calls.must_continue_as_new() or requests.clock != clock,
                    left_s,
                )
            except TimeoutError:
                requests.request_stop(Stop.TIMEOUT)
            if event() or requests.must_stop:
                return
            if calls.must_continue_as_new():
                raise ContinueNow

    # The end.

    async def _end(self, found: PodState) -> WarmPodResult | None:
        """The gate holds the Pod no longer. Returns None if it was released by us: then it is to be bound."""
        requests, parts, reporter = self._requests, self._parts, self._reporter
        waited_s = workflow.now().timestamp() - self._state.started_at
        if found.gone or found.view.deleting:
            requests.request_stop(Stop.GONE)  # so that a new run ends as well
            await parts.give_back()
            reporter.set_phase(Phase.POD_GONE, save=True)
            return WarmPodResult("pod_gone", seconds=waited_s)
        if found.receipt_node:
            requests.take_stop()
            await self._binding.adopt(found)
            return None
        requests.request_stop(Stop.UNGATED)
        await parts.give_back()
        outcome, message, event = "released_elsewhere", messages.GATE_REMOVED, "GateRemoved"
        if requests.goes_cold:
            outcome, message, event = "released_cold", messages.RELEASED_COLD, "ReleasedCold"
        await reporter.report(Phase.DONE, message, event=event, warning=True)
        reporter.set_phase(Phase.DONE, save=True)
        await reporter.settle_or_give_up()
        return WarmPodResult(outcome, found.node, seconds=waited_s)


def _has_result(work: asyncio.Task[WarmPodResult]) -> bool:
    return work.done() and not work.cancelled() and work.exception() is None
