"""What a Pod says when its warm has stopped and people must act: the phase, the Event's reason, the sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kube_cache import names
from kube_cache.contracts.common import ErrorInfo, Phase
from kube_cache.units import format_bytes, format_seconds

# In a message for people; more nodes than that do not make it clearer.
_MOST_NODES = 3
# Of the phases that are silent while they are short.
WAITING = {
    Phase.RESOLVING: "listing {dataset}",
    Phase.PLACING: "waiting for the scheduler to find a node for the seat",
    Phase.CHECKING: "asking the agent on node {node} what is on its disk",
}


@dataclass(frozen=True)
class Stopped:
    phase: Phase
    event: str
    message: str


def stopped(reason: str, error: ErrorInfo | None, workflow_id: str) -> Stopped:
    """reason: `pause`, `cancel` or `timeout`; anything else means `error`."""
    if reason == "pause":
        return Stopped(
            Phase.PAUSED,
            "Paused",
            f"paused; what was fetched is kept. Go on with annotation {names.ACTION_ANNOTATION}=resume",
        )
    if reason == "cancel":
        return Stopped(
            Phase.CANCELLED,
            "Cancelled",
            f"cancelled; the Pod stays gated. Start again with annotation {names.ACTION_ANNOTATION}=retry",
        )
    retry = f"temporal workflow signal --workflow-id {workflow_id} --name retry"
    if reason == "timeout":
        return Stopped(
            Phase.AWAITING_OPERATOR,
            "GateTimeOver",
            f"max-gate-time is over and on-timeout is keep; the Pod stays gated. Raise the limit, or: {retry}",
        )
    if error is None:
        error = ErrorInfo("Error", "unknown")
    return Stopped(Phase.AWAITING_OPERATOR, error.type, f"{error.type}: {error.message}\nWhen it is mended: {retry}")


def waits_for_disk(refusals: Mapping[str, ErrorInfo]) -> str:
    """refusals: by node."""
    lines = [f"{error.type} on node {node}: {error.message}" for node, error in refusals.items()]
    if len(lines) > _MOST_NODES:
        lines[_MOST_NODES:] = [f"and {len(lines) - _MOST_NODES} more nodes"]
    return "\n".join(
        [
            *lines,
            f"No other node fits. It goes on by itself when that is over; at once: {names.ACTION_ANNOTATION}=retry",
        ]
    )


def warmed(size: int, node: str, fetched: int, seconds: float) -> str:
    """The last word on a released Pod."""
    if fetched == 0:
        return f"{format_bytes(size)} on node {node}, already there"
    rate = format_bytes(fetched / max(seconds, 0.001))
    return (
        f"{format_bytes(size)} on node {node}, fetched {format_bytes(fetched)} in {format_seconds(seconds)}, {rate}/s"
    )


def not_scheduled(node: str, grace_s: float, scheduler: str) -> str:
    return f"released to node {node}, but not scheduled for {format_seconds(grace_s)}: {scheduler}"
