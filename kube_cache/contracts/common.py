"""Types that several contracts share: a Pod, a snapshot, a consumer, an error, a phase, the operator's policy."""

from dataclasses import dataclass, field
from enum import StrEnum


class Phase(StrEnum):
    """Reasons of the condition on a Pod; the string below each is its row in docs/annotations.md."""

    RESOLVING = "Resolving"
    """The dataset is listed at the origin."""
    WAITING_FOR_GATES = "WaitingForGates"
    """Other controllers hold gates of their own; ours is the last to go."""
    PLACING = "Placing"
    """The Pod's seat waits for the scheduler; or why the seat was lost or refused."""
    CHECKING = "Checking"
    """The node's agent looks what is on the disk."""
    WAITING_FOR_DISK = "WaitingForDisk"
    """The disks where the Pod fits have no space, or fail; the message says what holds the space."""
    WAITING_FOR_CAPACITY = "WaitingForCapacity"
    """No node fits the seat: an autoscaler or other Pods must make room."""
    WAITING_FOR_GROUP = "WaitingForGroup"
    """The data is on the node; other Pods of the group are not as far."""
    WARMING = "Warming"
    """The data is being fetched; or why it is not."""
    RELEASING = "Releasing"
    """The data is on the node, and the gate is about to go."""
    BINDING = "Binding"
    """The gate is gone, and the scheduler has not bound the Pod yet."""
    DONE = "Done"
    """The Pod is bound where its data is."""
    AWAITING_OPERATOR = "AwaitingOperator"
    """A retry alone cannot help: the message says what would."""
    PAUSED = "Paused"
    """Somebody asked for it; the gate time stands still."""
    CANCELLED = "Cancelled"
    """Somebody asked for it; the Pod stays gated, and its gate time stands still."""
    DATASET_REMOVED = "DatasetRemoved"
    """The gate is there, but the annotation that names the dataset was removed."""
    POD_GONE = "PodGone"
    READY = "Ready"
    """Only of `DatasetOnNode`: the snapshot is complete on the node's disk."""


@dataclass(frozen=True)
class PodRef:
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True)
class PodView:
    """The fields of a Pod that decisions depend on. Option values are as the user wrote them, unchecked."""

    dataset: str = ""
    foreign_gates: list[str] = field(default_factory=list)
    gated: bool = True
    max_gate_time: str = ""
    on_timeout: str = ""
    priority: str = ""
    action: str = ""
    verify: str = ""
    require: str = ""
    group: str = ""
    group_size: str = ""
    on_stuck: str = ""
    neighbours: str = ""
    requirements: str = ""
    """Fingerprint of what the gated Pod requires of its node (kube_cache.kube.requirements); empty = unknown."""
    deleting: bool = False
    """The Pod is being deleted; a finalizer may hold it for long."""
    unsafe_mount: str = ""
    """Why the Pod's mount of the cache forbids a release, with the remedy; empty where nothing does."""
    mounts_cache: bool = False
    """The Pod has a volume of the cache: its containers do not start before the data is there."""
    mounts_current: bool = False
    """The Pod mounts a dataset's `@current` by hand, so that a restarted container may read a newer snapshot."""


@dataclass(frozen=True)
class Policy:
    """Operator settings that a workflow needs. They travel in its input, because a workflow reads no environment."""

    operator_namespace: str = "kube-cache-seats"
    check_schedule_to_start_s: float = 10
    stream_schedule_to_start_s: float = 30
    stream_heartbeat_s: float = 10
    refetch_bytes_per_s: float = 1e9
    """Assumed rate of a download elsewhere: the agent of a disk that holds part of a snapshot is waited for as long as
    that part would take to fetch again.
    """
    linger_s: float = 60
    bind_grace_s: float = 60
    node_exclusion_s: float = 600
    new_node_s: float = 300
    """Seconds after a node's creation in which its agent may still be on its way, and is waited for."""
    disk_wait_s: float = 300
    """Seconds that a Pod waits for the disks that rejected its data before it tries all nodes again. The n-th wait is n
    times as long, up to twelve times.
    """
    slow_phase_after_s: float = 10
    """Seconds of a phase after which it is reported on the Pod. Longer than a cache hit takes in a burst of hundreds,
    because a report costs writes, and a busy cluster must not be made busier.
    """
    fresh_resolve_s: float = 60
    """Seconds after which a snapshot is resolved again before its disk is checked."""
    fresh_check_s: float = 10
    """Seconds after which a disk is checked again right before the release."""
    require_checksum: bool = False
    """Release no Pod onto objects that the origin declares no checksum for."""
    max_gate_time_s: float = 0
    """Limit for a Pod whose annotations name none; 0 = no limit."""
    prefetch_look_s: float = 60
    """Seconds between two looks of a prefetch at the nodes and at what they hold."""
    group_hold_s: float = 600
    """Seconds that a group which lacks Pods with a node holds the seats that it has; 0 = no limit."""
    watch_wait_s: float = 0
    """Seconds that an activity waits for an event that the operator's own watch is about to see
    (docs/design/expectations.md). 0 = do not wait: every event comes by signal."""


@dataclass(frozen=True)
class Snapshot:
    """Contents of a dataset URI when it was resolved. digest: SHA-256 over the sorted object list, 64 hex digits."""

    uri: str
    digest: str
    files: int
    bytes: int
    resolved_at: float = 0
    """Seconds since the epoch, by the operator's clock: of two snapshots of a dataset the greater is the newer."""


@dataclass(frozen=True)
class Warming:
    """Snapshots that a Pod waits for on a node: what the Pod's progress is computed from."""

    node: str
    cache_id: str
    digests: list[str]
    """Of the snapshots that are fetched."""
    total_bytes: int
    """Bytes of all the Pod's datasets, including `present_bytes`, which the disk held from the start."""
    present_bytes: int = 0


@dataclass(frozen=True)
class ErrorInfo:
    """An error for people to read. type: a class name of `kube_cache.errors`."""

    type: str
    message: str
    needed_bytes: int = 0
    """Space that the snapshot needs; set for `InsufficientDisk` only, like `needed_inodes`."""
    needed_inodes: int = 0


@dataclass(frozen=True)
class BannedNeighbour:
    """A node that sent or attested other bytes than the origin's, so that a download takes nothing more from it."""

    node: str
    reason: str
    """What it did, as a sentence without its subject."""


@dataclass(frozen=True)
class Consumer:
    """A Pod that uses a snapshot on a node, or waits for it; or a `Prefetch` that waits for it."""

    workflow_id: str
    pod: PodRef
    priority: int = 0
    hit: bool = False
    """The disk holds the snapshot already: register the Pod, fetch nothing, send no answer."""
    attempt: int = 0
    """Placement that pinned the snapshot for the Pod, in milliseconds since the epoch: a later one is greater."""
    policy: Policy | None = None
    """Only in the signal: the operator's settings of today, for an entity that may be months old."""
    peer_token: str = ""
    """Token of the operator with which the node may read the snapshot from its neighbours; empty = it may not."""
    forbids_neighbours: bool = False
    """The Pod's owner wants every byte from the origin: no token is made for it."""
    prefetch: bool = False
    """No Pod but a `Prefetch` workflow wants the snapshot: it has no pin, and waits behind every Pod."""
    max_bytes_per_s: int = 0
    """Of a prefetch: its budget on this node, in bytes per second; 0 = no limit."""
    expects_others: bool = True
    """False: the operator knew of no other node that wants the snapshot or has it, so that a download need not listen
    for one before it asks the origin."""
