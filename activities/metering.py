"""Meters every activity of a worker: its time in the queue, its stage, and its error. Changes nothing that it does.

In one place, so that no activity can forget it. Each attempt counts: Temporal may run an activity again.
"""

from __future__ import annotations

import time
from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from kube_cache import names
from kube_cache.telemetry import metrics
from kube_cache.telemetry.stages import OF_ACTIVITIES


class Metering(Interceptor):
    """To be given to a worker."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002 -- SDK's
        return _Meter(next)


class _Meter(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 -- the SDK's word
        info = activity.info()
        if not info.is_local:
            waited = info.started_time - info.current_attempt_scheduled_time
            metrics.QUEUE_SECONDS.labels(_queue(info.task_queue)).observe(max(0.0, waited.total_seconds()))
        started = time.perf_counter()
        try:
            return await super().execute_activity(input)
        except ApplicationError as error:
            metrics.ERRORS.labels(error.type or "").inc()
            raise
        except CancelledError:
            raise
        except Exception:
            metrics.ERRORS.labels("Unexpected").inc()
            raise
        finally:
            if (stage := OF_ACTIVITIES.get(info.activity_type)) is not None:
                metrics.STAGE_SECONDS.labels(stage).observe(time.perf_counter() - started)


def _queue(name: str) -> str:
    if name == names.OPERATOR_QUEUE:
        return "operator"
    return "downloads" if name.endswith(names.STREAM_SUFFIX) else "node"
