"""What a `WarmPod` shows: phase and error in the Temporal UI and in search, condition and Events on the Pod.

Decides nothing: the phase, the data and the error are set by `workflow`, the sentences are in `messages`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from kube_cache.contracts.common import ErrorInfo, Phase, PodRef, Policy
    from kube_cache.contracts.warm_pod import ReportInput, WarmPodStatus
    from kube_cache.units import format_bytes
    from workflows import activity_calls
    from workflows.search_attributes import upsert
    from workflows.warm_pod import messages
    from workflows.warm_pod.node_data import NodeData
    from workflows.warm_pod.requests import Requests


class Reporter:
    def __init__(self, pod: PodRef, policy: Policy, requests: Requests, data: NodeData) -> None:
        self._pod = pod
        self._slow_phase_after_s = policy.slow_phase_after_s
        self._requests = requests
        self._data = data
        self.error: ErrorInfo | None = None
        self.phase = Phase.RESOLVING
        self.message = ""

    def set_phase(
        self, phase: Phase, message: str = "", *, node: str = "", size: int | None = None, save: bool = False
    ) -> None:
        """Show the phase in the UI.

        save: also write the search attributes, a history event, so only for phases that may last. node: the Pod's node
        if not the one that is warmed. size: bytes of its datasets.
        """
        self.phase = phase
        self.message = message
        lines = [f"**{phase}** {self._pod.namespace}/{self._pod.name}"]
        lines += [
            f"- `{snapshot.uri}`: {snapshot.files} files, {format_bytes(snapshot.bytes)}, snapshot `{snapshot.digest[:12]}`"
            for snapshot in self._data.snapshots
        ]
        if self._data.node:
            lines.append(f"- node `{self._data.node}`")
        if self.error is not None:
            lines.append(f"- **{self.error.type}**: {self.error.message}")
        workflow.set_current_details("\n".join(lines))
        if save:
            upsert(phase=phase, node=node or self._data.node or None, size=size)

    async def report(
        self, phase: Phase, message: str, *, ready: bool = False, event: str = "", warning: bool = False
    ) -> None:
        """Write the Pod's condition. event: reason of an Event that says the same; empty = none."""
        await activity_calls.report_phase(ReportInput(self._pod, phase, message, ready, event, warning))

    @contextlib.asynccontextmanager
    async def report_if_slow(self) -> AsyncIterator[None]:
        """Context for a step that a cache hit passes in no time: reports the phase only if the step takes long."""
        timer = asyncio.create_task(self._report_when_slow())
        try:
            yield
        finally:
            timer.cancel()

    async def _report_when_slow(self) -> None:
        await asyncio.sleep(self._slow_phase_after_s)
        message = messages.slow_phase(self.phase, node=self._data.node, dataset=self._requests.view.dataset)
        if message:
            await self.report(self.phase, message)

    def status(self) -> WarmPodStatus:
        """Answer of the `status` query."""
        return WarmPodStatus(
            self.phase,
            self.message,
            self._data.node,
            [snapshot.uri for snapshot in self._data.snapshots],
            [snapshot.digest for snapshot in self._data.snapshots],
            self.error,
        )
