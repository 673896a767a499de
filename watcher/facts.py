"""What we keep of a Pod or a seat: the few fields that a start or a signal is made of. Pure functions over raw JSON.

A cluster's Pods pass through here by the thousand, so nothing is kept that is not used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kube_cache import names
from kube_cache.contracts import PodRef, PodView

_ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class PodFacts:
    ref: PodRef
    view: PodView
    node: str
    ended: bool
    managed: bool
    unschedulable: str
    """The scheduler's own words, of a Pod without gates that finds no node; else empty."""
    receipt_node: str
    receipt_cache_id: str
    receipt_digests: tuple[str, ...]
    version: int = field(default=0, compare=False)
    """resourceVersion: of two states of one object, the greater is the later (comparable by Kubernetes' own rules)."""
    raw: dict[str, Any] | None = field(default=None, compare=False)
    """The whole Pod, of one that is gated by us: placing and releasing it read it from here."""

    @property
    def workflow_id(self) -> str:
        return names.warm_pod_id(self.ref.namespace, self.ref.name, self.ref.uid)


@dataclass(frozen=True, slots=True)
class SeatFacts:
    uid: str
    name: str
    workflow_id: str
    node: str
    ended: bool
    disrupted: bool
    """Somebody took its place: preempted, evicted, or its node is gone. Our own deletion does not look like that."""
    unschedulable: str


def pod_facts(pod: dict[str, Any]) -> PodFacts | None:
    """None for a Pod that has nothing to do with us."""
    meta = pod["metadata"]
    annotations: dict[str, str] = meta.get("annotations") or {}
    if names.DATASET_ANNOTATION not in annotations:
        return None
    spec, status = pod["spec"], pod.get("status") or {}
    gates = [gate["name"] for gate in spec.get("schedulingGates") or []]
    managed = (meta.get("labels") or {}).get(names.MANAGED_LABEL) == "true"
    view = PodView(
        dataset=annotations[names.DATASET_ANNOTATION],
        foreign_gates=[gate for gate in gates if gate != names.GATE],
        gated=names.GATE in gates,
        max_gate_time=annotations.get(names.MAX_GATE_TIME_ANNOTATION, ""),
        on_timeout=annotations.get(names.ON_TIMEOUT_ANNOTATION, ""),
        priority=annotations.get(names.PRIORITY_ANNOTATION, ""),
        action=annotations.get(names.ACTION_ANNOTATION, ""),
        verify=annotations.get(names.VERIFY_ANNOTATION, ""),
    )
    gated = None
    if view.gated:  # who wrote which field is half of a Pod, and nothing to us
        gated = {**pod, "metadata": {key: value for key, value in meta.items() if key != "managedFields"}}
    return PodFacts(
        version=int(meta.get("resourceVersion") or 0),
        raw=gated,
        ref=PodRef(meta["namespace"], meta["name"], meta["uid"]),
        view=view,
        node=spec.get("nodeName") or "",
        ended=status.get("phase") in _ENDED,
        managed=managed,
        unschedulable=_unschedulable(status),
        receipt_node=annotations.get(names.NODE_ANNOTATION, ""),
        receipt_cache_id=annotations.get(names.CACHE_ID_ANNOTATION, ""),
        receipt_digests=tuple(filter(None, annotations.get(names.SNAPSHOT_ANNOTATION, "").split(","))),
    )


def seat_facts(seat: dict[str, Any]) -> SeatFacts | None:
    meta = seat["metadata"]
    workflow_id = (meta.get("annotations") or {}).get(names.SEAT_WORKFLOW_ANNOTATION)
    if not workflow_id:
        return None
    status = seat.get("status") or {}
    return SeatFacts(
        uid=meta["uid"],
        name=meta["name"],
        workflow_id=workflow_id,
        node=seat["spec"].get("nodeName") or "",
        ended="deletionTimestamp" in meta or status.get("phase") in _ENDED,
        disrupted=status.get("phase") in _ENDED
        or any(one.get("type") == "DisruptionTarget" for one in status.get("conditions") or []),
        unschedulable=_unschedulable(status),
    )


def _unschedulable(status: dict[str, Any]) -> str:
    for condition in status.get("conditions") or []:
        if (
            condition.get("type") == "PodScheduled"
            and condition.get("status") == "False"
            and condition.get("reason") == "Unschedulable"
        ):
            return str(condition.get("message") or "the scheduler gives no reason")
    return ""
