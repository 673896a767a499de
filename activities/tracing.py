"""Opens a span for each attempt of an activity that works for one Pod, and puts the trace id into its log lines.

The step above is named by a header that `workflows.tracing` writes. A download belongs to many Pods: it is in the trace
of the one that has waited longest, whose step follows from the input, and the others link to it.
"""

from __future__ import annotations

from typing import Any

import structlog
from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from kube_cache import names
from kube_cache.contracts.node import StreamInput
from kube_cache.telemetry import spans
from kube_cache.telemetry.spans import Attribute, Place
from kube_cache.telemetry.stages import Stage


class Tracing(Interceptor):
    """To be given to a worker while spans are sent."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002 -- SDK's
        return _Tracer(next)


class _Tracer(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 -- the SDK's word
        parent = _parent(input)
        if parent is None:
            return await super().execute_activity(input)
        info = activity.info()
        attributes: dict[str, Attribute] = {"kube_cache.attempt": info.attempt}
        if not info.is_local:
            waited = info.started_time - info.current_attempt_scheduled_time
            attributes["kube_cache.queue_s"] = max(0.0, waited.total_seconds())
        with (
            structlog.contextvars.bound_contextvars(trace_id=f"{parent.trace:032x}"),
            spans.span(info.activity_type, parent, **attributes),
        ):
            return await super().execute_activity(input)


def _parent(given: ExecuteActivityInput) -> Place | None:
    arg = given.args[0] if given.args else None
    if isinstance(arg, StreamInput):
        if arg.consumer is not None and not arg.consumer.prefetch:
            return spans.step_place(arg.consumer.pod.uid, Stage.STREAM, str(arg.consumer.attempt))
        return _own_trace()
    header = given.headers.get(names.SPAN_HEADER)
    return None if header is None else spans.parse_place(header.data.decode(errors="replace"))


def _own_trace() -> Place:
    """Return the trace of a download that no Pod waits for: one for all attempts of the activity."""
    info = activity.info()
    return Place(spans.pod_place(f"{info.workflow_run_id}/{info.activity_id}").trace, 0)
