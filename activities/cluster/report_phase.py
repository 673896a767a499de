"""`report_phase`: say on the Pod what it waits for. Operator queue, local activity."""

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
        """Running twice sets the same condition; the Event's name follows from its content, so it is not doubled.

        A Pod that is gone needs no report: that is not an error here, the watcher tells the workflow.
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
            _log.info("no Pod to report to", namespace=arg.pod.namespace, pod=arg.pod.name, phase=arg.phase)
