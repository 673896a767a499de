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
class DatasetReady:
    digest: str
    fetched_bytes: int = 0
    seconds: float = 0.0
    verified: str = ""


@dataclass(frozen=True)
class DatasetFailed:
    digest: str
    error: ErrorInfo
