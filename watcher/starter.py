"""Delivery of starts and signals to Temporal: in order for each workflow, many at once, until Temporal answers.

A fact is first offered to the activity of this process that waits for it (kube_cache.kube.expectations); only a fact
that no activity takes becomes a signal, and only the leading operator signals (docs/design/leader.md). Deliveries are
level-triggered and idempotent (one workflow per Pod uid, repeatable signals), so a delivery that may have happened is
made again. The starter never awaits a workflow's result: each such wait would be a long request on the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog
from structlog.contextvars import bind_contextvars
from temporalio.client import Client
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from kube_cache.backoff import Backoff
from kube_cache.errors import StartRefused
from kube_cache.kube.expectations import Expectations
from kube_cache.kube.pods import PodFacts
from kube_cache.telemetry import metrics
from kube_cache.temporal.executions import is_refusal, signal_if_running
from watcher.warm_pods import WarmPods

_log = structlog.get_logger("kube_cache.watcher")
# Deliveries under way at once. Each takes a few milliseconds of the server's time; more would only queue there.
_CONCURRENCY = 64
# Starts that are due at once from which on new work waits for them, and the seconds that it waits at most. Pods that
# come one after another are below; the time is short against a step of a busy machine, so that work goes on meanwhile.
_MANY_STARTS = 8
_MAX_YIELD_S = 1.0
_MIN_BACKOFF_S, _MAX_BACKOFF_S = 0.1, 10.0

Delivery = Callable[[], Awaitable[None]]


class Starter:
    """Belongs to one event loop. Delivers nothing until `leading` is set."""

    def __init__(self, client: Client, warm_pods: WarmPods, expectations: Expectations, *, patience_s: float) -> None:
        """patience_s: time that another operator's activity gets to take a fact from its own watch, seconds."""
        self._client = client
        self._warm_pods = warm_pods
        self._expectations = expectations
        self._patience_s = patience_s
        self._mailboxes: dict[str, deque[Delivery]] = {}
        """Workflow id -> deliveries not made yet, oldest first."""
        self._starting: set[str] = set()
        """Those of them whose workflow is to be started."""
        self._few_starts = asyncio.Event()
        self._few_starts.set()
        self._slots = asyncio.Semaphore(_CONCURRENCY)
        self._tasks: set[asyncio.Task[None]] = set()
        self.leading = False

    def start(self, pod: PodFacts) -> None:
        """Start the Pod's workflow; if it runs already, signal how the Pod looks now."""
        self._expectations.notify(pod.workflow_id)
        seen_at = time.time()  # the delivery may be made later, and more than once
        self._post(pod.workflow_id, lambda: self._start(pod, seen_at))
        if pod.workflow_id in self._mailboxes:
            self._starting.add(pod.workflow_id)
            self._count_starts()

    def signal(self, workflow_id: str, name: str, arg: object | None = None) -> None:
        """Hand the fact to the activity that waits for it, else signal the workflow if it runs."""
        if not self._expectations.notify(workflow_id, arg):
            self._post(workflow_id, lambda: signal_if_running(self._client, workflow_id, name, arg))

    def signal_later(self, workflow_id: str, name: str, arg: object, is_current: Callable[[], bool]) -> None:
        """Like `signal`, for a fact that an activity of another operator may be about to take from its own watch.

        A signal that arrives while that activity's workflow task is open makes the server refuse the task's completion,
        or costs a task more. So the signal waits for a moment, and is dropped if the fact is not current any more.
        """
        if self._expectations.notify(workflow_id, arg) or not self.leading:
            return
        self._run(self._signal_later(workflow_id, name, arg, is_current))

    async def yield_to_starts(self) -> None:
        """Wait until few starts are due, for a moment at most: to be called before work that may come later.

        Else the start of a Pod's workflow waits behind all steps of the Pods before it, and for as long nothing at all
        is done, or said, for that Pod.
        """
        if not self._few_starts.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._few_starts.wait(), _MAX_YIELD_S)

    def is_awaited(self, workflow_id: str) -> bool:
        """Whether an activity of this process waits for a fact about this workflow."""
        return self._expectations.is_expected(workflow_id)

    def has_pending(self, workflow_id: str) -> bool:
        """Whether a delivery to the workflow is still owed."""
        return workflow_id in self._mailboxes

    async def _signal_later(self, workflow_id: str, name: str, arg: object, is_current: Callable[[], bool]) -> None:
        await asyncio.sleep(self._patience_s)
        if is_current():
            self._post(workflow_id, lambda: signal_if_running(self._client, workflow_id, name, arg))

    async def _start(self, pod: PodFacts, seen_at: float) -> None:
        try:
            await self._warm_pods.start(pod, seen_at)
        except WorkflowAlreadyStartedError:
            # A workflow that runs must know how the Pod looks now. One that has ended has released the Pod, and the
            # signal is dropped; the sweep finds out if it has not.
            await signal_if_running(self._client, pod.workflow_id, "pod_changed", pod.view)
        except StartRefused:
            pass  # told on the Pod; the sweep tries again

    def _post(self, workflow_id: str, delivery: Delivery) -> None:
        if not self.leading:
            return
        mailbox = self._mailboxes.get(workflow_id)
        if mailbox is not None:
            mailbox.append(delivery)
            return
        self._mailboxes[workflow_id] = deque([delivery])
        self._run(self._deliver(workflow_id))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, workflow_id: str) -> None:
        bind_contextvars(workflow=workflow_id)  # of this task alone
        mailbox = self._mailboxes[workflow_id]
        backoff = Backoff(_MIN_BACKOFF_S, _MAX_BACKOFF_S)
        while mailbox and self.leading:  # the next leader tells everything again
            try:
                async with self._slots:
                    await mailbox[0]()
            except Exception as error:  # whatever the error, the delivery is still owed
                metrics.DELIVERIES_FAILED.inc()
                if isinstance(error, RPCError) and is_refusal(error) and error.status != RPCStatusCode.NOT_FOUND:
                    # Of a signal: the next one for this workflow must not wait behind it, and the reconcile repeats it.
                    # NOT_FOUND is of the namespace here, which a busy server does not know for a moment.
                    _log.warning("Temporal refuses a signal; dropped", error=error.message)
                    mailbox.popleft()
                    continue
                wait_s = backoff.next_s()
                _log.warning("delivery to Temporal failed; trying again", error=repr(error), wait_s=round(wait_s, 2))
                await asyncio.sleep(wait_s)
                continue
            backoff.reset()
            mailbox.popleft()
        del self._mailboxes[workflow_id]
        self._starting.discard(workflow_id)
        self._count_starts()

    def _count_starts(self) -> None:
        if len(self._starting) > _MANY_STARTS:
            self._few_starts.clear()
        else:
            self._few_starts.set()
