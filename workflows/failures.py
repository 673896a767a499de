"""What an activity's failure means to a workflow: an `ErrorInfo` for people, and whether the node's agent is gone."""

from __future__ import annotations

from temporalio.exceptions import ActivityError, ApplicationError, TimeoutError, TimeoutType  # noqa: A004

from kube_cache.contracts import ErrorInfo

AGENT_LOST = "AgentLost"


def error_info(error: ActivityError, *, node: str = "") -> ErrorInfo:
    """The innermost cause that has words for people; a queue that nobody polls becomes `AgentLost`."""
    cause = error.cause
    if isinstance(cause, TimeoutError):
        if cause.type == TimeoutType.SCHEDULE_TO_START:
            return ErrorInfo(AGENT_LOST, f"no living agent on node {node}; another node will be tried")
        return ErrorInfo("Timeout", f"{error.activity_type} timed out ({cause.type.name if cause.type else 'unknown'})")
    if isinstance(cause, ApplicationError):
        return ErrorInfo(cause.type or "Error", cause.message)
    return ErrorInfo(type(cause).__name__, str(cause))
