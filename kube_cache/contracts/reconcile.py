"""`Reconcile`: open workflows, living Pods and the contents of a disk, as its activities report them."""

from dataclasses import dataclass, field

from kube_cache.contracts.common import Consumer


@dataclass(frozen=True)
class Entity:
    """An open `DatasetOnNode`, as its workflow id tells."""

    workflow_id: str
    node: str
    cache_id: str
    digest: str
    ready: bool
    """The disk should hold the snapshot, or Pods that run on it wait for a repair that failed."""


@dataclass(frozen=True)
class BoundPods:
    """Pods that were released with a snapshot, by their receipts, and have not ended."""

    node: str
    digest: str
    uids: list[str]


@dataclass(frozen=True)
class ClusterState:
    """Open workflows in Temporal and living Pods in Kubernetes. The workflows were read first."""

    entities: list[Entity]
    living: list[str]
    """UIDs of Pods that are gated on a dataset, or bound with one and not ended."""
    nodes: list[str]
    """Names of the cluster's nodes."""
    bound: list[BoundPods] = field(default_factory=list)


@dataclass(frozen=True)
class FindBoundPodsInput:
    node: str
    digests: list[str]


@dataclass(frozen=True)
class FindBoundPodsResult:
    consumers: dict[str, list[Consumer]]
    """Digest -> Pods that are bound to the node with that snapshot and have not ended."""


@dataclass(frozen=True)
class ReconcileDiskInput:
    living: list[str]
    """UIDs of Pods that may hold a pin on this node: all living ones, except those bound elsewhere."""
    bound: dict[str, list[str]] = field(default_factory=dict)
    """Digest -> UIDs of the Pods that are bound to this node with that snapshot."""


@dataclass(frozen=True)
class ReconcileDiskResult:
    cache_id: str
    complete: list[str]
    """Digests of the snapshots that are complete on this disk."""
    unpinned: int = 0
    """Number of pins removed because their Pod has ended."""
    pinned: int = 0
    """Number of pins restored for bound Pods."""


@dataclass(frozen=True)
class ReconcileResult:
    nodes_seen: int = 0
    """Number of nodes whose agent answered."""
    nodes_silent: int = 0
    """Number of nodes with an entity whose agent did not answer."""
    snapshots_lost: int = 0
    unpinned: int = 0
    pinned: int = 0
