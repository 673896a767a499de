"""`Reconcile`: what is open, what lives, what is on a disk."""

from dataclasses import dataclass, field

from kube_cache.contracts.common import Interest


@dataclass(frozen=True)
class Entity:
    """An open `DatasetOnNode`, as its workflow id tells."""

    workflow_id: str
    node: str
    cache_id: str
    digest: str
    ready: bool
    """The disk should hold it, or Pods that use it wait for what could not be fetched again."""


@dataclass(frozen=True)
class BoundPods:
    """Pods that were released with a snapshot, as their receipts say, and have not ended."""

    node: str
    digest: str
    uids: list[str]


@dataclass(frozen=True)
class Survey:
    """What is open in Temporal and what lives in Kubernetes; the entities were read first."""

    entities: list[Entity]
    living: list[str]
    """UIDs of Pods that are gated on a dataset, or bound with one and not ended."""
    nodes: list[str]
    """Nodes that the cluster has."""
    bound: list[BoundPods] = field(default_factory=list)


@dataclass(frozen=True)
class BoundPodsInput:
    node: str
    digests: list[str]


@dataclass(frozen=True)
class BoundPodsResult:
    users: dict[str, list[Interest]]
    """Digest -> Pods that are bound to the node with it and have not ended."""


@dataclass(frozen=True)
class ReconcileDiskInput:
    living: list[str]
    """UIDs of Pods that may hold something on this node: those that are bound elsewhere may not."""
    bound: dict[str, list[str]] = field(default_factory=dict)
    """Digest -> UIDs of the Pods that are bound to this node with it."""


@dataclass(frozen=True)
class ReconcileDiskResult:
    cache_id: str
    complete: list[str]
    """Digests of the snapshots that are whole on this disk."""
    unpinned: int = 0
    pinned: int = 0
    """Pins of bound Pods that were missing."""


@dataclass(frozen=True)
class ReconcileResult:
    nodes_seen: int = 0
    nodes_silent: int = 0
    vanished: int = 0
    unpinned: int = 0
    pinned: int = 0
