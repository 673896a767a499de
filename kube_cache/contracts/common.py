"""What more than one of the others names: a Pod, a snapshot, a wish, an error, a phase, the operator's policy."""

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
class Interest:
    """One Pod's wish for a dataset on a node."""

    workflow_id: str
    pod: PodRef
    priority: int = 0
    hit: bool = False
    """The disk holds it already: register the use, fetch nothing, answer nothing."""
