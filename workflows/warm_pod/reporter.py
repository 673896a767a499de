"""What a `WarmPod` shows: its phase in the UI and in search, reports on the Pod, and the words for whoever waits long.

Decides nothing: what is shown is what the other halves (`pod_data`, `warm_pod`) have set.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from kube_cache.contracts.common import Phase, Snapshot
    from kube_cache.contracts.warm_pod import ReportInput, WarmPodInput, WarmPodStatus
    from kube_cache.units import format_bytes
    from workflows import activity_calls as calls
    from workflows.search_attributes import upsert
    from workflows.warm_pod import messages as wording
    from workflows.warm_pod import options
    from workflows.warm_pod.requests import PodSignals


class PodReports(PodSignals):
    def __init__(self, inp: WarmPodInput) -> None:
        super().__init__(inp)
        self._inp = inp
        self._phase = Phase.RESOLVING
        self._message = ""
        self._snapshots: list[Snapshot] = []
        self._node = ""
        self._gated_since = workflow.now()  # the gate time runs from here

    def _report_if_slow(self) -> AbstractAsyncContextManager[None]:
        """Around what a hit does without."""
        return self._speaking() if self._inp.policy.watch_wait_s else contextlib.nullcontext()

    @contextlib.asynccontextmanager
    async def _speaking(self) -> AsyncIterator[None]:
        speaker = asyncio.create_task(self._speak_when_slow())
        try:
            yield
        finally:
            speaker.cancel()

    async def _speak_when_slow(self) -> None:
        """A hit goes by in silence; whoever waits longer for a list, a seat or an agent is told for what."""
        await asyncio.sleep(self._inp.policy.slow_phase_after_s)
        if (words := wording.WAITING.get(self._phase)) is not None:
            await self._report(self._phase, words.format(node=self._node, dataset=self._view.dataset))

    async def _report(
        self, phase: Phase, message: str, *, ready: bool = False, event: str = "", warning: bool = False
    ) -> None:
        await calls.report_phase(ReportInput(self._inp.pod, phase, message, ready, event, warning))

    def _enter(self, phase: Phase, *, node: str | None = None, size: int | None = None, save: bool = False) -> None:
        """`save` writes the search attribute: a history event, so only for phases that may last."""
        self._phase = phase
        self._message = ""
        lines = [f"**{phase}** {self._inp.pod.namespace}/{self._inp.pod.name}"]
        lines += [
            f"- `{s.uri}`: {s.files} files, {format_bytes(s.bytes)}, snapshot `{s.digest[:12]}`"
            for s in self._snapshots
        ]
        if self._node:
            lines.append(f"- node `{self._node}`")
        if self._error is not None:
            lines.append(f"- **{self._error.type}**: {self._error.message}")
        workflow.set_current_details("\n".join(lines))
        if save:
            upsert(phase=phase, node=node or (self._node or None), size=size)

    def _age_s(self) -> float:
        return (workflow.now() - workflow.info().workflow_start_time).total_seconds()

    def _gate_time_left(self) -> timedelta | None:
        limit = options.gate_time_s(self._view, self._inp.policy)
        if limit is None:
            return None
        return timedelta(seconds=max(0.001, limit - (workflow.now() - self._gated_since).total_seconds()))

    @workflow.query(description="Phase, node, datasets and last error.")
    def status(self) -> WarmPodStatus:
        return WarmPodStatus(
            self._phase,
            self._message,
            self._node,
            [s.uri for s in self._snapshots],
            [s.digest for s in self._snapshots],
            self._error,
        )
