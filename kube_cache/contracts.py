"""What crosses Temporal: one dataclass in and one out for each workflow, activity, signal and query.

Old histories are replayed with new code, so fields are only ever added, each with a default. Payloads stay far under
Temporal's 2 MiB: a snapshot's manifest never travels, only its digest, count and bytes.

No `from __future__ import annotations` here: the payload converter evaluates the hints at each decoding, and evaluating
strings was a twelfth of the operator's time.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class Phase(StrEnum):
    RESOLVING = "Resolving"
    WAITING_FOR_GATES = "WaitingForGates"
    PLACING = "Placing"
    CHECKING = "Checking"
    WAITING_FOR_DISK = "WaitingForDisk"
    WARMING = "Warming"
    VERIFYING = "Verifying"
    RELEASING = "Releasing"
    BINDING = "Binding"
    DONE = "Done"
    AWAITING_OPERATOR = "AwaitingOperator"
    PAUSED = "Paused"
    CANCELLED = "Cancelled"
    POD_GONE = "PodGone"
    READY = "Ready"
    """Of `DatasetOnNode` only: the snapshot is whole on the node's disk."""


@dataclass(frozen=True)
class PodRef:
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True)
class PodView:
    """What the watcher saw of a Pod, cut down to what a decision needs; option values are as the user wrote them."""

    dataset: str = ""
    foreign_gates: list[str] = field(default_factory=list)
    gated: bool = True
    max_gate_time: str = ""
    on_timeout: str = ""
    priority: str = ""
    action: str = ""
    verify: str = ""


@dataclass(frozen=True)
class Policy:
    """Operator settings that a workflow needs; they ride in the input because a workflow reads no environment."""

    operator_namespace: str = "kube-cache-system"
    check_schedule_to_start_s: float = 10
    stream_schedule_to_start_s: float = 30
    stream_heartbeat_s: float = 10
    linger_s: float = 60
    bind_grace_s: float = 60
    node_exclusion_s: float = 600
    disk_wait_s: float = 300
    """Seconds that a Pod waits for room on the nodes that refused it before it looks at all nodes again; the second time
    twice as long, and so on, up to twelve times."""
    speak_after_s: float = 10
    """Seconds of a silent phase after which the Pod says what it waits for. Longer than a hit takes in a burst of
    hundreds: to speak costs writes, and a busy cluster must not be made busier."""
    max_gate_time_s: float = 0
    """Applies when the Pod names none; 0 = no limit."""
    sight_s: float = 0
    """Seconds that an activity waits for what the operator's own watch is about to see (docs/design/sightings.md). 0, as
    in inputs from before there was such a wait: everything comes by signal."""


@dataclass(frozen=True)
class Snapshot:
    """What a dataset URI held when it was resolved. digest: 64 hex digits of SHA-256 over the sorted object list."""

    uri: str
    digest: str
    files: int
    bytes: int


@dataclass(frozen=True)
class ErrorInfo:
    """An error as people read it. `type` is a class name of `kube_cache.errors`."""

    type: str
    message: str
    needed_bytes: int = 0
    """Of `InsufficientDisk`: what there must be room for, like the next."""
    needed_inodes: int = 0


@dataclass(frozen=True)
class WarmPodInput:
    pod: PodRef
    view: PodView = field(default_factory=PodView)
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True)
class WarmPodResult:
    outcome: str
    """`released`, `pod_gone` or `released_elsewhere` (somebody else removed the gate)."""
    node: str = ""
    bytes: int = 0
    fetched_bytes: int = 0
    hit: bool = False
    seconds: float = 0.0
    rate: float = 0.0
    """Bytes per second over the warm; 0 for a hit."""
    gpu_seconds_saved: float = 0.0
    """GPUs of the Pod times the seconds it was gated for data instead of holding them."""


@dataclass(frozen=True)
class WarmPodStatus:
    """Answer of the `status` query."""

    phase: str
    message: str = ""
    node: str = ""
    datasets: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    error: ErrorInfo | None = None


# Activities on the operator queue.


@dataclass(frozen=True)
class ResolveInput:
    pod: PodRef
    dataset: str
    """The annotation as written; several URIs are comma-separated."""


@dataclass(frozen=True)
class ResolveResult:
    snapshots: list[Snapshot]


@dataclass(frozen=True)
class CreateSeatInput:
    pod: PodRef
    workflow_id: str
    number: int
    namespace: str
    snapshots: list[Snapshot] = field(default_factory=list)
    """Nodes that already hold these are preferred."""
    exclude_nodes: list[str] = field(default_factory=list)
    wait_s: float = 0
    """Seconds to wait for the scheduler."""


@dataclass(frozen=True)
class CreateSeatResult:
    name: str
    gpus: int = 0
    """GPUs that the Pod asks for (sum of nvidia.com/gpu limits), for the savings in the result."""
    node: str = ""
    """Where the seat is bound; empty when it was not yet, and the signal `seat_bound` will tell."""
    holders: dict[str, list[str]] = field(default_factory=dict)
    """Digest -> nodes whose disk holds it, as the inventory says."""


@dataclass(frozen=True)
class DeleteSeatInput:
    namespace: str
    name: str


@dataclass(frozen=True)
class Interest:
    """One Pod's wish for a dataset on a node."""

    workflow_id: str
    pod: PodRef
    priority: int = 0
    hit: bool = False
    """The disk holds it already: register the use, fetch nothing, answer nothing."""


