"""Whether a node can still take a Pod: what became of the node since the scheduler chose it for the Pod's seat.

Judges what changes under a Pod that waits: cordon, taints, readiness, disk pressure, deletion. The rest of the
scheduler's rules was asked when the seat was bound, and the seat holds the room. The comparison with tolerations is
that of `ToleratesTaint` in k8s.io/api 1.37. Each reason completes "node <name> …", and names the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from kube_cache.kube.client import Json
from kube_cache.kube.nodes import NodeFacts, Taint

DELETED = "was deleted"

_REPELLING = ("NoSchedule", "NoExecute")
_CORDONED = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")
_NOT_READY = Taint("node.kubernetes.io/not-ready", "", "NoSchedule")
# Written by the node lifecycle controller beside the condition Ready.
_READINESS_KEYS = (_NOT_READY.key, "node.kubernetes.io/unreachable")
_PRESSURE = "DiskPressure"
_DECIMAL = re.compile(r"0|-?[1-9][0-9]*")


class Toleration(NamedTuple):
    key: str
    operator: str
    value: str
    effect: str


def tolerations(pod: Json) -> tuple[Toleration, ...]:
    return tuple(
        Toleration(
            one.get("key") or "", one.get("operator") or "Equal", one.get("value") or "", one.get("effect") or ""
        )
        for one in (pod.get("spec") or {}).get("tolerations") or []
    )


def unfit(node: NodeFacts, pod: Json) -> str:
    """Say why the node cannot take the Pod now; empty if nothing is known against it."""
    tolerated = tolerations(pod)
    return lasting(node, tolerated) or passing(node, tolerated)


def lasting(node: NodeFacts, tolerated: Iterable[Toleration]) -> str:
    """Say why the node cannot take a Pod with these tolerations until somebody acts; empty if it can."""
    tolerated = tuple(tolerated)
    if node.deleting:
        return "is being deleted"
    if _PRESSURE in node.pressures:
        # Whatever the Pod tolerates: the kubelet admits none but critical Pods, and evicts those that are there.
        return f"has {_PRESSURE}, so that its kubelet admits no Pod: free its disks"
    is_cordoned = node.unschedulable or any(taint.key == _CORDONED.key for taint in node.taints)
    if is_cordoned and not _is_tolerated(_CORDONED, tolerated):
        return f"is cordoned; what is on its disk is used again after: kubectl uncordon {node.name}"
    for taint in node.taints:
        if taint.key in (_CORDONED.key, *_READINESS_KEYS) or _is_tolerated(taint, tolerated):
            continue
        value = f"={taint.value}" if taint.value else ""
        return f"has the taint {taint.key}{value}:{taint.effect}, which the Pod does not tolerate"
    return ""


def passing(node: NodeFacts, tolerated: Iterable[Toleration]) -> str:
    """Say why the node cannot take such a Pod for the moment, which may be over in seconds; empty if it can."""
    tolerated = tuple(tolerated)
    taints = [taint for taint in node.taints if taint.key in _READINESS_KEYS]
    if not node.ready and not taints:
        taints = [_NOT_READY]  # the controller is about to write it
    if all(_is_tolerated(taint, tolerated) for taint in taints):
        return ""
    return "is not ready: look at its kubelet"


def _is_tolerated(taint: Taint, tolerated: Iterable[Toleration]) -> bool:
    return taint.effect not in _REPELLING or any(_tolerates(one, taint) for one in tolerated)


def _tolerates(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect not in ("", taint.effect) or toleration.key not in ("", taint.key):
        return False
    match toleration.operator:
        case "Exists":
            return True
        case "Equal":
            return toleration.value == taint.value
        case "Lt" | "Gt":
            if not (_DECIMAL.fullmatch(toleration.value) and _DECIMAL.fullmatch(taint.value)):
                return False
            limit, value = int(toleration.value), int(taint.value)
            return value < limit if toleration.operator == "Lt" else value > limit
        case _:
            return False
