"""`DatasetOnNode`, the activities on a node's queue, and the `kube-cache store` command."""

from dataclasses import dataclass, field
from enum import IntEnum

from kube_cache.contracts.common import Consumer, ErrorInfo, PodRef, Policy, Snapshot


@dataclass
class DatasetState:
    """Everything that a `DatasetOnNode` remembers; continue-as-new carries it over as it is."""

    consumers: dict[str, Consumer] = field(default_factory=dict)
    """Pods that use the snapshot or wait for it, by workflow id."""
    waiting: list[str] = field(default_factory=list)
    """Workflow ids of the consumers that wait for a download, in the order in which they joined."""
    repairing: list[str] = field(default_factory=list)
    """Subset of `waiting`: Pods that are bound and run on the snapshot. They get no answer and keep their pin."""
    unpin: list[PodRef] = field(default_factory=list)
    """Pods whose pins on the disk are to be removed."""
    ready: bool = False
    paused: bool = False
    error: ErrorInfo | None = None
    """Error of the last download; None after one that succeeded."""


@dataclass(frozen=True)
class DatasetOnNodeInput:
    node: str
    cache_id: str
    snapshot: Snapshot
    policy: Policy = field(default_factory=Policy)
    state: DatasetState = field(default_factory=DatasetState)


@dataclass(frozen=True)
class JoinInput:
    """Join (signal-with-start) or leave a `DatasetOnNode` entity."""

    dataset: DatasetOnNodeInput
    consumer: Consumer
    leave: bool = False


@dataclass(frozen=True)
class DatasetOnNodeStatus:
    """Answer of the `status` query."""

    phase: str
    consumers: list[Consumer] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    """Workflow ids of the consumers that wait for a download."""
    error: ErrorInfo | None = None


@dataclass(frozen=True)
class SnapshotLost:
    """A snapshot that its entity takes for complete is missing or damaged on the disk."""

    disk_is_gone: bool = False
    """The node was deleted, or its disk was replaced."""
    consumers: list[Consumer] = field(default_factory=list)
    """Pods that are bound and run on the snapshot. Some may be unknown to the entity: a hit does not always join."""
    cache_id: str = ""
    """Identity of the disk that the node has instead; empty when the node was deleted."""


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


@dataclass(frozen=True)
class AwaitDiskInput:
    """Wait until the disk can be written and has enough free space. what: the dataset that the error message names."""

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
    """`queued`, `listing` or `fetching`."""
    done_bytes: int = 0
    total_bytes: int = 0
    bytes_per_s: float = 0.0


@dataclass(frozen=True)
class StreamResult:
    digest: str
    bytes: int
    fetched_bytes: int
    """Bytes that this call read from the origin; the rest was on the disk."""
    seconds: float
    verified: str = ""
    """The weakest verification among the objects: `full-object`, `composite`, `md5` or `transport-only`."""


@dataclass(frozen=True)
class EvictInput:
    digest: str


@dataclass(frozen=True)
class EvictResult:
    freed_bytes: int


class ExitCode(IntEnum):
    """Exit codes of `kube-cache store`."""

    DONE = 0
    FAILED = 1
    """The disk or the store failed."""
    USAGE = 2
    REFUSED = 3
    """Refused because a Pod or a pin holds the snapshot."""
    DAMAGED = 4
    """`verify` or `scrub` found damage."""
    ABSENT = 5
    """No such snapshot."""
    UNREACHABLE = 6
    """The node's agent, the operator or Temporal does not answer."""


@dataclass(frozen=True)
class StoreRequest:
    """`kube-cache store VERB`, with its arguments as typed."""

    node: str
    """Empty: the machine on which the command was typed."""
    verb: str
    digest: str = ""
    """A digest or its first characters."""
    full: bool = False
    owner: str = ""
    duration: str = ""
    rate: float | None = None
    """Bytes per second; 0 = no limit, None = the node's setting."""


@dataclass(frozen=True)
class StoreResponse:
    code: int
    """An `ExitCode`."""
    data: str = ""
    """JSON, in the shape that `--json` prints."""
    message: str = ""
    """The error, for people; empty without one."""
    truncated_rows: int = 0
    """Number of rows left out because the response would exceed Temporal's payload limit."""
