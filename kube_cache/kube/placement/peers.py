"""Pods, and seats of gated Pods, that a constraint may count: where each is, and of two seats which came first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kube_cache import names
from kube_cache.kube import pods
from kube_cache.kube.client import Json


@dataclass(frozen=True, slots=True)
class Peer:
    uid: str
    """Of the Pod; of a seat: of the Pod that it stands for."""
    namespace: str
    """Of a seat: unimportant, its labels name that of its Pod."""
    labels: Mapping[str, str]
    node: str
    """Empty: it has no place yet."""
    is_terminating: bool = False
    is_seat: bool = False
    bound: tuple[str, str] = ("", "")
    """Of a seat: the order in which seats were bound: second, then uid of the seat."""

    @classmethod
    def of_pod(cls, pod: Json) -> Peer:
        """Read a Pod. One that is being released, or was but is not bound yet, is where it was released to."""
        meta = pod["metadata"]
        node = pods.node_name(pod)
        if not node:
            is_gated = names.GATE in pods.gate_names(pod)
            node = pods.nominated_node(pod) if is_gated else pods.receipt(pod).node
        return cls(meta.get("uid", ""), meta["namespace"], meta.get("labels") or {}, node, "deletionTimestamp" in meta)

    @classmethod
    def of_seat(cls, seat: Json) -> Peer:
        meta = seat["metadata"]
        try:
            uid = names.parse_warm_pod_id(pods.seat_workflow_id(seat)).uid
        except ValueError:
            uid = ""
        return cls(
            uid,
            meta["namespace"],
            meta.get("labels") or {},
            pods.node_name(seat),
            "deletionTimestamp" in meta,
            True,
            (_bound_at(seat), meta.get("uid", "")),
        )


def _bound_at(pod: Json) -> str:
    """Second in which the API server bound the Pod; one clock writes it, and no later write of the Pod changes it."""
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "True":
            return str(condition.get("lastTransitionTime") or "")
    return ""
