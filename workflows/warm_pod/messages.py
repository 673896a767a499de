"""Every sentence that a `WarmPod` shows on its Pod. Pure functions; which one is shown when is decided in `workflow`.

Each names the thing and the reason, and, where a person must act, the remedy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from kube_cache import names
from kube_cache.contracts.common import BannedNeighbour, ErrorInfo, Phase, Warming
from kube_cache.contracts.warm_pod_state import ReleaseState
from kube_cache.units import format_bytes, format_neighbours, format_seconds
from workflows.warm_pod import options
from workflows.warm_pod.requests import Stop

# In a message for people; naming more nodes makes it no clearer.
_MAX_NODES = 3
_MOUNTS_CURRENT = "The Pod mounts @current: a container that restarts may read a newer snapshot"
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


def no_node_fits(scheduler: str, avoided: Mapping[str, float]) -> str:
    """scheduler: its own words. avoided: node -> until when the Pod keeps away from it, seconds since the epoch."""
    if not avoided:
        return f"no node fits yet: {scheduler}"
    nodes = ", ".join(sorted(avoided)[:_MAX_NODES])
    if len(avoided) > _MAX_NODES:
        nodes += f" and {len(avoided) - _MAX_NODES} more"
    until = datetime.fromtimestamp(min(avoided.values()), UTC)
    return (
        f"no node fits yet: {scheduler.rstrip('.')}. The Pod keeps away from {nodes}, which failed it before, until"
        f" {until:%H:%M:%S} UTC; Karpenter adds no node for it while it does. Make room on another node, or delete what"
        " cannot be mended"
    )


def fetching(warming: Warming) -> str:
    return f"fetching {format_bytes(warming.total_bytes - warming.present_bytes)} to node {warming.node}"


def awaiting_agent(node: str, new_node_s: float) -> str:
    return (
        f"node {node} is new and its agent does not answer yet; the Pod goes elsewhere if it does not come within"
        f" {format_seconds(new_node_s)} of the node's creation: look at the agents' DaemonSet there"
    )


def node_lost(node: str) -> str:
    return f"no living agent on node {node}; placing the Pod elsewhere"


def disk_rejected(node: str, error: ErrorInfo) -> str:
    return f"{error.type} on node {node}: {error.message}; looking for another node"


def seat_left(node: str, why: str, event: str) -> str:
    """node: empty when no node was found yet. why: names reason and remedy. event: reason of the Event."""
    where = f" on node {node}" if node else ""
    match event:
        case "":
            return f"lost the seat{where} ({why}); placing the Pod again"
        case "SeatOutdated":
            return f"gave the seat{where} back, because {why}; placing the Pod again"
        case "SeatGivenBack":
            return why
        case _:
            return (
                f"{why}. The Pod goes elsewhere; what was fetched stays on that disk, and is preferred once it can be"
                " used"
            )


def seat_less_important(why: str, namespace: str) -> str:
    """why: in the API server's words."""
    return (
        f"the Pod's seat is less important than the Pod: {why}. It waits for free room, and may be pushed out while the"
        f" Pod warms. Allow Pods of namespace {namespace} the Pod's priority class, or the classes"
        f" {names.SEAT_PRIORITY_CLASS}-<value>"
    )


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


def warmed(release: ReleaseState, *, datasets: int = 1, mounts_current: bool = False) -> str:
    """datasets: number of them; of several, only the most neighbours of one are known."""
    size, node, fetched, seconds = format_bytes(release.bytes), release.node, release.fetched_bytes, release.seconds
    note = f". {_MOUNTS_CURRENT}" if mounts_current else ""
    if fetched == 0:
        return f"{size} on node {node}, already there{note}"
    rate = format_bytes(fetched / max(seconds, 0.001))
    took = f"fetched {format_bytes(fetched)} in {format_seconds(seconds)}, {rate}/s"
    fed = format_neighbours(release.neighbour_bytes, fetched, release.neighbours, at_least=datasets > 1)
    return f"{size} on node {node}, {took}{', ' if fed else ''}{fed}{note}"


def neighbours_banned(banned: Sequence[BannedNeighbour], digests: Sequence[str]) -> str:
    """digests: of the Pod's snapshots; `store verify` needs one only where there are several to choose from."""
    named = [f"node {one.node} {one.reason}" for one in banned[:_MAX_NODES]]
    if len(banned) > _MAX_NODES:
        named.append(f"and {len(banned) - _MAX_NODES} more nodes likewise")
    what = f" {digests[0][:12]}" if len(digests) == 1 else ""
    return (
        f"{'; '.join(named)}. Nothing more of the dataset is taken from there, and its bytes were fetched again. Unless it"
        " passed on what another node had sent, its disk or memory is bad: kube-cache store verify"
        f"{what} --full --node {banned[0].node}"
    )


def warming_on_arrival(node: str, released_to: str, unreserved: Sequence[str]) -> str:
    """unreserved: what the seat could not stand for, in words."""
    why = f" ({'; '.join(unreserved)})" if unreserved else ""
    return (
        f"the scheduler bound the Pod to node {node}, not to {released_to}, where its data is{why};"
        f" its containers start when the data is on node {node}, too"
    )


def cannot_warm_on_arrival(node: str, error: ErrorInfo) -> str:
    return (
        f"cannot warm node {node}, to which the Pod was bound: {error.type}: {error.message}; tried again by itself, at"
        " the latest after five minutes. A bound Pod cannot be moved: delete it for a fresh one"
    )


