"""Calls that are made until they succeed: each failure is told on the Pod in the server's words, then tried again.

The pauses grow to five minutes, and a `retry` ends one. Nothing fails in silence, and nothing fills the history.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from kube_cache.contracts.common import PodRef
    from kube_cache.contracts.warm_pod import PodState, ReadPodInput
    from workflows import cluster_calls
    from workflows.failures import error_info, is_final, retry_after_s
    from workflows.warm_pod import messages
    from workflows.warm_pod.calls import Calls
    from workflows.warm_pod.exceptions import GateIsGone
    from workflows.warm_pod.reporter import Reporter
    from workflows.warm_pod.requests import Requests
    from workflows.warm_pod.waiting import ContinueNow, Pauses, wait

A = TypeVar("A")
R = TypeVar("R")


class Patience:
    def __init__(self, pod: PodRef, calls: Calls, requests: Requests, reporter: Reporter) -> None:
        self._pod = pod
        self._calls = calls
        self._requests = requests
        self._reporter = reporter

    async def until_done(self, what: str, call: Callable[[A], Awaitable[R]], arg: A) -> R:
        """Call until it succeeds. what: completes "cannot …" for people; it is taken back when the call succeeds.

        Raises FailureError when the error is final, ContinueNow.
        """
        pauses = Pauses()
        before, troubles = self._reporter.standing, set[str]()
        while True:
            try:
                result = await self._calls.run(call, arg)
            except FailureError as error:
                if is_final(error):
                    raise
                troubles.add(messages.failing(what, error_info(error)))
                await self.tell_and_pause(what, error, pauses)
            else:
                if troubles:
                    await self._reporter.put_back(before, troubles)
                return result

    async def tell(self, message: str, event: str) -> None:
        """Say on the Pod what is not as it should be, once."""
        await self._reporter.report(self._reporter.phase, message, event=event, warning=True)

    async def tell_and_pause(
        self, what: str, error: FailureError, pauses: Pauses, *, until: Callable[[], object] = lambda: False
    ) -> None:
        """Say on the Pod what failed, and wait before the next try, or until something happens. Raises ContinueNow."""
        info = error_info(error)
        message = messages.failing(what, info)
        await self._reporter.report(self._reporter.phase, message, event=info.type, warning=True, noisy=True)
        await self.pause(max(pauses.next_s(), retry_after_s(error)), until=until)

    async def pause(self, seconds: float, *, until: Callable[[], object] = lambda: False) -> None:
        """Wait; a `retry` ends the wait. Raises ContinueNow."""
        requests, calls = self._requests, self._calls
        with contextlib.suppress(TimeoutError):
            await wait(lambda: until() or requests.retry_requested or calls.must_continue_as_new(), seconds)
        if calls.must_continue_as_new():
            raise ContinueNow
        requests.take_retry()

    async def look(self) -> PodState:
        """Read the Pod from the API server. A signal is a hint; this is the truth."""
        return await self.until_done("read the Pod", cluster_calls.read_pod, ReadPodInput(self._pod))

    async def look_at_gated(self) -> PodState:
        """Read the Pod, which must be gated. Raises GateIsGone.

        To be called before anything is given back or taken anew: the gate may be gone by our own doing, in a workflow
        task whose worker died before the server heard of it.
        """
        state = await self.look()
        if is_over(state):
            raise GateIsGone(state)
        return state


def is_over(state: PodState) -> bool:
    """Whether our gate holds the Pod no longer: it is gone, about to go, or released."""
    return state.gone or state.view.deleting or not state.view.gated
