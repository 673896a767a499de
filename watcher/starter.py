"""Delivery of starts and signals to Temporal: in order for each workflow, many at once, until Temporal answers.

A fact is first offered to the activity of this process that waits for it (kube_cache.kube.expectations); only a fact
that no activity takes becomes a signal. Deliveries are level-triggered and idempotent (one workflow per Pod uid,
repeatable signals), so a delivery that may have happened is made again. The starter never awaits a workflow's result:
each such wait would be a long request on the server.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from kube_cache import names
from kube_cache.backoff import Backoff
from kube_cache.contracts.common import Phase, Policy
from kube_cache.contracts.warm_pod import WarmPodInput
from kube_cache.kube.expectations import Expectations
from kube_cache.kube.pods import PodFacts
from kube_cache.temporal.client import TASK_TIMEOUT
from kube_cache.temporal.executions import signal_if_running
from kube_cache.temporal.search_attributes import initial

_log = structlog.get_logger("kube_cache.watcher")
# Deliveries under way at once. Each takes a few milliseconds of the server's time; more would only queue there.
_CONCURRENCY = 64
_RPC_TIMEOUT = timedelta(seconds=10)
_MIN_BACKOFF_S, _MAX_BACKOFF_S = 0.1, 10.0

Delivery = Callable[[], Awaitable[None]]


class Starter:
    """Belongs to one event loop."""

    def __init__(self, client: Client, policy: Policy, expectations: Expectations) -> None:
        self._client = client
        self._policy = policy
        self._expectations = expectations
        self._mailboxes: dict[str, deque[Delivery]] = {}
        """Workflow id -> deliveries not made yet, oldest first."""
        self._slots = asyncio.Semaphore(_CONCURRENCY)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, pod: PodFacts) -> None:
        """Start the Pod's workflow; if it runs already, signal how the Pod looks now."""
        self._expectations.notify(pod.workflow_id)
        self._post(pod.workflow_id, lambda: self._start(pod))

    def signal(self, workflow_id: str, name: str, arg: object | None = None) -> None:
        """Hand the fact to the activity that waits for it, else signal the workflow if it runs."""
        if not self._expectations.notify(workflow_id, arg):
            self._post(workflow_id, lambda: signal_if_running(self._client, workflow_id, name, arg))

    def is_awaited(self, workflow_id: str) -> bool:
        """Whether an activity of this process waits for a fact about this workflow."""
        return self._expectations.is_expected(workflow_id)

    async def _start(self, pod: PodFacts) -> None:
        ref, dataset = pod.ref, pod.view.dataset
        try:
            await self._client.start_workflow(
                names.WARM_POD,
                WarmPodInput(ref, pod.view, self._policy),
                id=pod.workflow_id,
                task_queue=names.OPERATOR_QUEUE,
                id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
                search_attributes=initial(
                    phase=Phase.RESOLVING, dataset=dataset, namespace=ref.namespace, pod=ref.name
                ),
                static_summary=f"{ref.namespace}/{ref.name} <- {dataset}"[:200],
                # The worker shares this client, so the first workflow task comes back with the answer.
                request_eager_start=True,
                task_timeout=TASK_TIMEOUT,
                rpc_timeout=_RPC_TIMEOUT,
            )
        except WorkflowAlreadyStartedError:
            # A workflow that runs must know how the Pod looks now. One that has ended has released the Pod, and the
            # signal is dropped.
            await signal_if_running(self._client, pod.workflow_id, "pod_changed", pod.view)
        else:
            _log.info("workflow started", namespace=ref.namespace, pod=ref.name, dataset=dataset)

    def _post(self, workflow_id: str, delivery: Delivery) -> None:
        mailbox = self._mailboxes.get(workflow_id)
        if mailbox is not None:
            mailbox.append(delivery)
            return
        self._mailboxes[workflow_id] = deque([delivery])
        task = asyncio.get_running_loop().create_task(self._deliver(workflow_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, workflow_id: str) -> None:
        mailbox = self._mailboxes[workflow_id]
        backoff = Backoff(_MIN_BACKOFF_S, _MAX_BACKOFF_S)
        while mailbox:
            try:
                async with self._slots:
                    await mailbox[0]()
            except Exception as error:  # whatever the error, the delivery is still owed
                wait_s = backoff.next_s()
                _log.warning(
                    "delivery to Temporal failed; trying again",
                    workflow=workflow_id,
                    error=repr(error),
                    wait_s=round(wait_s, 2),
                )
                await asyncio.sleep(wait_s)
                continue
            backoff.reset()
            mailbox.popleft()
        del self._mailboxes[workflow_id]
