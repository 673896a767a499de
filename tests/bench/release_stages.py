"""Where the time of a release goes: the history of each Pod's workflow, laid over what the watch saw.

All clocks are one machine's. A stage is the time between two milestones that follow each other, so the stages of a Pod
add up to its whole; a stage may be negative where two sides see one thing (a seat is bound before its creator has the
answer).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client

from tests.bench.release_clock import Times

# In the order in which they come. Those before `bound` are on the way; the others are what is cleaned up behind it.
MILESTONES = (
    ("sent", "Pod is sent to the API server"),
    ("seen", "API server stores it, watch delivers it"),
    ("started", "operator starts the workflow"),
    ("resolve_scheduled", "first workflow task"),
    ("resolve_started", "task queue hands out resolve_dataset"),
    ("resolve_done", "resolve_dataset: LIST"),
    ("seat_seen", "workflow task, create_seat"),
    ("seat_bound", "scheduler binds the seat"),
    ("seat_signalled", "watch and signal seat_bound"),
    ("check_scheduled", "watch, workflow task"),
    ("check_started", "task queue hands out check_disk"),
    ("check_done", "check_disk on the node"),
    ("ungated", "workflow task, patch_gate"),
    ("bound", "scheduler binds the Pod"),
    ("bound_signalled", "after: watch and signal pod_bound"),
    ("closed", "after: seat, condition, Event; workflow ends"),
)
_LAST = "bound"
_PARTS = {
    EventType.EVENT_TYPE_MARKER_RECORDED: "local activities",
    EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED: "activities",
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED: "signals",
    EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES: "updates of search attributes",
    EventType.EVENT_TYPE_TIMER_STARTED: "timers",
    EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT: "tasks timed out",
    EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED: "tasks failed",
}
_FETCHES = 8


@dataclass(frozen=True)
class History:
    milestones: dict[str, float]
    events: int
    workflow_tasks: int
    parts: Counter[str]
    """What the events tell of: local activities, activities, signals, updates of search attributes, timers."""


@dataclass(frozen=True)
class Stage:
    name: str
    p50_ms: float
    p90_ms: float
    mean_ms: float
    counted: bool
    """On the way to bound, not after it."""


async def histories(client: Client, workflow_ids: list[str]) -> dict[str, History]:
    slots = asyncio.Semaphore(_FETCHES)

    async def one(workflow_id: str) -> History:
        async with slots:
            return read((await client.get_workflow_handle(workflow_id).fetch_history()).events)

    return dict(zip(workflow_ids, await asyncio.gather(*map(one, workflow_ids)), strict=True))


def read(events: Sequence[HistoryEvent]) -> History:
    """The first time of each milestone that a history knows."""
    found: dict[str, float] = {}
    scheduled: dict[int, str] = {}
    tasks = 0
    parts: Counter[str] = Counter()

    def note(name: str, event: HistoryEvent) -> None:
        found.setdefault(name, event.event_time.ToNanoseconds() / 1e9)

    for event in events:
        if part := _PARTS.get(event.event_type):
            parts[part] += 1
        match event.event_type:
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
                note("started", event)
            case EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
                tasks += 1
            case EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
                short = event.activity_task_scheduled_event_attributes.activity_type.name.partition("_")[0]
                scheduled[event.event_id] = short
                note(f"{short}_scheduled", event)
            case EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED:
                note(f"{scheduled[event.activity_task_started_event_attributes.scheduled_event_id]}_started", event)
            case EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
                note(f"{scheduled[event.activity_task_completed_event_attributes.scheduled_event_id]}_done", event)
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
                signal = event.workflow_execution_signaled_event_attributes.signal_name
                note({"seat_bound": "seat_signalled", "pod_bound": "bound_signalled"}.get(signal, signal), event)
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
                note("closed", event)
    return History(found, len(events), tasks, parts)


def merge(times: Times, history: History) -> dict[str, float]:
    """A Pod's milestones; what did not happen (a signal that came too late to be needed) is left out."""
    seen = {
        "sent": times.sent,
        "seen": times.seen,
        "seat_seen": times.seat_seen,
        "seat_bound": times.seat_bound,
        "ungated": times.ungated,
        "bound": times.bound,
    }
    return {**history.milestones, **{name: when for name, when in seen.items() if when}}


def stages(pods: list[dict[str, float]]) -> list[Stage]:
    found = []
    counted = True
    for position, (name, words) in enumerate(MILESTONES):
        if position:
            spans = [span for pod in pods if (span := _since_the_one_before(pod, position)) is not None]
            if spans:
                spans.sort()
                p90 = spans[int(len(spans) * 0.9)]
                found.append(Stage(words, median(spans) * 1e3, p90 * 1e3, mean(spans) * 1e3, counted))
        counted = counted and name != _LAST
    return found


def _since_the_one_before(pod: dict[str, float], position: int) -> float | None:
    name = MILESTONES[position][0]
    if name not in pod:
        return None
    for before, _ in reversed(MILESTONES[:position]):
        if before in pod:
            return pod[name] - pod[before]
    return None
