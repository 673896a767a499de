"""Binds what an activity is about to every line that is logged while it runs, whoever logs. Changes nothing else.

In one place, so that no activity need say it. The lines of a thread that runs the activity have the fields, too; those
of the engine's and the store's own threads, which serve many activities, have not.
"""

from __future__ import annotations

from typing import Any

from structlog.contextvars import bind_contextvars, reset_contextvars
from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from kube_cache.telemetry import subject


class LogContext(Interceptor):
    """To be given to a worker, before the others, so that their lines have the fields."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002 -- SDK's
        return _Binder(next)


class _Binder(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 -- the SDK's word
        info = activity.info()
        fields = subject.of_input(input.args[0]) if input.args else {}
        bound = bind_contextvars(activity=info.activity_type, workflow=info.workflow_id, **fields)
        try:
            return await super().execute_activity(input)
        finally:
            reset_contextvars(**bound)
