"""`DatasetOnNode`, the activities on a node's queue, and the `kube-cache store` command."""

from dataclasses import dataclass, field
from enum import IntEnum

from kube_cache.contracts.common import BannedNeighbour, Consumer, ErrorInfo, PodRef, Policy, Snapshot


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
    unpin_attempts: dict[str, int] = field(default_factory=dict)
    """By uid of the Pods in `unpin`: the latest placement whose pins go; 0 = any, as for a uid that is not here."""
    done_bytes: int = 0
    """Bytes of the snapshot that the disk held when a download was heard of last."""
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
    again: bool = False
    """The consumer joined before and asks whether it still counts: an entity that knows it as it is gets no signal."""


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
    """In the order of the annotation: the n-th is what the Pod mounts as `pods/<uid>/<n>`."""
    pod: PodRef
    verify_full: bool = False
    attempt: int = 0
    """See `Consumer.attempt`."""
    keep_current: bool = False
    """The Pod mounts `@current`: what that link names is not evicted while the Pod lives."""


@dataclass(frozen=True)
class DiskSnapshot:
    digest: str
    complete: bool
    present_bytes: int
    verified: str = ""
    """The weakest verification among the objects, as in `StreamResult`; empty while the snapshot is not complete."""


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
    attempt: int = 0
    """Pins of a later placement stay; 0 removes those of any."""


MIN_STREAM_BYTES_PER_S = 4 << 20
"""A slower download is ended, and its token ends with it; arbitrary, far below any node that is worth a GPU."""


@dataclass(frozen=True)
class StreamInput:
    cache_id: str
    snapshot: Snapshot
    priority: int = 0
    done_bytes: int = 0
    """Progress to report until the download has seen for itself what the disk holds."""
    consumer: Consumer | None = None
    """The Pod that has waited longest, whose trace the download belongs to; None in a repair."""
    spare: bool = False
    """Only prefetches want it: yields to the download of any Pod, and evicts nothing that anybody used."""
    max_bytes_per_s: int = 0
    """Of this download alone; 0 = no limit."""


@dataclass(frozen=True)
class StreamProgress:
    """Heartbeat details, under 1 KB. The journal on disk is the truth; this is for people."""

    state: str = "queued"
    """`queued`, `listing` or `fetching`."""
    done_bytes: int = 0
    total_bytes: int = 0
    bytes_per_s: float = 0.0
    shares: dict[str, float] = field(default_factory=dict)
    """Stage of a range -> share of the time that the node's connections spent in it of late, 0 to 1. Empty = unknown:
    no range has ended.
    """
    retries: dict[str, int] = field(default_factory=dict)
    """Cause -> number of ranges that the node requested again of late; without those that are 0."""
    free_bytes: int | None = None
    """Bytes that downloads may use on the disk without an eviction, as measured last; None = not measured."""
    reserved_bytes: int | None = None
    """Bytes that the running downloads of the node have yet to write; None = not measured."""
    neighbour_bytes: int = 0
    """Of `done_bytes`: those that came from other nodes since the attempt began."""
    neighbours: int = 0
    """Number of nodes that they came from."""


@dataclass(frozen=True)
class StreamResult:
    digest: str
    bytes: int
    fetched_bytes: int
    """Bytes that this call read from the origin and from other nodes; the rest was on the disk."""
    seconds: float
    verified: str = ""
    """The weakest verification among the objects: `full-object`, `composite`, `md5`, `transport-only` or
    `peer-sampled`."""
    span: str = ""
    """The download's span, to which the traces of all its Pods link; empty when the agent sends no traces."""
    neighbour_bytes: int = 0
    """Of `fetched_bytes`: those that came from other nodes."""
    neighbours: int = 0
    """Number of nodes that they came from."""
    banned: list[BannedNeighbour] = field(default_factory=list)
    """Those that were banned since the last download that told of any; 16 at most."""


@dataclass(frozen=True)
class EvictInput:
    digest: str


@dataclass(frozen=True)
class EvictResult:
    freed_bytes: int


class ExitCode(IntEnum):
    """Exit codes of `kube-cache store` and `kube-cache fetch`; scripts rely on them."""

    DONE = 0
    FAILED = 1
    """The disk or the store failed."""
    USAGE = 2
    REFUSED = 3
    """Refused because a Pod or a pin holds the snapshot."""
    DAMAGED = 4
    """`verify` or `scrub` found damage, or what was fetched differs from the origin's checksum."""
    ABSENT = 5
    """No such snapshot, or nothing at the URI."""
    UNREACHABLE = 6
    """The node's agent, the operator, Temporal or the origin does not answer."""
    NO_ROOM = 7
    """The disk has no room for the dataset."""
    INTERRUPTED = 130
    """Ctrl-C, as shells report it: 128 and the number of the signal."""
    TERMINATED = 143
    """SIGTERM, likewise."""


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
