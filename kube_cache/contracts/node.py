"""`DatasetOnNode`, the activities on a node's queue, and the store's command line."""

from dataclasses import dataclass, field

from kube_cache.contracts.common import ErrorInfo, Interest, PodRef, Policy, Snapshot


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
class DatasetOnNodeStatus:
    """Answer of the `status` query."""

    phase: str
    waiting: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    error: ErrorInfo | None = None
    interests: list[Interest] = field(default_factory=list)


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
