"""Reader of a node's JSON: the labels, taints and conditions that decide whether a Pod can run there.

Pure functions. The scheduler decides where a Pod runs; these facts tell when its decision for a seat no longer holds.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import datetime

from kube_cache.kube.client import Json


@dataclass(frozen=True, slots=True)
class Taint:
    key: str
    value: str
    effect: str
    """`NoSchedule`, `PreferNoSchedule` or `NoExecute`."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    name: str
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    """The node is cordoned."""
    ready: bool = True
    pressures: tuple[str, ...] = ()
    """Types of its pressure conditions that are true, such as `DiskPressure`."""
    deleting: bool = False
    created_at: float = 0
    """Seconds since the epoch; 0 = unknown."""


def node_facts(node: Json) -> NodeFacts:
    meta, spec = node["metadata"], node.get("spec") or {}
    conditions = {
        condition.get("type"): condition.get("status")
        for condition in (node.get("status") or {}).get("conditions") or []
    }
    return NodeFacts(
        name=meta["name"],
        # Equal strings are kept once for all nodes: of a hundred labels that discovery writes, hardly one is its own.
        labels={sys.intern(key): sys.intern(value) for key, value in (meta.get("labels") or {}).items()},
        taints=tuple(
            Taint(taint["key"], taint.get("value") or "", taint.get("effect") or "")
            for taint in spec.get("taints") or []
        ),
        unschedulable=bool(spec.get("unschedulable")),
        ready=conditions.get("Ready") == "True",
        pressures=tuple(
            str(kind) for kind, status in conditions.items() if str(kind).endswith("Pressure") and status == "True"
        ),
        deleting="deletionTimestamp" in meta,
        created_at=_seconds(meta.get("creationTimestamp")),
    )


def _seconds(timestamp: str | None) -> float:
    return datetime.fromisoformat(timestamp).timestamp() if timestamp else 0
