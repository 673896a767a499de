"""A workflow driven through activations in this process: no server, simulated time, every command visible.

Days pass in seconds, and the history is counted as the server would write it. Activities answer by a script; timers
fire in order; signals are sent at chosen times. Private to the SDK, hence pinned with it: an upgrade that changes these
names breaks this module and nothing else.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import temporalio.api.common.v1 as common
import temporalio.bridge.proto.workflow_activation as wa
import temporalio.common
import temporalio.workflow
from google.protobuf.message import Message
from temporalio.api.sdk.v1 import workflow_metadata_pb2  # noqa: F401 -- registers a message that activations refer to
from temporalio.converter import DataConverter
from temporalio.exceptions import ApplicationError
from temporalio.worker._workflow_instance import UnsandboxedWorkflowRunner, WorkflowInstanceDetails

START = datetime(2026, 1, 1, tzinfo=UTC)
SUGGESTED_AT = 4096
"""History events at which the server suggests to continue as new, by default."""
_CONVERTER = DataConverter.default
_LOCAL, _NORMAL = "schedule_local_activity", "schedule_activity"


class Never:
    """Answer of an activity that does not end."""


@dataclass(frozen=True)
class Call:
    """An activity that a workflow begins. arg: its input as JSON."""

    name: str
    arg: Any
    at: datetime
    is_local: bool
    run: Run
    queue: str = ""
    """Task queue; empty for a local activity."""


Answer = Callable[[Call], Any]
"""Returns the activity's result, an exception to fail with, or one of these after a time: (timedelta, result)."""


@dataclass
class Ended:
    kind: str
    """`completed`, `continued`, `cancelled` or `failed`."""
    payload: Any = None


@dataclass(order=True)
class _Due:
    at: datetime
    order: int
    make: Callable[[], wa.WorkflowActivationJob | None] = field(compare=False)
    in_task: bool = field(compare=False)
    """The result of a local activity, which comes within the workflow task that began it."""


