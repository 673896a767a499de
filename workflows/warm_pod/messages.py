"""Every sentence that a `WarmPod` shows on its Pod. Pure functions; which one is shown when is decided in `workflow`.

Each names the thing and the reason, and, where a person must act, the remedy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kube_cache import names
from kube_cache.contracts.common import ErrorInfo, Phase
from kube_cache.units import format_bytes, format_seconds
from workflows.warm_pod.requests import Stop

# In a message for people; naming more nodes makes it no clearer.
_MAX_NODES = 3
_SLOW_PHASES = {
    Phase.RESOLVING: "listing {dataset}",
    Phase.PLACING: "waiting for the scheduler to find a node for the seat",
    Phase.CHECKING: "asking the agent on node {node} what is on its disk",
}


@dataclass(frozen=True)
class Stopped:
    """What a Pod shows while its warm has stopped. event: reason of the Event."""

    phase: Phase
    event: str
    message: str


def slow_phase(phase: Phase, *, node: str, dataset: str) -> str:
    """For a phase that is silent while it is short; empty for the others."""
    return _SLOW_PHASES.get(phase, "").format(node=node, dataset=dataset)


def source_changed(why: str) -> str:
    return f"the source changed while it was fetched ({why}); resolving it again"


def source_keeps_changing(times: int) -> str:
    return f"the source changed {times} times while it was fetched; retry when it is at rest"


def waiting_for_gates(gates: Sequence[str]) -> str:
    return f"waiting for other controllers to remove their gates: {', '.join(gates)}"


def no_node_fits(scheduler: str) -> str:
    """scheduler: its own words."""
    return f"no node fits yet: {scheduler}"


def node_lost(node: str) -> str:
    return f"no living agent on node {node}; placing the Pod elsewhere"


def disk_rejected(node: str, error: ErrorInfo) -> str:
    return f"{error.type} on node {node}: {error.message}; looking for another node"


def seat_lost(node: str, why: str) -> str:
    return f"lost the seat on node {node} ({why}); placing the Pod again"


def waiting_for_disk(rejections: Mapping[str, ErrorInfo]) -> str:
    """rejections: by node."""
    lines = [f"{error.type} on node {node}: {error.message}" for node, error in rejections.items()]
    if len(lines) > _MAX_NODES:
        lines[_MAX_NODES:] = [f"and {len(lines) - _MAX_NODES} more nodes"]
    lines.append(
        "No other node fits. The Pod goes on by itself when one of these disks can take its data;"
        f" at once: {names.ACTION_ANNOTATION}=retry"
    )
    return "\n".join(lines)


def warmed(size: int, node: str, fetched: int, seconds: float) -> str:
    """size, fetched: bytes. seconds: from the check of the disk to the release."""
    if fetched == 0:
        return f"{format_bytes(size)} on node {node}, already there"
    rate = format_bytes(fetched / max(seconds, 0.001))
    return (
        f"{format_bytes(size)} on node {node}, fetched {format_bytes(fetched)} in {format_seconds(seconds)}, {rate}/s"
    )


def not_scheduled(node: str, grace_s: float, scheduler: str) -> str:
    """scheduler: its own words."""
    return f"released to node {node}, but not scheduled for {format_seconds(grace_s)}: {scheduler}"


RELEASED_COLD = "gate time is over and on-timeout is release: the Pod starts without its data"
GATE_REMOVED = "another controller or a person removed the gate: the Pod starts without its data being checked"


def stopped(reason: Stop | None, error: ErrorInfo | None, workflow_id: str) -> Stopped:
    """reason: PAUSE, CANCEL or TIMEOUT; None: an error stopped the warm."""
    if reason == Stop.PAUSE:
        return Stopped(
            Phase.PAUSED,
            "Paused",
            f"paused; what was fetched is kept. Go on with annotation {names.ACTION_ANNOTATION}=resume",
        )
    if reason == Stop.CANCEL:
        return Stopped(
            Phase.CANCELLED,
            "Cancelled",
            f"cancelled; the Pod stays gated. Start again with annotation {names.ACTION_ANNOTATION}=retry",
        )
    retry = f"temporal workflow signal --workflow-id {workflow_id} --name retry"
    if reason == Stop.TIMEOUT:
        return Stopped(
            Phase.AWAITING_OPERATOR,
            "GateTimeOver",
            f"max-gate-time is over and on-timeout is keep; the Pod stays gated. Raise the limit, or: {retry}",
        )
    if error is None:
        error = ErrorInfo("Error", "unknown")
    return Stopped(Phase.AWAITING_OPERATOR, error.type, f"{error.type}: {error.message}\nWhen it is mended: {retry}")
