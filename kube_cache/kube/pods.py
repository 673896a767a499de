"""Reader of a Pod's or a seat's JSON: the only module that knows in which field Kubernetes keeps a fact.

`pod_facts` and `seat_facts` keep the few fields that a start or a signal is made of, because a cluster's Pods pass
through here by the thousand. Pure functions; writing a Pod is the business of
gate, conditions and seats.
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
    """Annotations of the releasing patch: the node, its disk, and the snapshots that the Pod was released with."""

    node: str
    cache_id: str
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PodFacts:
    """Facts about a Pod that starts and signals are made of."""

    ref: PodRef
    view: PodView
    node: str
    """Node that the Pod is bound to; empty while it is not bound."""
    ended: bool
    managed: bool
    """The Pod was released by us."""
    unschedulable: str
    """Message of the scheduler for a Pod without gates that fits no node; else empty."""
    receipt: Receipt
    version: int = field(default=0, compare=False)
    """resourceVersion. Of two states of one object the greater is the later, by Kubernetes' own rules."""
    raw: Json | None = field(default=None, compare=False)
    """JSON of the Pod without managedFields, while our gate holds the Pod; else None. Placing and releasing read it."""

    @property
    def workflow_id(self) -> str:
        return names.warm_pod_id(self.ref.namespace, self.ref.name, self.ref.uid)


@dataclass(frozen=True, slots=True)
class SeatFacts:
    """Facts about a seat that signals are made of."""

    uid: str
    name: str
    workflow_id: str
    """Id of the `WarmPod` that the seat belongs to."""
    node: str
    """Node that the seat is bound to; empty while it is not bound."""
    ended: bool
    """The seat has ended or is being deleted."""
    disrupted: bool
    """The seat was preempted or evicted, or its node is gone. Our own deletion of a seat does not set it."""
    unschedulable: str


def pod_facts(pod: Json) -> PodFacts | None:
    """Return the facts; None for a Pod that requires no dataset."""
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
    raw = None
    if view.gated:  # without managedFields, which are half of a Pod's JSON and read by nobody
        raw = {**pod, "metadata": {key: value for key, value in meta.items() if key != "managedFields"}}
    return PodFacts(
        version=int(meta.get("resourceVersion") or 0),
        raw=raw,
        ref=ref(pod),
        view=view,
        node=node_name(pod),
        ended=has_ended(pod),
        managed=(meta.get("labels") or {}).get(names.MANAGED_LABEL) == "true",
        unschedulable=_unschedulable(pod),
        receipt=receipt(pod),
    )


def seat_facts(seat: Json) -> SeatFacts | None:
    """Return the facts; None for a Pod without the annotation that names a seat's workflow."""
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
    """Whether all containers have ended for good."""
    return (pod.get("status") or {}).get("phase") in _ENDED


def is_living(pod: Json) -> bool:
    """Whether the Pod requires a dataset and has not ended."""
    return names.DATASET_ANNOTATION in _annotations(pod) and not has_ended(pod)


def gate_names(pod: Json) -> list[str]:
    """Names of the scheduling gates that hold the Pod, ours and others'."""
    return [gate["name"] for gate in pod["spec"].get("schedulingGates") or []]


def foreign_gates(pod: Json) -> list[str]:
    """Names of the scheduling gates that are not ours."""
    return [name for name in gate_names(pod) if name != names.GATE]


def receipt(pod: Json) -> Receipt:
    """Return the receipt as written; its fields are empty on a Pod that we have not released."""
    written = _annotations(pod)
    digests = written.get(names.SNAPSHOT_ANNOTATION, "").split(",")
    return Receipt(
        written.get(names.NODE_ANNOTATION, ""),
        written.get(names.CACHE_ID_ANNOTATION, ""),
        tuple(digest for digest in digests if digest),
    )


def receipt_if_bound(pod: Json) -> Receipt | None:
    """Return the receipt if the Pod is bound to the node that it names; else None. The disk may have changed since."""
    written = receipt(pod)
    return written if written.node and written.node == node_name(pod) else None


def receipt_annotations(node: str, cache_id: str, digests: Sequence[str]) -> dict[str, str]:
    """Compose the annotations that the releasing patch writes; `receipt` reads them back."""
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
    """Message of the scheduler that finds no node; empty otherwise."""
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if (
            condition.get("type") == "PodScheduled"
            and condition.get("status") == "False"
            and condition.get("reason") == "Unschedulable"
        ):
            return str(condition.get("message") or "the scheduler gives no reason")
    return ""
