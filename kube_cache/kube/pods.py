"""Reading a Pod's or a seat's JSON: the only module that knows where Kubernetes keeps what. Pure functions.

`pod_facts` and `seat_facts` keep the few fields that a start or a signal is made of: a cluster's Pods pass through here by the
thousand, so nothing is kept that is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kube_cache import names
from kube_cache.contracts.common import PodRef, PodView
from kube_cache.kube.client import Json

_ENDED = ("Succeeded", "Failed")


class Receipt(NamedTuple):
    """What the releasing patch wrote on the Pod: the node, its disk, and the snapshots that it was released with."""

    node: str
    cache_id: str
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PodFacts:
    ref: PodRef
    view: PodView
    node: str
    ended: bool
    managed: bool
    unschedulable: str
    """Message of the scheduler for a Pod without gates that fits no node; else empty."""
    receipt: Receipt
    version: int = field(default=0, compare=False)
    """resourceVersion: of two states of one object, the greater is the later (comparable by Kubernetes' own rules)."""
    raw: Json | None = field(default=None, compare=False)
    """The Pod's JSON without managedFields, kept while our gate is on it: placing and releasing the Pod read it from here."""

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
    """The seat was preempted or evicted, or its node is gone. Our own deletion of a seat does not set it."""
    unschedulable: str


def pod_facts(pod: Json) -> PodFacts | None:
    """None for a Pod that requires no dataset."""
    meta = pod["metadata"]
    written = _annotations(pod)
    if names.DATASET_ANNOTATION not in written:
        return None
    gates = gate_names(pod)
    view = PodView(
        dataset=written[names.DATASET_ANNOTATION],
        foreign_gates=foreign_gates(pod),
        gated=names.GATE in gates,
        max_gate_time=written.get(names.MAX_GATE_TIME_ANNOTATION, ""),
        on_timeout=written.get(names.ON_TIMEOUT_ANNOTATION, ""),
        priority=written.get(names.PRIORITY_ANNOTATION, ""),
        action=written.get(names.ACTION_ANNOTATION, ""),
        verify=written.get(names.VERIFY_ANNOTATION, ""),
    )
    gated = None
    if view.gated:  # managedFields is half of a Pod, and nobody reads it
        gated = {**pod, "metadata": {key: value for key, value in meta.items() if key != "managedFields"}}
    return PodFacts(
        version=int(meta.get("resourceVersion") or 0),
        raw=gated,
        ref=ref(pod),
        view=view,
        node=node_name(pod),
        ended=has_ended(pod),
        managed=(meta.get("labels") or {}).get(names.MANAGED_LABEL) == "true",
        unschedulable=_unschedulable(pod),
        receipt=receipt(pod),
    )


def seat_facts(seat: Json) -> SeatFacts | None:
    """None for a Pod without the annotation that names a seat's workflow."""
    meta = seat["metadata"]
    workflow_id = seat_workflow_id(seat)
    if not workflow_id:
        return None
    conditions = (seat.get("status") or {}).get("conditions") or []
    ended = has_ended(seat)
    return SeatFacts(
        uid=meta["uid"],
        name=meta["name"],
        workflow_id=workflow_id,
        node=node_name(seat),
        ended=ended or "deletionTimestamp" in meta,
        disrupted=ended or any(condition.get("type") == "DisruptionTarget" for condition in conditions),
        unschedulable=_unschedulable(seat),
    )


def ref(pod: Json) -> PodRef:
    meta = pod["metadata"]
    return PodRef(meta["namespace"], meta["name"], meta["uid"])


def node_name(pod: Json) -> str:
    """Node that the Pod is bound to; empty while it is not bound."""
    return pod["spec"].get("nodeName") or ""


def has_ended(pod: Json) -> bool:
    return (pod.get("status") or {}).get("phase") in _ENDED


def is_living(pod: Json) -> bool:
    """Whether the Pod requires a dataset and has not ended."""
    return names.DATASET_ANNOTATION in _annotations(pod) and not has_ended(pod)


def gate_names(pod: Json) -> list[str]:
    return [gate["name"] for gate in pod["spec"].get("schedulingGates") or []]


def foreign_gates(pod: Json) -> list[str]:
    """Names of the scheduling gates that are not ours."""
    return [name for name in gate_names(pod) if name != names.GATE]


def receipt(pod: Json) -> Receipt:
    """The receipt as written; its fields are empty on a Pod that we have not released."""
    written = _annotations(pod)
    digests = written.get(names.SNAPSHOT_ANNOTATION, "").split(",")
    return Receipt(
        written.get(names.NODE_ANNOTATION, ""),
        written.get(names.CACHE_ID_ANNOTATION, ""),
        tuple(digest for digest in digests if digest),
    )


def receipt_if_bound(pod: Json) -> Receipt | None:
    """The receipt of a Pod that is bound to the node that its receipt names; else None. The disk may be another by now."""
    found = receipt(pod)
    return found if found.node and found.node == node_name(pod) else None


def receipt_annotations(node: str, cache_id: str, digests: Sequence[str]) -> dict[str, str]:
    """The receipt as the releasing patch writes it; `receipt` reads it back."""
    return {
        names.NODE_ANNOTATION: node,
        names.CACHE_ID_ANNOTATION: cache_id,
        names.SNAPSHOT_ANNOTATION: ",".join(digests),
    }


def seat_workflow_id(seat: Json) -> str:
    """Workflow id of the `WarmPod` that the seat belongs to; empty for another Pod."""
    return _annotations(seat).get(names.SEAT_WORKFLOW_ANNOTATION, "")


def _annotations(pod: Json) -> dict[str, str]:
    return pod["metadata"].get("annotations") or {}


def _unschedulable(pod: Json) -> str:
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if (
            condition.get("type") == "PodScheduled"
            and condition.get("status") == "False"
            and condition.get("reason") == "Unschedulable"
        ):
            return str(condition.get("message") or "the scheduler gives no reason")
    return ""
