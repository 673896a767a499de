"""Interceptor that sends the steps of a Pod's trace when a run of its `WarmPod` ends, and tells activities their step.

Sends nothing while a history is replayed, and reads only what a replay would make again, so the same workflow makes the
same spans wherever it ends. No command and no event depends on it, so tracing can be switched at any time.
"""

from __future__ import annotations

from typing import Any

from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.exceptions import FailureError
from temporalio.worker import (
    ExecuteWorkflowInput,
    Interceptor,
    StartActivityInput,
    StartLocalActivityInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)
from temporalio.workflow import ActivityHandle, ContinueAsNewError

from kube_cache import names
from kube_cache.contracts.common import Phase
from kube_cache.contracts.warm_pod import WarmPodInput, WarmPodResult
from kube_cache.telemetry import spans
from kube_cache.telemetry.spans import Attribute, Place, Span
from kube_cache.telemetry.stages import OF_PHASES, Stage
from workflows.warm_pod.timeline import Entry, Timeline
from workflows.warm_pod.workflow import WarmPod

# Phases after which nothing of the Pod's way is left to be seen.
_LAST = (Phase.DONE, Phase.POD_GONE)


class WorkflowTracing(Interceptor):
    """To be given to a worker."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:  # noqa: A002, ARG002 -- the SDK's
        return _Inbound


class _Inbound(WorkflowInboundInterceptor):
    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        super().init(_Outbound(outbound))

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:  # noqa: A002 -- the SDK's word
        # Nothing on other exceptions: a worker that drops a workflow from its cache cancels it.
        try:
            result = await super().execute_workflow(input)
        except ContinueAsNewError:
            _send(input, None)
            raise
        except FailureError as error:
            _send(input, error)
            raise
        _send(input, result)
        return result


class _Outbound(WorkflowOutboundInterceptor):
    def start_activity(self, input: StartActivityInput) -> ActivityHandle[Any]:  # noqa: A002
        _name_parent(input)
        return super().start_activity(input)

    def start_local_activity(self, input: StartLocalActivityInput) -> ActivityHandle[Any]:  # noqa: A002
        _name_parent(input)
        return super().start_local_activity(input)


def _name_parent(activity: StartActivityInput | StartLocalActivityInput) -> None:
    """Name the present step in a header: 50 bytes, which no event keeps of a local activity."""
    instance = workflow.instance()
    if not isinstance(instance, WarmPod):
        return
    timeline = instance.timeline
    parent = spans.pod_place(timeline.pod.uid)
    if timeline.entries:
        entry = timeline.entries[-1]
        entry.is_parent = True
        parent = _place(timeline, entry)
    payload = Payload(metadata={"encoding": b"binary/plain"}, data=str(parent).encode())
    activity.headers = {**activity.headers, names.SPAN_HEADER: payload}


def _send(given: ExecuteWorkflowInput, outcome: WarmPodResult | FailureError | None) -> None:
    """Send the steps of the run that ends. outcome: None for a run that another one continues."""
    instance = workflow.instance()
    if workflow.unsafe.is_replaying() or not isinstance(instance, WarmPod):
        return
    timeline, now = instance.timeline, workflow.now().timestamp()
    end = _end(timeline, now)
    ends = [*(entry.since for entry in timeline.entries[1:]), end]
    for entry, next_since in zip(timeline.entries, ends, strict=False):
        until = max(entry.since, min(next_since, end))
        if entry.phase not in _LAST and (until > entry.since or entry.is_parent or entry.links):
            spans.emit(_step(timeline, entry, until))
    if outcome is not None:
        seen_at = given.args[0].seen_at
        since = instance.started_at
        if 0 < seen_at < since:  # else the operator's clock is ahead of the server's
            spans.emit(_start(timeline, seen_at, since))
            since = seen_at
        spans.emit(_root(given.args[0], since, end, outcome))


def _end(timeline: Timeline, now: float) -> float:
    """Return when the Pod's way was over: when it was bound, unless its data was still on the way."""
    before: Entry | None = None
    for entry in timeline.entries:
        if entry.phase in _LAST:
            if before is not None and before.phase is Phase.BINDING and timeline.bound_at:
                return min(entry.since, max(before.since, timeline.bound_at))  # it is told the Pod between the two
            return entry.since
        before = entry
    return now


def _place(timeline: Timeline, entry: Entry) -> Place:
    return spans.step_place(timeline.pod.uid, _stage(entry.phase), entry.key)


def _stage(phase: Phase) -> Stage:
    return OF_PHASES.get(phase, Stage.WAIT)


def _step(timeline: Timeline, entry: Entry, until: float) -> Span:
    return Span(
        str(_stage(entry.phase)),
        _place(timeline, entry),
        spans.pod_place(timeline.pod.uid).span,
        _ns(entry.since),
        _ns(until),
        {"kube_cache.phase": str(entry.phase)},
        tuple(place for text in entry.links if (place := spans.parse_place(text)) is not None),
    )


def _start(timeline: Timeline, since: float, until: float) -> Span:
    """Return the step before the workflow: what watcher and Temporal took to start it."""
    root = spans.pod_place(timeline.pod.uid)
    place = spans.step_place(timeline.pod.uid, Stage.START, "")
    return Span(str(Stage.START), place, root.span, _ns(since), _ns(until))


def _root(given: WarmPodInput, since: float, until: float, outcome: WarmPodResult | FailureError) -> Span:
    pod, info = given.pod, workflow.info()
    attributes: dict[str, Attribute] = {
        "k8s.namespace.name": pod.namespace,
        "k8s.pod.name": pod.name,
        "k8s.pod.uid": pod.uid,
        "kube_cache.datasets": given.view.dataset,
        "kube_cache.workflow_id": info.workflow_id,
    }
    error = ""
    if isinstance(outcome, FailureError):
        error = spans.describe(outcome)
    else:
        attributes |= {
            "k8s.node.name": outcome.node,
            "kube_cache.outcome": outcome.outcome,
            "kube_cache.hit": outcome.hit,
            "kube_cache.bytes": outcome.bytes,
            "kube_cache.fetched_bytes": outcome.fetched_bytes,
        }
        if outcome.neighbour_bytes:
            attributes["kube_cache.neighbour_bytes"] = outcome.neighbour_bytes
    name = f"pod {pod.namespace}/{pod.name}"
    return Span(name, spans.pod_place(pod.uid), 0, _ns(since), _ns(until), attributes, error=error)


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
