"""Runs workflows without the SDK's sandbox, and frees one as soon as it leaves the worker's cache.

The sandbox adds half as much CPU again to a workflow. The replay tests run inside it, so its checks are made there.

The SDK's object of a workflow is a circle: it is its own event loop, which its futures and handlers name, and the
errors by which its tasks end name the frames, which name it. Left to the garbage collector, evicted workflows lay about
by the thousand between two passes, 20 KiB for an entity and 40 for a Pod. Emptied, they are freed by their last
reference.
"""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.worker import UnsandboxedWorkflowRunner, WorkflowInstance, WorkflowInstanceDetails


class WorkflowRunner(UnsandboxedWorkflowRunner):
    """To be given to a worker."""

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        return Freed(super().create_instance(det))


class Freed(WorkflowInstance):
    """A workflow of the SDK, emptied after its eviction."""

    def __init__(self, instance: WorkflowInstance) -> None:
        self._instance = instance

    def activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        """Raises what the SDK's object raises, as of an eviction that a task does not let go on: it is tried again."""
        if not any(job.HasField("remove_from_cache") for job in act.jobs):
            return self._instance.activate(act)
        held = vars(self._instance)
        tasks = list(held.get("_tasks", ()))
        completion = self._instance.activate(act)
        for task in tasks:
            _empty_frames(task)
        # Not the plain values: a future that nobody asked for its error reports it to its loop when it is freed.
        for name in [name for name, value in held.items() if not isinstance(value, bool | int | None)]:
            del held[name]
        return completion

    def get_serialization_context(self, command_info: Any) -> Any:
        return self._instance.get_serialization_context(command_info)

    def get_external_store_context(self, command_info: Any) -> Any:
        return self._instance.get_external_store_context(command_info)

    def get_info(self) -> Any:
        return self._instance.get_info()

    def get_thread_id(self) -> int | None:
        return self._instance.get_thread_id()


def _empty_frames(task: asyncio.Task[Any]) -> None:
    """Forget what the frames of a task knew that has ended by an error."""
    error: BaseException | None
    try:
        error = task.exception() if task.done() else None
    except asyncio.CancelledError as cancelled:
        error = cancelled
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        error = error.__context__