class Run:
    """One run of a workflow, between its start and its end."""

    def __init__(
        self,
        workflow: type,
        arg: object,
        answer: Answer,
        *,
        now: datetime = START,
        workflow_id: str = "warm/ml/p/uid-1",
        suggested_at: int = SUGGESTED_AT,
    ) -> None:
        self.now = now
        self.events = 1
        self.ended: Ended | None = None
        self.called: Counter[str] = Counter()
        self.arguments: list[tuple[datetime, str, Any]] = []
        self.expected: list[tuple[datetime, str, tuple[object, ...]]] = []
        """Signals that come later, whichever run they find."""
        self._answer = answer
        self._suggested_at = suggested_at
        self._due: list[_Due] = []
        self._order = itertools.count()
        self._dead: set[tuple[str, int]] = set()
        self._instance = _instance(workflow, workflow_id, now)
        _in_memory.add(self)
        job = wa.WorkflowActivationJob()
        job.initialize_workflow.workflow_id = workflow_id
        job.initialize_workflow.workflow_type = temporalio.workflow._Definition.must_from_class(workflow).name or ""
        job.initialize_workflow.arguments.append(_payload(arg))
        self._activate(job)

    def signal(self, name: str, *args: object) -> None:
        self.events += 1
        self._activate(_signal(name, self.events, *args))

    def signal_later(self, after: timedelta, name: str, *args: object) -> None:
        self.expected.append((self.now + after, name, args))
        self._plan(after, lambda: self._deliver(name, args))

    def _deliver(self, name: str, args: tuple[object, ...]) -> wa.WorkflowActivationJob:
        self.expected = [one for one in self.expected if one[1:] != (name, args)]
        self.events += 1
        return _signal(name, self.events, *args)

    def cancel(self) -> None:
        job = wa.WorkflowActivationJob()
        job.cancel_workflow.SetInParent()
        self.events += 1
        self._activate(job)

    def advance(self, until: datetime) -> None:
        """Let time pass; whatever is due happens in order."""
        while self.ended is None and self._due and self._due[0].at <= until:
            due = heapq.heappop(self._due)
            self.now = max(self.now, due.at)
            job = due.make()
            if job is not None:
                self._activate(job, in_task=due.in_task)
        if self.ended is None:
            self.now = max(self.now, until)

    def settle(self) -> None:
        """Let everything happen that is due now."""
        self.advance(self.now)

    def _activate(self, *jobs: wa.WorkflowActivationJob, in_task: bool = False) -> None:
        if self.ended is not None:
            return
        activation = wa.WorkflowActivation(run_id="r", history_length=self.events)
        activation.continue_as_new_suggested = self.events >= self._suggested_at
        activation.timestamp.FromDatetime(self.now.replace(tzinfo=None))
        activation.jobs.extend(jobs)
        completion = self._instance.activate(activation)
        if completion.HasField("failed"):
            raise AssertionError(f"the workflow task failed: {completion.failed.failure}")
        self.events += 0 if in_task else 3  # the workflow task: scheduled, started, completed
        for command in completion.successful.commands:
            kind = command.WhichOneof("variant") or ""
            self._obey(kind, getattr(command, kind))
        if self.ended is not None:
            self.evict()

    def evict(self) -> None:
        """Take the workflow out of the worker's memory, as the SDK does. Raises RuntimeError if a task lives on."""
        job = wa.WorkflowActivationJob()
        job.remove_from_cache.SetInParent()
        activation = wa.WorkflowActivation(run_id="r", history_length=self.events)
        activation.timestamp.FromDatetime(self.now.replace(tzinfo=None))
        activation.jobs.append(job)
        _in_memory.discard(self)
        self._instance.activate(activation)

    def _obey(self, kind: str, command: Any) -> None:
        if kind in (_LOCAL, _NORMAL):
            self._call(kind, command)
        elif kind == "start_timer":
            self.events += 2
            after = command.start_to_fire_timeout.ToTimedelta()
            self._plan(after, lambda: self._fire(command.seq))
        elif kind == "cancel_timer":
            self._dead.add(("timer", command.seq))
        elif kind == "request_cancel_activity":
            self.events += 1
            self._dead.add((_NORMAL, command.seq))
            self._plan(timedelta(), lambda: _resolved(command.seq, "cancelled", None))
        elif kind == "upsert_workflow_search_attributes":
            self.events += 1
        elif kind == "complete_workflow_execution":
            self.events += 1
            self.ended = Ended("completed", _value(command.result))
        elif kind == "continue_as_new_workflow_execution":
            self.ended = Ended("continued", command.arguments[0])
        elif kind == "cancel_workflow_execution":
            self.ended = Ended("cancelled")
        elif kind == "fail_workflow_execution":
            self.ended = Ended("failed", command.failure.message)

    def _call(self, kind: str, command: Any) -> None:
        name, arg = command.activity_type, _value(command.arguments[0]) if command.arguments else None
        self.called[name] += 1
        self.arguments.append((self.now, name, arg))
        self.events += 1 if kind == _LOCAL else 3
        answer = self._answer(Call(name, arg, self.now, kind == _LOCAL, self, getattr(command, "task_queue", "")))
        after = timedelta()
        if isinstance(answer, tuple):
            after, answer = answer
        if isinstance(answer, Never):
            return
        how = "failed" if isinstance(answer, Exception) else "completed"
        self._plan(
            after,
            lambda: (
                None
                if (kind, command.seq) in self._dead
                else _resolved(command.seq, how, answer, local=kind == _LOCAL, name=name)
            ),
            in_task=kind == _LOCAL,
        )

    def _plan(
        self, after: timedelta, make: Callable[[], wa.WorkflowActivationJob | None], *, in_task: bool = False
    ) -> None:
        heapq.heappush(self._due, _Due(self.now + after, next(self._order), make, in_task))

    def _fire(self, seq: int) -> wa.WorkflowActivationJob | None:
        if ("timer", seq) in self._dead:
            return None
        job = wa.WorkflowActivationJob()
        job.fire_timer.seq = seq
        return job


_in_memory: set[Run] = set()


def evict_all() -> None:
    """To be called when a test ends: what the garbage collector takes apart ends in no order, and complains later."""
    for run in list(_in_memory):
        run.evict()


