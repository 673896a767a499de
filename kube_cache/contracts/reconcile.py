"""`Reconcile` and its shards: what crosses Temporal. Each message is of one node, or of some dozens.

What the cluster holds as a whole stays in the operator's memory (activities.cluster.survey).
"""

from dataclasses import dataclass, field

from kube_cache.contracts.common import Consumer


@dataclass(frozen=True)
class ReconcileInput:
    interval_s: float = 300.0
    """Seconds between two runs."""


@dataclass(frozen=True)
class ReconcileRequestInput:
    """A node that is to be visited by the next run."""

    node: str


@dataclass(frozen=True)
class NodeVisited:
    """The node was compared with what it should hold, and repaired."""

    began_at: float
    """When the visit began, seconds since the epoch, by the clock of workflows."""


@dataclass(frozen=True)
class SurveyRef:
    """The survey that a run is made on. An operator that does not have it makes one."""

    run_id: str
    turn: int = 0
    """Number of the interval. What a run may leave out has its turn in one of the next runs."""


@dataclass(frozen=True)
class SurveyResult:
    """What the survey has found, as numbers."""

    shards: int
    """Number of shards into which the nodes are divided."""
    nodes: int = 0
    pods: int = 0
    """Number of Pods that have not ended, whether ours or not."""
    entities: int = 0
    warm_pods: int = 0
    skipped: int = 0
    """Number of things that were left out because they cannot be read."""


@dataclass(frozen=True)
class TellResult:
    """What the workflows were told."""

    signalled: int = 0
    seats_deleted: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class ShardInput:
    survey: SurveyRef
    shard: int
    shards: int


@dataclass(frozen=True)
class Entity:
    """An open `DatasetOnNode` of one node."""

    cache_id: str
    digest: str
    ready: bool
    """The disk should hold the snapshot, or Pods that run on it wait for a repair that failed."""


@dataclass(frozen=True)
class NodePlan:
    """A node as it should be."""

    node: str
    exists: bool = True
    """The cluster has the node."""
    living: list[str] = field(default_factory=list)
    """UIDs of Pods that may hold a pin there: bound to the node, released to it, or placed on it and still gated."""
    receipts: dict[str, list[str]] = field(default_factory=dict)
    """UID -> digests in the order of its receipt, of each Pod that is released to this node and has not ended."""
    entities: list[Entity] = field(default_factory=list)
    idle: bool = False
    """Nothing of ours is known there: the node may have no agent."""
    asked: bool = False
    """The node's agent has asked for this visit, and its request is to be told of it."""


@dataclass(frozen=True)
class ShardPlan:
    nodes: list[NodePlan]
    skipped: int = 0


@dataclass(frozen=True)
class SettleInput:
    """What a node's disk has and the plan does not explain."""

    shard: ShardInput
    node: str
    doubtful: list[str] = field(default_factory=list)
    """UIDs that have a pin there and are not in the plan."""
    lost: list[str] = field(default_factory=list)
    """Digests of the snapshots that are not complete any more."""


@dataclass(frozen=True)
class SettleResult:
    ended: list[str] = field(default_factory=list)
    """UIDs of `doubtful` whose pins go: the Pod is gone, has ended, or is bound to another node."""
    consumers: dict[str, list[Consumer]] = field(default_factory=dict)
    """Digest of `lost` -> Pods that are released to the node with that snapshot and have not ended."""
    skipped: int = 0


@dataclass(frozen=True)
class ReconcileDiskInput:
    living: list[str]
    """UIDs of Pods that keep the pins that they have on this node."""
    bound: dict[str, list[str]] = field(default_factory=dict)
    """Digest -> UIDs of the Pods that are bound to this node with that snapshot. Of operators of older builds."""
    receipts: dict[str, list[str]] = field(default_factory=dict)
    """UID -> digests in the order of its receipt, of each Pod that is released to this node and has not ended."""
    ask: bool = False
    """Name the other Pods that have a pin here (`doubtful`) instead of removing their pins: `living` is not all."""
    ended: list[str] = field(default_factory=list)
    """UIDs of Pods whose pins go."""
    expected: list[str] | None = None
    """Digests that `complete` is asked for; None: every snapshot of the disk."""


@dataclass(frozen=True)
class ReconcileDiskResult:
    cache_id: str
    complete: list[str]
    """Digests of the snapshots that are complete on this disk."""
    unpinned: int = 0
    """Number of pins removed because their Pod has ended."""
    pinned: int = 0
    """Number of pins restored for bound Pods."""
    wrong_links: list[str] = field(default_factory=list)
    """UIDs of released Pods one of whose links leads to another snapshot than their receipt names."""
    disk_fault: str = ""
    """The fault of the disk itself that the scrub has met lately, with the remedy; empty if none."""
    doubtful: list[str] = field(default_factory=list)
    """UIDs that have a pin here, older than ten minutes, and that the input does not name; at most a thousand."""


@dataclass(frozen=True)
class ReconcileResult:
    """Of a run, or of one shard."""

    nodes_seen: int = 0
    """Number of nodes whose agent answered."""
    nodes_silent: int = 0
    """Number of nodes with an entity or a released Pod whose agent did not answer."""
    snapshots_lost: int = 0
    unpinned: int = 0
    pinned: int = 0
    nodes_faulty: int = 0
    """Number of nodes whose disk is failing."""
    wrong_links: int = 0
    """Number of released Pods whose link is not the one that their receipt names."""
    signalled: int = 0
    """Number of workflows that were told what they may have missed."""
    skipped: int = 0
    """Number of Pods, seats, nodes and workflows that were left out because something was wrong with them."""
    silent: list[str] = field(default_factory=list)
    """The first names of the silent nodes."""
