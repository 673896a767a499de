"""`report_phase`: write a workflow's phase on its Pod. Operator queue, local activity."""

from __future__ import annotations

import asyncio

import structlog
from temporalio import activity

from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.warm_pod import ReportInput
from kube_cache.errors import PodGone
from kube_cache.kube import conditions, events
from kube_cache.kube.client import KubeClient

_log = structlog.get_logger("kube_cache.report")


class ReportPhase:
    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube

    @activity.defn(name=names.REPORT_PHASE)
    @as_application_errors
    async def report_phase(self, arg: ReportInput) -> None:
        """Set the Pod's condition and emit an Event if the input names one. A missing Pod is no error.

        Running twice sets the same condition; the name of the Event follows from its content, so there is one.
        """
        await asyncio.to_thread(self._report, arg)

    def _report(self, arg: ReportInput) -> None:
        try:
            conditions.set_condition(self._kube, arg.pod, ready=arg.ready, reason=arg.phase, message=arg.message)
            if arg.event_reason:
                events.emit(
                    self._kube,
                    arg.pod,
                    reason=arg.event_reason,
                    note=arg.message,
                    action=arg.phase,
                    warning=arg.warning,
                )
        except PodGone:
            # The watcher signals the workflow.
            _log.info("no Pod to report to", namespace=arg.pod.namespace, pod=arg.pod.name, phase=arg.phase)
