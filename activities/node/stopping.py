"""When an activity that works on the disk is to stop, and what it raises then.

They ask instead of being interrupted (`no_thread_cancel_exception`): by default the SDK raises its error in their
thread wherever that is, between two steps of the store that belong together as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from temporalio import activity
from temporalio.exceptions import ApplicationError

from kube_cache.errors import Cancelled


def should_stop() -> bool:
    """Whether the activity was cancelled, or has timed out, or the agent drains."""
    return activity.is_cancelled() or activity.is_worker_shutdown()


@contextmanager
def retried_when_draining() -> Iterator[None]:
    """Turn Cancelled into an ApplicationError where the agent drains: the restarted agent takes it up again."""
    try:
        yield
    except Cancelled:
        if activity.is_worker_shutdown():
            # Retryable, unlike Cancelled.
            raise ApplicationError("the agent is shutting down", type="WorkerDraining") from None
        raise