def started_elsewhere(node: str, released_to: str, unreserved: Sequence[str]) -> str:
    why = f" ({'; '.join(unreserved)})" if unreserved else ""
    return (
        f"the scheduler bound the Pod to node {node}, not to {released_to}, where its data is{why}; the Pod mounts"
        " nothing of the cache, so it starts without"
    )


def only_preferred(unreserved: Sequence[str]) -> str:
    return f". The Pod prefers this node and is not tied to it, for the seat cannot stand for: {'; '.join(unreserved)}"


def not_scheduled(node: str, grace_s: float, scheduler: str, *, uncontrolled: bool = False) -> str:
    """scheduler: its own words. uncontrolled: the Pod is to be evicted, and no controller would make another."""
    stuck = (
        f"released to node {node}, but not scheduled for {format_seconds(grace_s)}: {scheduler.rstrip('.')}. Make room"
        " there, or delete the Pod"
    )
    if uncontrolled:
        return (
            f"{stuck} and create it again. It is not evicted, though annotation {names.ON_STUCK_ANNOTATION}=evict asks"
            " for it: no controller owns the Pod, so nobody would make a fresh one"
        )
    return f"{stuck} for a fresh one (which annotation {names.ON_STUCK_ANNOTATION}=evict does where a controller owns the Pod)"


def evicted(node: str, grace_s: float, scheduler: str, group: str) -> str:
    """scheduler: its own words. group: the Pod's; empty = none."""
    others = f". The other Pods of group {group} stay; the fresh Pod joins them once its data is there" if group else ""
    return (
        f"evicted, for annotation {names.ON_STUCK_ANNOTATION} says so: it was released to node {node} and not"
        f" scheduled for {format_seconds(grace_s)}: {scheduler.rstrip('.')}{others}"
    )


def failing(what: str, error: ErrorInfo) -> str:
    """error: with the server's own words."""
    return f"cannot {what}: {error.type}: {error.message}; tried again by itself, at the latest after five minutes"


def incomplete(node: str, uris: str) -> str:
    return f"{uris} is not complete on node {node} after it was fetched; fetching what is missing"


def never_complete(uris: str, times: int) -> str:
    return f"{uris} was fetched {times} times and is still not complete: something changes it on the disk"


def checksum_required(uris: str) -> str:
    return (
        f"the origin declares no checksum for objects of {uris}, and the operator's policy or annotation"
        f" {names.REQUIRE_ANNOTATION} requires one. Upload them with a checksum"
        " (aws s3 cp --checksum-algorithm CRC64NVME), or give the requirement up"
    )


def stopped_on_arrival(stop: Stop, node: str, action: str) -> Stopped:
    """stop: PAUSE or CANCEL. action: as of `stopped`."""
    phase, event, verb = {
        Stop.PAUSE: (Phase.PAUSED, "Paused", "resume"),
        Stop.CANCEL: (Phase.CANCELLED, "Cancelled", "retry"),
    }[stop]
    message = (
        f"{event.lower()}; what was fetched on node {node} is kept. The Pod is bound there and its containers wait for"
        f" the data: go on with annotation {names.ACTION_ANNOTATION}={options.next_action(verb, action)}, or delete the"
        " Pod, which holds its GPUs meanwhile"
    )
    return Stopped(phase, event, message)


RELEASED_COLD = "gate time is over and on-timeout is release: the Pod starts without its data"
BEGINS_ANEW = "the Pod's annotations were changed: what they ask for now is resolved and placed anew"
GATE_REMOVED = "another controller or a person removed the gate: the Pod starts without its data being checked"


def refused_cold(error: ErrorInfo) -> ErrorInfo:
    words = f"the gate time is over and on-timeout is release, but the release is refused: {error.message}"
    return ErrorInfo(error.type, words)


def stopped(reason: Stop, error: ErrorInfo | None, workflow_id: str, action: str = "") -> Stopped:
    """action: value of the Pod's `action` annotation, which acts again only when it changes."""
    retry = f"annotation {names.ACTION_ANNOTATION}={options.next_action('retry', action)}"
    signal = f"temporal workflow signal --workflow-id {workflow_id} --name retry"
    match reason:
        case Stop.PAUSE:
            resume = f"annotation {names.ACTION_ANNOTATION}={options.next_action('resume', action)}"
            return Stopped(
                Phase.PAUSED,
                "Paused",
                f"paused; what was fetched is kept, and the gate time stands still. Go on with {resume}",
            )
        case Stop.CANCEL:
            return Stopped(
                Phase.CANCELLED,
                "Cancelled",
                f"cancelled; the Pod stays gated, and its gate time stands still. Start again with {retry}",
            )
        case Stop.DATASET_REMOVED:
            return Stopped(
                Phase.DATASET_REMOVED,
                "DatasetRemoved",
                f"annotation {names.DATASET_ANNOTATION} is missing or empty, and the gate is still there."
                f" Put it back, or remove the gate {names.GATE} to start the Pod without data",
            )
        case Stop.TIMEOUT:
            return Stopped(
                Phase.AWAITING_OPERATOR,
                "GateTimeOver",
                "max-gate-time is over and on-timeout is keep; the Pod stays gated. Raise the limit, or"
                f" {retry}, or: {signal}",
            )
        case _:
            error = error or ErrorInfo("Error", "unknown")
            return Stopped(
                Phase.AWAITING_OPERATOR,
                error.type,
                f"{error.type}: {error.message.rstrip('.')}. When it is mended: {retry}, or: {signal}",
            )
