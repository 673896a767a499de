"""What an activity's failure means to a workflow: an `ErrorInfo` for people, and whether the node's agent is gone."""

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
    """The innermost cause that has words for people; a queue that nobody polls becomes `AgentLost`.

    A normal activity's failure comes wrapped in ActivityError, a local one's comes as it is.
    """
    cause = error.cause if isinstance(error, ActivityError) else error
    name = error.activity_type if isinstance(error, ActivityError) else "a local activity"
    if isinstance(cause, TimeoutError):
        if cause.type == TimeoutType.SCHEDULE_TO_START:
            return ErrorInfo(AGENT_LOST, f"no living agent on node {node}; another node will be tried")
        return ErrorInfo("Timeout", f"{name} timed out ({cause.type.name if cause.type else 'unknown'})")
    if isinstance(cause, ApplicationError):
        found = cause.details[0] if cause.details and isinstance(cause.details[0], dict) else {}
        if cause.type == "InsufficientDisk":
            return ErrorInfo(cause.type, cause.message, found.get("needed") or 0, found.get("inodes") or 0)
        return ErrorInfo(cause.type or "Error", cause.message)
    return ErrorInfo(type(cause).__name__, str(cause))


def is_final(error: FailureError) -> bool:
    """Whether trying again is useless, as the error's own class says, or unwanted, because it was cancelled."""
    cause = error.cause if isinstance(error, ActivityError) else error
    return isinstance(cause, CancelledError) or (isinstance(cause, ApplicationError) and cause.non_retryable)
