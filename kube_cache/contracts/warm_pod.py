"""`WarmPod`: its input, result, query and signals, and the activities on the operator's queue."""

from dataclasses import dataclass, field

from kube_cache.contracts.common import ErrorInfo, PodRef, PodView, Policy, Snapshot


@dataclass(frozen=True)
class WarmPodInput:
    pod: PodRef
    view: PodView = field(default_factory=PodView)
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True)
class WarmPodResult:
    outcome: str
    """`released`, `released_cold` (`on-timeout: release`), `released_elsewhere` (the gate was removed by others) or
    `pod_gone`.
    """
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
    """The seat prefers nodes that hold these."""
    exclude_nodes: list[str] = field(default_factory=list)
    wait_s: float = 0
    """Seconds to wait for the scheduler to bind the seat."""


@dataclass(frozen=True)
class CreateSeatResult:
    name: str
    gpus: int = 0
    """GPUs that the Pod asks for (sum of nvidia.com/gpu limits), for the savings in the result."""
    node: str = ""
    """Node that the seat is bound to. Empty when it is not bound yet: the signal `seat_bound` follows."""
    holders: dict[str, list[str]] = field(default_factory=dict)
    """Digest -> nodes whose disk holds the snapshot, by the inventory."""


@dataclass(frozen=True)
class DeleteSeatInput:
    namespace: str
    name: str


@dataclass(frozen=True)
class PatchGateInput:
    pod: PodRef
    node: str
    digests: list[str] = field(default_factory=list)
    cache_id: str = ""
    pin: bool = True
    """False releases the Pod without pinning it to a node: only for `on-timeout: release`."""
    seat: DeleteSeatInput | None = None
    """Seat to delete right after the patch, because the Pod may need its resources."""
    wait_s: float = 0
    """Seconds to wait for the scheduler to bind the Pod."""


@dataclass(frozen=True)
class PatchGateResult:
    outcome: str
    """`released`, or `already` when the gate was gone before."""
    bound_node: str = ""
    """Node that the Pod is bound to. Empty when it is not bound yet: the signal `pod_bound` follows."""


@dataclass(frozen=True)
class ReportInput:
    """One write of the Pod's condition, and an Event if `event_reason` is set."""

    pod: PodRef
    phase: str
    message: str
    ready: bool = False
    event_reason: str = ""
    """Empty = no Event."""
    warning: bool = False


@dataclass(frozen=True)
class PublishProgressInput:
    pod: PodRef
    entities: list[str]
    """Workflow ids of the `DatasetOnNode` entities whose heartbeats are shown on the Pod."""
    node: str
    total_bytes: int
    """Bytes of all the Pod's datasets, including `present_bytes`, which the disk held from the start."""
    present_bytes: int = 0


@dataclass(frozen=True)
class SeatBound:
    seat: str
    node: str


@dataclass(frozen=True)
class SeatLost:
    seat: str
    reason: str = ""


@dataclass(frozen=True)
class SeatUnschedulable:
    """The scheduler finds no node for the seat. message: the scheduler's own words."""

    seat: str
    message: str = ""


@dataclass(frozen=True)
class PodBound:
    node: str


@dataclass(frozen=True)
class PodUnschedulable:
    message: str = ""


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
