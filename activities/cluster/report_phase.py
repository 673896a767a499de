"""`report_phase`: write a workflow's phase on its Pod. Operator queue, local activity."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from temporalio import activity

from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.warm_pod import ReportInput
from kube_cache.errors import PodGone
from kube_cache.kube import conditions, events
from kube_cache.kube.client import Json, KubeClient
from kube_cache.telemetry import spans

_log = structlog.get_logger("kube_cache.report")


class ReportPhase:
    def __init__(self, kube: KubeClient, get_gated_pod: Callable[[str], Json | None]) -> None:
        """get_gated_pod: the JSON of a gated Pod by uid, as the watch has it; None if the watch does not have it."""
        self._kube = kube
        self._get_gated_pod = get_gated_pod

    @activity.defn(name=names.REPORT_PHASE)
    @as_application_errors
    async def report_phase(self, arg: ReportInput) -> None:
        """Set the Pod's condition and status annotation, emit an Event and clear an action if the input names one.

        A missing Pod is no error. Running twice writes the same words; the name of the Event follows from its content,
        so there is one.
        """
        await asyncio.to_thread(self._report, arg)

    def _report(self, arg: ReportInput) -> None:
        try:
            conditions.set_condition(
                self._kube,
                arg.pod,
                ready=arg.ready,
                reason=arg.phase,
                message=arg.message,
                seen=self._get_gated_pod(arg.pod.uid),
                warming=arg.warming,
            )
            if arg.clear_action:
                conditions.clear_action(self._kube, arg.pod, arg.clear_action)
            if arg.event_reason:
                events.emit(
                    self._kube,
                    arg.pod,
                    reason=arg.event_reason,
                    note=f"{arg.message} (trace {spans.trace_id(arg.pod.uid)})" if spans.is_on() else arg.message,
                    action=arg.phase,
                    warning=arg.warning,
                )
        except PodGone:
            # The watcher signals the workflow.
            _log.info("no Pod to report to", phase=arg.phase)
