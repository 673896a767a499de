"""Start of a Pod's `WarmPod` workflow, and the words on the Pod where Temporal refuses to start one."""

from __future__ import annotations

import time
from datetime import timedelta

import structlog
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError

from kube_cache import names
from kube_cache.contracts.common import Phase, Policy
from kube_cache.contracts.warm_pod import WarmPodInput
from kube_cache.errors import StartRefused
from kube_cache.kube.pods import PodFacts
from kube_cache.telemetry import metrics, spans
from kube_cache.temporal.client import TASK_TIMEOUT
from kube_cache.temporal.executions import is_refusal
from kube_cache.temporal.search_attributes import initial
from kube_cache.units import cut
from watcher.reporter import PodReporter

_log = structlog.get_logger("kube_cache.watcher")
_RPC_TIMEOUT = timedelta(seconds=10)
_MAX_SUMMARY_BYTES = 200  # arbitrary because a line of the UI shows no more; Temporal admits 400


class WarmPods:
    def __init__(self, client: Client, policy: Policy, reporter: PodReporter) -> None:
        self._client = client
        self._policy = policy
        self._reporter = reporter

    async def start(self, pod: PodFacts, seen_at: float) -> None:
        """Start the workflow of a Pod that the watch shows; not again where one has released the Pod.

        seen_at: when the watch showed the Pod, in seconds since the epoch.

        Raises WorkflowAlreadyStartedError, StartRefused (told on the Pod), RPCError.
        """
        await self._start(
            pod, seen_at, WorkflowIDConflictPolicy.FAIL, WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY
        )
        metrics.PODS_SEEN.inc()

    async def start_again(self, pod: PodFacts) -> None:
        """Start the workflow of a Pod that is gated, however the last run ended. Raises as `start`."""
        await self._start(pod, time.time(), WorkflowIDConflictPolicy.FAIL, WorkflowIDReusePolicy.ALLOW_DUPLICATE)

    async def replace(self, pod: PodFacts) -> None:
        """Start the workflow in the place of the one that runs. Raises as `start`."""
        await self._start(
            pod, time.time(), WorkflowIDConflictPolicy.TERMINATE_EXISTING, WorkflowIDReusePolicy.ALLOW_DUPLICATE
        )

    async def _start(
        self,
        pod: PodFacts,
        seen_at: float,
        conflict_policy: WorkflowIDConflictPolicy,
        reuse_policy: WorkflowIDReusePolicy,
    ) -> None:
        ref, dataset = pod.ref, pod.view.dataset
        try:
            await self._client.start_workflow(
                names.WARM_POD,
                WarmPodInput(ref, pod.view, self._policy, seen_at=seen_at),
                id=pod.workflow_id,
                task_queue=names.OPERATOR_QUEUE,
                id_conflict_policy=conflict_policy,
                id_reuse_policy=reuse_policy,
                memo={names.GENERATION_MEMO: names.WARM_POD_GENERATION}
                | ({names.TRACE_MEMO: spans.trace_id(ref.uid)} if spans.is_on() else {}),
                search_attributes=initial(
                    phase=Phase.RESOLVING, dataset=dataset, namespace=ref.namespace, pod=ref.name
                ),
                static_summary=cut(f"{ref.namespace}/{ref.name} <- {dataset}", _MAX_SUMMARY_BYTES),
                # The worker shares this client, so the first workflow task comes back with the answer.
                request_eager_start=True,
                task_timeout=TASK_TIMEOUT,
                rpc_timeout=_RPC_TIMEOUT,
            )
        except RPCError as error:
            if not is_refusal(error):
                raise
            metrics.STARTS_REFUSED.inc()
            message = (
                f"Temporal refuses to start the workflow of this Pod ({error.status.name}: {error.message}); "
                "it is tried again, ever more seldom, and at once when the Pod's annotations change"
            )
            await self._reporter.tell(ref, Phase.AWAITING_OPERATOR, message, event="StartRefused")
            raise StartRefused(message, namespace=ref.namespace, pod=ref.name) from error
        _log.info("workflow started", workflow=pod.workflow_id, dataset=cut(dataset, _MAX_SUMMARY_BYTES))