class Chain:
    """A workflow over all its runs: what continues as new goes on with the input that it handed over."""

    def __init__(self, workflow: type, arg: Any, answer: Answer, **options: Any) -> None:
        self._workflow, self._answer, self._options = workflow, answer, options
        self._type = type(arg)
        self.runs = [Run(workflow, arg, answer, **options)]

    @property
    def run(self) -> Run:
        last = self.runs[-1]
        while last.ended is not None and last.ended.kind == "continued":
            (arg,) = asyncio.run(_CONVERTER.decode([last.ended.payload], [self._type]))
            before, last = last, Run(self._workflow, arg, self._answer, now=last.now, **self._options)
            for at, name, args in before.expected:
                last.signal_later(max(at - last.now, timedelta()), name, *args)
            self.runs.append(last)
        return last

    def advance(self, until: datetime) -> None:
        while self.run.ended is None and self.run.now < until:
            self.run.advance(until)

    @property
    def called(self) -> Counter[str]:
        return sum((run.called for run in self.runs), Counter())

    def last(self, name: str) -> Any:
        """Input of the last call of an activity."""
        return next(arg for run in reversed(self.runs) for _, called, arg in reversed(run.arguments) if called == name)

    def arguments(self, name: str) -> list[Any]:
        return [arg for run in self.runs for _, called, arg in run.arguments if called == name]


def refused(kind: str, message: str = "scripted") -> ApplicationError:
    return ApplicationError(message, {}, type=kind, non_retryable=True)


def failed(kind: str, message: str = "scripted") -> ApplicationError:
    return ApplicationError(message, {}, type=kind)


def _resolved(seq: int, how: str, answer: Any, *, local: bool = False, name: str = "") -> wa.WorkflowActivationJob:
    job = wa.WorkflowActivationJob()
    job.resolve_activity.seq = seq
    result = job.resolve_activity.result
    if how == "completed":
        result.completed.result.CopyFrom(_payload(answer))
    elif how == "cancelled":
        result.cancelled.failure.message = "cancelled"
        result.cancelled.failure.canceled_failure_info.SetInParent()
    else:
        failure: Message = result.failed.failure
        target = failure
        if not local:
            failure.message = "activity failed"  # type: ignore[attr-defined]
            failure.activity_failure_info.activity_type.name = name  # type: ignore[attr-defined]
            target = failure.cause  # type: ignore[attr-defined]
        _CONVERTER.failure_converter.to_failure(answer, _CONVERTER.payload_converter, target)  # type: ignore[arg-type]
    return job


def _signal(name: str, event: int, *args: object) -> wa.WorkflowActivationJob:
    job = wa.WorkflowActivationJob()
    job.signal_workflow.signal_name = name
    job.signal_workflow.originating_event_id = event
    job.signal_workflow.input.extend(_payload(arg) for arg in args)
    return job


def _payload(value: object) -> common.Payload:
    return _CONVERTER.payload_converter.to_payloads([value])[0]


def _value(payload: common.Payload) -> Any:
    return _CONVERTER.payload_converter.from_payloads([payload])[0]


def _instance(workflow: type, workflow_id: str, now: datetime) -> Any:
    info = temporalio.workflow.Info(
        attempt=1,
        continued_run_id=None,
        cron_schedule=None,
        execution_timeout=None,
        first_execution_run_id="r",
        headers={},
        namespace="kube-cache",
        original_execution_run_id="r",
        parent=None,
        root=None,
        priority=temporalio.common.Priority.default,
        raw_memo={},
        retry_policy=None,
        run_id="r",
        run_timeout=None,
        search_attributes={},
        start_time=now,
        task_queue="q",
        task_timeout=timedelta(seconds=10),
        typed_search_attributes=temporalio.common.TypedSearchAttributes.empty,
        workflow_id=workflow_id,
        workflow_start_time=now,
        workflow_type="X",
    )
    details = WorkflowInstanceDetails(
        payload_converter_factory=lambda: _CONVERTER.payload_converter,
        failure_converter_class=_CONVERTER.failure_converter_class,
        interceptor_classes=[],
        defn=temporalio.workflow._Definition.must_from_class(workflow),
        info=info,
        randomness_seed=1,
        extern_functions={
            "__temporal_assert_local_activity_valid": lambda _name: None,
            "__temporal_get_metric_meter": lambda: None,
        },
        disable_eager_activity_execution=False,
        worker_level_failure_exception_types=[],
        patch_activation_callback=None,
        last_completion_result=common.Payloads(),
        last_failure=None,
    )

    async def make() -> Any:  # the instance is its own event loop, and wants another one while it is made
        return UnsandboxedWorkflowRunner().create_instance(details)

    return asyncio.run(make())
