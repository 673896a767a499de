"""Reader of a Pod's or a seat's JSON: the only module that knows in which field Kubernetes keeps a fact.

`pod_facts` and `seat_facts` keep the few fields that a start or a signal is made of, because a cluster's Pods pass
through here by the thousand. Pure functions; writing a Pod is the business of
gate, conditions and seats.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kube_cache import names
from kube_cache.contracts.common import PodRef, PodView
from kube_cache.kube import mounts, requirements
from kube_cache.kube.client import Json
from kube_cache.kube.fitness import Toleration, tolerations
from kube_cache.kube.quantities import gpu_count

_ENDED = ("Succeeded", "Failed")
_PACK_LEVEL = 1  # names and values of variables repeat: the higher levels take longer and are hardly smaller


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
    warming: str = field(default="", compare=False)
    """What the Pod waits for, as `warming_mark` returns it."""
    version: int = field(default=0, compare=False)
    """resourceVersion. Of two states of one object the greater is the later, by Kubernetes' own rules."""
    phase: str = field(default="", compare=False)
    """Phase that our condition on the Pod names; empty if there is none."""
    is_nominated: bool = field(default=False, compare=False)
    """The scheduler keeps a node's room for the Pod: the room of a seat that is being handed over."""
    created: str = field(default="", compare=False)
    """Time of the Pod's creation, as the API server writes it."""
    packed: bytes | None = field(default=None, compare=False)
    """`raw`, as it is kept: some 4 % of the memory that its objects take, for 0.1 ms an event (read it by `unpack`)."""

    @property
    def raw(self) -> Json | None:
        """JSON of the Pod without managedFields, while our gate holds the Pod; else None. A new copy each time.

        Placing and releasing read it, whole: the scheduler may look at any field that the Pod has.
        """
        return None if self.packed is None else unpack(self.packed)

    @property
    def workflow_id(self) -> str:
        return names.warm_pod_id(self.ref.namespace, self.ref.name, self.ref.uid)

    @property
    def is_away(self) -> bool:
        """Whether a Pod that was released to one node is bound to another, where its containers wait for the data."""
        is_elsewhere = bool(self.node and self.receipt.node) and self.node != self.receipt.node
        return is_elsewhere and self.view.mounts_cache and not (self.view.gated or self.ended)

    @property
    def needs_workflow(self) -> bool:
        """Whether a `WarmPod` must look after the Pod: it is gated, or released and not yet bound where its data is."""
        if self.view.gated or self.ended:
            return self.view.gated and not self.ended
        return self.is_away or bool(self.receipt.node and not self.node)


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
    disruption: str = ""
    """Why Kubernetes disrupted the seat, in its own word; empty = it did not, or does not say."""
    deadline_exceeded: bool = False
    """The seat has reached the end of its own time."""
    gpus: int = 0
    """Number of whole GPUs that the seat reserves."""
    tolerations: tuple[Toleration, ...] = ()
    """The Pod's own: what they do not tolerate moves the Pod from its node."""


def unpack(packed: bytes) -> Json:
    """Return a new copy of the JSON that `PodFacts.packed` keeps."""
    pod: Json = json.loads(zlib.decompress(packed))
    return pod


def pod_facts(pod: Json, *, cache_root: str = mounts.DEFAULT_ROOT) -> PodFacts | None:
    """Return the facts; None for a Pod that neither requires a dataset nor carries our gate.

    A gated Pod whose annotation was removed has facts, too: nobody else would remove its gate. cache_root: folder of
    the cache on the nodes.
    """
    meta = pod["metadata"]
    if names.DATASET_ANNOTATION not in _annotations(pod) and names.GATE not in gate_names(pod):
        return None
    view = pod_view(pod, cache_root)
    packed = None
    if view.gated:  # without managedFields, which are half of a Pod's JSON and read by nobody
        raw = {**pod, "metadata": {key: value for key, value in meta.items() if key != "managedFields"}}
        packed = zlib.compress(json.dumps(raw, separators=(",", ":")).encode(), _PACK_LEVEL)
    return PodFacts(
        version=int(meta.get("resourceVersion") or 0),
        phase=_phase(pod),
        is_nominated=bool(nominated_node(pod)),
        created=meta.get("creationTimestamp", ""),
        packed=packed,
        ref=ref(pod),
        view=view,
        node=node_name(pod),
        ended=has_ended(pod),
        managed=(meta.get("labels") or {}).get(names.MANAGED_LABEL) == "true",
        unschedulable=_unschedulable(pod),
        receipt=receipt(pod),
        warming=warming_mark(pod),
    )


