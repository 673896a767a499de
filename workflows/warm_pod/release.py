"""The release of a `WarmPod`'s Pod: the patch that removes the gate, and the wait until the Pod is bound."""

from __future__ import annotations

import contextlib
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from kube_cache.contracts.common import Phase, Policy
    from kube_cache.contracts.warm_pod import PatchGateInput, PatchGateResult, PodBound, PodUnschedulable
    from workflows import activity_calls
    from workflows.warm_pod import messages
    from workflows.warm_pod.reporter import Reporter
    from workflows.warm_pod.requests import Requests


class Release:
    def __init__(self, policy: Policy, requests: Requests, reporter: Reporter) -> None:
        self._grace = timedelta(seconds=policy.bind_grace_s)
        self._requests = requests
        self._reporter = reporter
        self._unschedulable = ""
        self.bound_node = ""
        """Node that the Pod is bound to; empty until it is."""

    async def patch(self, arg: PatchGateInput) -> PatchGateResult:
        """Remove the gate. Once this has begun, nothing but the Pod's end stops the workflow. Raises FailureError."""
        self._requests.releasing = True
        try:
            patched = await activity_calls.patch_gate(arg)
        except FailureError:
            self._requests.releasing = False
            raise
        self.bound_node = self.bound_node or patched.bound_node
        return patched

    async def wait_until_bound(self, node: str) -> None:
        """Wait as long as it takes. A Pod that the scheduler cannot place for longer than the grace period says so."""
        await workflow.wait_condition(lambda: bool(self.bound_node or self._unschedulable))
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(lambda: bool(self.bound_node), timeout=self._grace)
            return
        self._reporter.set_phase(Phase.BINDING, save=True)
        message = messages.not_scheduled(node, self._grace.total_seconds(), self._unschedulable)
        await self._reporter.report(Phase.BINDING, message, ready=True, event="NotScheduled", warning=True)
        await workflow.wait_condition(lambda: bool(self.bound_node))

    async def wait_for_bind_or_end(self) -> None:
        """Wait until the Pod is bound or gone, for the grace period at most."""
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: bool(self.bound_node) or self._requests.have_ended, timeout=self._grace
            )

    def on_bound(self, bound: PodBound) -> None:
        self.bound_node = bound.node

    def on_unschedulable(self, unschedulable: PodUnschedulable) -> None:
        self._unschedulable = unschedulable.message