@dataclass(frozen=True)
class DatasetOnNodeInput:
    node: str
    cache_id: str
    snapshot: Snapshot
    policy: Policy = field(default_factory=Policy)
    users: list[Interest] = field(default_factory=list)
    """Carried over by continue-as-new, like all below."""
    ready: bool = False
    paused: bool = False
    waiting: list[Interest] = field(default_factory=list)
    mending: list[str] = field(default_factory=list)
    """Workflow ids of the users for which something is fetched again."""
    unpin: list[PodRef] = field(default_factory=list)
    error: ErrorInfo | None = None
    hands_over: bool = False
    """Whether it may be continued while somebody waits: older histories were not."""


@dataclass(frozen=True)
class JoinInput:
    """Join (signal-with-start) or leave the `DatasetOnNode` entity."""

    dataset: DatasetOnNodeInput
    interest: Interest
    leave: bool = False


@dataclass(frozen=True)
class PatchGateInput:
    pod: PodRef
    node: str
    digests: list[str] = field(default_factory=list)
    cache_id: str = ""
    pin: bool = True
    """False releases the Pod without a node: only for `on-timeout: release`, at its owner's wish."""
    seat: DeleteSeatInput | None = None
    """Deleted straight after the patch: the Pod may need its room."""
    wait_s: float = 0
    """Seconds to wait for the scheduler."""


@dataclass(frozen=True)
class PatchGateResult:
    outcome: str
    """`released`, or `already` when our gate was gone before."""
    bound_node: str = ""
    """Empty when it was not bound yet, and the signal `pod_bound` will tell."""


@dataclass(frozen=True)
class ReportInput:
    """One write of the Pod's condition, and an Event where a reason is given."""

    pod: PodRef
    phase: str
    message: str
    ready: bool = False
    event_reason: str = ""
    """Empty writes no Event."""
    warning: bool = False


@dataclass(frozen=True)
class PublishProgressInput:
    pod: PodRef
    entities: list[str]
    """Workflow ids of the `DatasetOnNode` entities whose heartbeats are shown on the Pod."""
    node: str
    total_bytes: int
    """Of all the Pod's datasets; those that are on the disk already are `present_bytes`."""
    present_bytes: int = 0


# Activities on a node's queue.


@dataclass(frozen=True)
class CheckDiskInput:
    snapshots: list[Snapshot]
    pod: PodRef
    verify_full: bool = False


@dataclass(frozen=True)
class DiskSnapshot:
    digest: str
    complete: bool
    present_bytes: int


@dataclass(frozen=True)
class CheckDiskResult:
    cache_id: str
    snapshots: list[DiskSnapshot]
    free_bytes: int = 0
    reserved_bytes: int = 0


@dataclass(frozen=True)
class AwaitDiskInput:
    """Wait until the disk can be written and has room for so much. `what` begins the message where it has not."""

    what: str
    needed_bytes: int = 0
    needed_inodes: int = 0


@dataclass(frozen=True)
class UnpinInput:
    digests: list[str]
    pod: PodRef


@dataclass(frozen=True)
class StreamInput:
    cache_id: str
    snapshot: Snapshot
    priority: int = 0


@dataclass(frozen=True)
class StreamProgress:
    """Heartbeat details, under 1 KB. The journal on disk is the truth; this is for people."""

    state: str = "queued"
    """`queued`, `listing`, `fetching`, `verifying` or `publishing`."""
    done_bytes: int = 0
    total_bytes: int = 0
    bytes_per_s: float = 0.0
    eta_s: float = 0.0


@dataclass(frozen=True)
class StreamResult:
    digest: str
    bytes: int
    fetched_bytes: int
    """Bytes that crossed the network for this call; the rest was on the disk."""
    seconds: float
    verified: str = ""
    """The weakest verification among the objects: `full-object`, `composite`, `md5` or `transport-only`."""


@dataclass(frozen=True)
class EvictInput:
    digest: str


@dataclass(frozen=True)
class EvictResult:
    freed_bytes: int


# The command line of the store.


@dataclass(frozen=True)
class StoreAsk:
    """`kube-cache store VERB`, as typed."""

    node: str
    """Empty: the machine that it is typed on."""
    verb: str
    digest: str = ""
    """Or its beginning."""
    full: bool = False
    owner: str = ""
    duration: str = ""
    rate: float | None = None
    """Bytes per second; 0 = no limit, None = the node's setting."""


@dataclass(frozen=True)
class StoreAnswer:
    code: int
    """The exit code."""
    data: str = ""
    """JSON, in the shape that `--json` prints."""
    message: str = ""
    """What went wrong."""
    cut: int = 0
    """Rows that were left out because the answer would not fit."""


# Reconcile.


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


# DatasetOnNode.


@dataclass(frozen=True)
class DatasetOnNodeStatus:
    """Answer of the `status` query."""

    phase: str
    waiting: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    error: ErrorInfo | None = None
    interests: list[Interest] = field(default_factory=list)


# Signals.


@dataclass(frozen=True)
class SeatBound:
    seat: str
    node: str


@dataclass(frozen=True)
class SeatLost:
    seat: str
    reason: str = ""


@dataclass(frozen=True)
class SeatPending:
    """The scheduler finds no node for the seat; `message` is the scheduler's own."""

    seat: str
    message: str = ""


@dataclass(frozen=True)
class PodBound:
    node: str


@dataclass(frozen=True)
class PodUnschedulable:
    message: str = ""


@dataclass(frozen=True)
class Vanished:
    """What a snapshot's entity thinks to be on the disk is not."""

    node_is_gone: bool = False
    """Or its disk was replaced."""
    users: list[Interest] = field(default_factory=list)
    """Pods that are bound with it; a hit that the inventory knew has not joined."""
    cache_id: str = ""
    """The disk that is there instead."""


@dataclass(frozen=True)
class DatasetReady:
    digest: str
    fetched_bytes: int = 0
    seconds: float = 0.0
    verified: str = ""


@dataclass(frozen=True)
class DatasetFailed:
    digest: str
    error: ErrorInfo
