"""Delivers starts and signals to Temporal: in order per workflow, many workflows at once, again until it answers.

What is delivered is level-triggered and idempotent (one workflow per Pod uid, repeatable signals), so a delivery that may
have happened is simply made again. It never awaits a workflow's result: each waiter would be a long request on the server.
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
from temporalio.service import RPCError, RPCStatusCode

from kube_cache import names
from kube_cache.backoff import Backoff
from kube_cache.contracts.common import Phase, Policy
from kube_cache.contracts.warm_pod import WarmPodInput
from kube_cache.kube.pods import PodFacts
from kube_cache.temporal import search_attributes as search
from kube_cache.temporal.client import TASK_TIMEOUT

_log = structlog.get_logger("kube_cache.watcher")
# Deliveries under way at once. Each is a few milliseconds of the server's time; more only queue up there.
_CONCURRENCY = 64
_RPC_TIMEOUT = timedelta(seconds=10)
_MIN_BACKOFF_S, _MAX_BACKOFF_S = 0.1, 10.0

Delivery = Callable[[], Awaitable[None]]


class Starter:
    def __init__(self, client: Client, policy: Policy) -> None:
        self._client = client
        self._policy = policy
        self._mailboxes: dict[str, deque[Delivery]] = {}
        self._slots = asyncio.Semaphore(_CONCURRENCY)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, pod: PodFacts) -> None:
        """Start the Pod's workflow; where it runs already, tell it how the Pod looks now."""
        self._post(pod.workflow_id, lambda: self._start(pod))

    def signal(self, workflow_id: str, name: str, arg: object | None = None) -> None:
        """A workflow that does not exist or has ended needs no signal: that is not an error."""
        self._post(workflow_id, lambda: self._signal(workflow_id, name, arg))

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
                search_attributes=search.initial(
                    phase=Phase.RESOLVING, dataset=dataset, namespace=ref.namespace, pod=ref.name
                ),
                static_summary=f"{ref.namespace}/{ref.name} <- {dataset}"[:200],
                # The worker shares this client, so the first workflow task comes back with the answer.
                request_eager_start=True,
                task_timeout=TASK_TIMEOUT,
                rpc_timeout=_RPC_TIMEOUT,
            )
        except WorkflowAlreadyStartedError:
            # It runs: tell it how the Pod looks now. Or it has released this Pod, and needs no telling: once is enough.
            await self._signal(pod.workflow_id, "pod_changed", pod.view)
        else:
            _log.info("workflow started", namespace=ref.namespace, pod=ref.name, dataset=dataset)

    async def _signal(self, workflow_id: str, name: str, arg: object | None) -> None:
        try:
            await self._client.get_workflow_handle(workflow_id).signal(
                name, args=[] if arg is None else [arg], rpc_timeout=_RPC_TIMEOUT
            )
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise

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
            except Exception as error:  # whatever it was, the delivery is still owed
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
