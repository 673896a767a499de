"""Facts about one Pod from which `kube_cache.insight.why` tells why the Pod waits. Plain values; reads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kube_cache import names
from kube_cache.contracts.common import Warming
from kube_cache.kube import mounts, pods
from kube_cache.kube.warming import read_warming
from kube_cache.temporal.downloads import Download

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Told:
    """An Event of ours about the Pod. phase: that it was written in."""

    reason: str
    phase: str
    at: float
    """Seconds since the epoch, like all times here."""


@dataclass(frozen=True)
class PodSide:
    """What the API server says about the Pod."""

    uid: str = ""
    phase: str = ""
    """Reason of our condition, a `Phase`; empty if the Pod says nothing yet."""
    message: str = ""
    datasets: tuple[str, ...] = ()
    gated: bool = True
    foreign_gates: tuple[str, ...] = ()
    node: str = ""
    """Node that the Pod is bound to; empty while it is not bound."""
    receipt_node: str = ""
    """Node that the Pod was released to; empty without a receipt."""
    mounts_cache: bool = True
    has_ended: bool = False
    is_deleted: bool = False
    """The Pod is being deleted; a finalizer may hold it."""
    unschedulable: str = ""
    """The scheduler's words about a Pod without gates that fits no node; else empty."""
    verifies_fully: bool = False
    group: str = ""
    created_at: float = 0
    bound_at: float = 0
    """0 while the Pod is not bound."""
    warming: Warming | None = None
    told: tuple[Told, ...] = ()
    """Oldest first. Kubernetes forgets an Event after an hour."""


@dataclass(frozen=True)
class Call:
    """An activity that the Pod's workflow waits for."""

    name: str
    is_running: bool
    """A worker has it; else it waits for one, or for its next attempt."""
    attempt: int = 1
    failure: str = ""
    """`Type: message` of the last attempt; empty if none has failed."""
    since: float = 0


@dataclass(frozen=True)
class WorkflowSide:
    """What Temporal says about the Pod's `WarmPod`."""

    is_running: bool
    phase: str = ""
    node: str = ""
    started_at: float = 0
    calls: tuple[Call, ...] = ()
    problem: str = ""
    """Why its workflow tasks fail, in Temporal's words; empty while they succeed."""
    ended_as: str = ""


@dataclass(frozen=True)
class Facts:
    name: str
    """`namespace/pod`."""
    pod: PodSide | None = None
    """None: no such Pod, or the API server does not answer."""
    kubernetes_error: str = ""
    """Why the API server tells nothing; empty if it answers."""
    workflow: WorkflowSide | None = None
    """None: Temporal knows no such workflow, or does not answer."""
    temporal_error: str = ""
    """Why Temporal tells nothing; empty if it answers."""
    downloads: Mapping[str, Download] = field(default_factory=dict)
    """Of the snapshots that the Pod waits for, by digest, as far as Temporal knows them."""
    joined: Sequence[str] = ()
    """`namespace/name` of the prefetches that fetch one of them on the same node, so that the Pod waits for their
    download.
    """


def pod_side(pod: Json, events: Sequence[Json] = (), *, cache_root: str = mounts.DEFAULT_ROOT) -> PodSide:
    """Read a Pod's JSON. events: about the Pod, of any reporter."""
    body = dict(pod)
    view = pods.pod_view(body, cache_root)
    condition = _condition(pod, names.CONDITION)
    scheduled = _condition(pod, "PodScheduled")
    is_unschedulable = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
    return PodSide(
        uid=pod["metadata"]["uid"],
        phase=str(condition.get("reason") or ""),
        message=str(condition.get("message") or ""),
        datasets=tuple(uri.strip() for uri in view.dataset.split(",") if uri.strip()),
        gated=view.gated,
        foreign_gates=tuple(view.foreign_gates),
        node=pods.node_name(body),
        receipt_node=pods.receipt(body).node,
        mounts_cache=view.mounts_cache,
        has_ended=pods.has_ended(body),
        is_deleted=view.deleting,
        unschedulable=str(scheduled.get("message") or "the scheduler gives no reason") if is_unschedulable else "",
        verifies_fully=view.verify == "full",
        group=view.group,
        created_at=timestamp(pod["metadata"].get("creationTimestamp")),
        bound_at=timestamp(scheduled.get("lastTransitionTime")) if scheduled.get("status") == "True" else 0,
        warming=read_warming(pods.warming_mark(body)),
        told=tuple(sorted((_told(event) for event in events if _is_ours(event)), key=lambda told: told.at)),
    )


def timestamp(text: object) -> float:
    """Parse a time as Kubernetes writes it into seconds since the epoch; 0 for none, or for one that is no time."""
    try:
        parsed = datetime.fromisoformat(str(text))
    except ValueError:
        return 0
    return parsed.replace(tzinfo=parsed.tzinfo or UTC).timestamp()


def _condition(pod: Json, kind: str) -> Json:
    conditions: list[Json] = (pod.get("status") or {}).get("conditions") or []
    return next((each for each in conditions if each.get("type") == kind), {})


def _is_ours(event: Json) -> bool:
    return names.REPORTING_CONTROLLER in (event.get("reportingComponent"), event.get("reportingController"))


def _told(event: Json) -> Told:
    written = event.get("eventTime") or event.get("firstTimestamp") or event["metadata"].get("creationTimestamp")
    return Told(str(event.get("reason") or ""), str(event.get("action") or ""), timestamp(written))
