"""What the Pod's sources hold: its datasets resolved to snapshots, and resolved again when that was long ago."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from kube_cache.contracts.common import PodRef, Policy
    from kube_cache.contracts.warm_pod import ResolveInput
    from kube_cache.contracts.warm_pod_state import DataState
    from workflows import cluster_calls
    from workflows.failures import is_final
    from workflows.warm_pod.calls import Calls
    from workflows.warm_pod.node_data import NodeData
    from workflows.warm_pod.reporter import Reporter
    from workflows.warm_pod.requests import Requests

# To resolve again what was resolved once: one attempt of a long list, and no endless wait for an origin that is away.
_REFRESH = timedelta(minutes=6)


class Source:
    def __init__(
        self,
        pod: PodRef,
        policy: Policy,
        *,
        requests: Requests,
        calls: Calls,
        reporter: Reporter,
        data: NodeData,
        state: DataState,
    ) -> None:
        self._pod = pod
        self._fresh_s = policy.fresh_resolve_s
        self._requests = requests
        self._calls = calls
        self._reporter = reporter
        self._data = data
        self._state = state

    async def resolve(self) -> None:
        """Learn the snapshots, however long the list takes. Raises FailureError."""
        resolved = await self._calls.run(cluster_calls.resolve_quickly, self._request)
        if resolved is None:
            async with self._reporter.report_if_slow():
                resolved = await cluster_calls.resolve_dataset(self._request)
        self._state.snapshots = resolved.snapshots
        self._state.resolved_at = _now()

    async def refresh(self, node: str) -> None:
        """Resolve again what was resolved long ago. An origin that is away now does not hold up what is on a disk.

        Raises FailureError.
        """
        state = self._state
        if _now() - state.resolved_at <= self._fresh_s:
            return
        resolved = await self._calls.run(cluster_calls.resolve_quickly, self._request)
        if resolved is None:
            try:
                resolved = await cluster_calls.resolve_dataset(self._request, within=_REFRESH)
            except FailureError as error:
                if is_final(error):
                    raise
                return
        before = self._data.digests
        state.resolved_at = _now()
        if [snapshot.digest for snapshot in resolved.snapshots] != before:
            await self._data.leave(node)
        state.snapshots = resolved.snapshots

    @property
    def _request(self) -> ResolveInput:
        return ResolveInput(self._pod, self._requests.view.dataset)


def _now() -> float:
    return workflow.now().timestamp()
