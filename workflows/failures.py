"""An activity's failure as a workflow needs it: an `ErrorInfo` for people, and whether the node's agent is gone.

The twin of `activities.failures`, which made the failure out of one of our errors.
"""

from __future__ import annotations

from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    FailureError,
    TimeoutError,  # noqa: A004
    TimeoutType,
)

from kube_cache.contracts.common import ErrorInfo

AGENT_LOST = "AgentLost"


def error_info(error: FailureError, *, node: str = "") -> ErrorInfo:
    """Return the innermost cause that has words for people; a task queue without a poller becomes `AgentLost`.

    The failure of a normal activity comes wrapped in ActivityError, that of a local activity comes as it is.
    """
    cause = error.cause if isinstance(error, ActivityError) else error
    name = error.activity_type if isinstance(error, ActivityError) else "a local activity"
    if isinstance(cause, TimeoutError):
        if cause.type == TimeoutType.SCHEDULE_TO_START:
            return ErrorInfo(AGENT_LOST, f"no living agent on node {node}; another node will be tried")
        return ErrorInfo("Timeout", f"{name} timed out ({cause.type.name if cause.type else 'unknown'})")
    if isinstance(cause, ApplicationError):
        details = cause.details[0] if cause.details and isinstance(cause.details[0], dict) else {}
        if cause.type == "InsufficientDisk":
            return ErrorInfo(cause.type, cause.message, details.get("needed") or 0, details.get("inodes") or 0)
        return ErrorInfo(cause.type or "Error", cause.message)
    return ErrorInfo(type(cause).__name__, str(cause))


def retry_after_s(error: FailureError) -> float:
    """Seconds that a server asked us to wait before the next attempt; 0 if it did not."""
    cause = error.cause if isinstance(error, ActivityError) else error
    delay = cause.next_retry_delay if isinstance(cause, ApplicationError) else None
    return delay.total_seconds() if delay else 0.0


def is_final(error: FailureError) -> bool:
    """Whether a retry is useless (the error's class says so) or unwanted (the activity was cancelled)."""
    cause = error.cause if isinstance(error, ActivityError) else error
    return isinstance(cause, CancelledError) or (isinstance(cause, ApplicationError) and cause.non_retryable)