def pod_view(pod: Json, cache_root: str) -> PodView:
    """Return the fields that decisions depend on. cache_root: folder of the cache on the nodes."""
    written = _annotations(pod)
    dataset = written.get(names.DATASET_ANNOTATION, "")
    verdict = mounts.judge(pod, cache_root, dataset)
    gated = names.GATE in gate_names(pod)
    return PodView(
        dataset=dataset,
        foreign_gates=foreign_gates(pod),
        gated=gated,
        max_gate_time=written.get(names.MAX_GATE_TIME_ANNOTATION, ""),
        on_timeout=written.get(names.ON_TIMEOUT_ANNOTATION, ""),
        priority=written.get(names.PRIORITY_ANNOTATION, ""),
        action=written.get(names.ACTION_ANNOTATION, ""),
        verify=written.get(names.VERIFY_ANNOTATION, ""),
        require=written.get(names.REQUIRE_ANNOTATION, ""),
        group=written.get(names.GROUP_ANNOTATION, ""),
        group_size=written.get(names.GROUP_SIZE_ANNOTATION, ""),
        on_stuck=written.get(names.ON_STUCK_ANNOTATION, ""),
        neighbours=written.get(names.NEIGHBOURS_ANNOTATION, ""),
        requirements=requirements.fingerprint(pod) if gated else "",
        deleting="deletionTimestamp" in pod["metadata"],
        unsafe_mount=verdict.unsafe,
        mounts_cache=mounts.mounts_cache(pod, cache_root),
        mounts_current=verdict.mounts_current,
    )


def seat_facts(seat: Json) -> SeatFacts | None:
    """Return the facts; None for a Pod without the annotation that names a seat's workflow."""
    meta = seat["metadata"]
    workflow_id = seat_workflow_id(seat)
    if not workflow_id:
        return None
    ended = has_ended(seat)
    disruption = _disruption(seat)
    return SeatFacts(
        uid=meta["uid"],
        name=meta["name"],
        workflow_id=workflow_id,
        node=node_name(seat),
        ended=ended or "deletionTimestamp" in meta,
        disrupted=ended or disruption is not None,
        unschedulable=_unschedulable(seat),
        disruption=disruption or "",
        deadline_exceeded=(seat.get("status") or {}).get("reason") == "DeadlineExceeded",
        gpus=gpu_count(seat),
        tolerations=tolerations(seat),
    )


def ref(pod: Json) -> PodRef:
    meta = pod["metadata"]
    return PodRef(meta["namespace"], meta["name"], meta["uid"])


def node_name(pod: Json) -> str:
    """Node that the Pod is bound to; empty while it is not bound."""
    return pod["spec"].get("nodeName") or ""


def nominated_node(pod: Json) -> str:
    """Node whose room the scheduler keeps for the Pod; empty if there is none."""
    return str((pod.get("status") or {}).get("nominatedNodeName") or "")


def has_ended(pod: Json) -> bool:
    """Whether all containers have ended for good."""
    return (pod.get("status") or {}).get("phase") in _ENDED


def is_pending(pod: Json) -> bool:
    return (pod.get("status") or {}).get("phase") == "Pending"


def is_living(pod: Json) -> bool:
    """Whether the Pod requires a dataset and has not ended."""
    return names.DATASET_ANNOTATION in _annotations(pod) and not has_ended(pod)


def gate_names(pod: Json) -> list[str]:
    """Names of the scheduling gates that hold the Pod, ours and others'."""
    return [gate["name"] for gate in pod["spec"].get("schedulingGates") or []]


def foreign_gates(pod: Json) -> list[str]:
    """Names of the scheduling gates that are not ours."""
    return [name for name in gate_names(pod) if name != names.GATE]


def warming_mark(pod: Json) -> str:
    """Annotation of a Pod that waits for a download (kube_cache.kube.warming); empty otherwise."""
    return _annotations(pod).get(names.WARMING_ANNOTATION, "")


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


def is_elsewhere(pod: Json) -> bool:
    """Whether the Pod is bound to another node than it was released to."""
    node, written = node_name(pod), receipt(pod)
    return bool(node and written.node) and node != written.node


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


def condition_message(pod: Json) -> str:
    """Text of our condition on the Pod; empty if there is none."""
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if condition.get("type") == names.CONDITION:
            return str(condition.get("message") or "")
    return ""


def _phase(pod: Json) -> str:
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if condition.get("type") == names.CONDITION:
            return str(condition.get("reason") or "")
    return ""


def _disruption(pod: Json) -> str | None:
    """Reason of the condition that announces a disruption; None where there is no such condition."""
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if condition.get("type") == "DisruptionTarget":
            return str(condition.get("reason") or "")
    return None


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
