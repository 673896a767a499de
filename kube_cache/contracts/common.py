"""Types that several contracts share: a Pod, a snapshot, a consumer, an error, a phase, the operator's policy."""

from dataclasses import dataclass, field
from enum import StrEnum


class Phase(StrEnum):
    RESOLVING = "Resolving"
    WAITING_FOR_GATES = "WaitingForGates"
    PLACING = "Placing"
    CHECKING = "Checking"
    WAITING_FOR_DISK = "WaitingForDisk"
    WARMING = "Warming"
    RELEASING = "Releasing"
    BINDING = "Binding"
    DONE = "Done"
    AWAITING_OPERATOR = "AwaitingOperator"
    PAUSED = "Paused"
    CANCELLED = "Cancelled"
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


@dataclass(frozen=True)
class Policy:
    """Operator settings that a workflow needs. They travel in its input, because a workflow reads no environment."""

    operator_namespace: str = "kube-cache-system"
    check_schedule_to_start_s: float = 10
    stream_schedule_to_start_s: float = 30
    stream_heartbeat_s: float = 10
    linger_s: float = 60
    bind_grace_s: float = 60
    node_exclusion_s: float = 600
    disk_wait_s: float = 300
    """Seconds that a Pod waits for the disks that rejected its data before it tries all nodes again. The n-th wait is n
    times as long, up to twelve times.
    """
    slow_phase_after_s: float = 10
    """Seconds of a phase after which it is reported on the Pod. Longer than a cache hit takes in a burst of hundreds,
    because a report costs writes, and a busy cluster must not be made busier.
    """
    max_gate_time_s: float = 0
    """Limit for a Pod whose annotations name none; 0 = no limit."""
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


@dataclass(frozen=True)
class ErrorInfo:
    """An error for people to read. type: a class name of `kube_cache.errors`."""

    type: str
    message: str
    needed_bytes: int = 0
    """Space that the snapshot needs; set for `InsufficientDisk` only, like `needed_inodes`."""
    needed_inodes: int = 0


@dataclass(frozen=True)
class Consumer:
    """A Pod that uses a snapshot on a node, or waits for it."""

    workflow_id: str
    pod: PodRef
    priority: int = 0
    hit: bool = False
    """The disk holds the snapshot already: register the Pod, fetch nothing, send no answer."""
