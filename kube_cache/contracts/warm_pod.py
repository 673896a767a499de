"""`WarmPod`: its input, result, query and signals, and the activities on the operator's queue."""

from dataclasses import dataclass, field
from enum import StrEnum

from kube_cache.contracts.common import BannedNeighbour, ErrorInfo, PodRef, PodView, Policy, Snapshot, Warming
from kube_cache.contracts.warm_pod_state import WarmPodState


@dataclass(frozen=True)
class WarmPodInput:
    pod: PodRef
    view: PodView = field(default_factory=PodView)
    policy: Policy = field(default_factory=Policy)
    state: WarmPodState = field(default_factory=WarmPodState)
    """Of the run before; the watcher leaves it out."""
    seen_at: float = 0
    """When the operator saw that the Pod needs a workflow, by its own clock, in seconds since the epoch; 0 = unknown.
    For the trace only: nothing decides by it.
    """


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
    """GPUs of the Pod times the seconds of the fetch that it would have held them through, as
    `kube_cache_gpu_not_held_seconds_total` counts them; 0 for a hit.
    """
    neighbour_bytes: int = 0
    """Of `fetched_bytes`: those that came from other nodes."""
    neighbours: int = 0
    """See `DataState.neighbours`."""


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
class ReadPodInput:
    pod: PodRef


@dataclass(frozen=True)
class PodState:
    """A Pod as the API server has it now (a quorum read)."""

    gone: bool
    """There is no Pod of this uid, or it has ended."""
    view: PodView = field(default_factory=PodView)
    """Meaningless if `gone`. An empty `dataset`: the annotation was removed."""
    node: str = ""
    """Node that the Pod is bound to; empty while it is not bound."""
    receipt_node: str = ""
    """Node of the receipt that our releasing patch wrote; empty without a receipt."""


@dataclass(frozen=True)
class ResolveInput:
    pod: PodRef
    dataset: str
    """The annotation as written; several URIs are comma-separated."""


@dataclass(frozen=True)
class ResolveResult:
    snapshots: list[Snapshot]


class Reach(StrEnum):
    """How far from the data a seat may go."""

    HOLDERS = "holders"
    """Only to nodes that hold everything, and without preempting; where none is known, like NEAR."""
    NEAR = "near"
    """Anywhere; nodes that hold or fetch the most are preferred."""


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
    prefer_nodes: list[str] = field(default_factory=list)
    """Nodes that hold part of the data, whatever the inventory says; preferred like those that it names."""
    reach: str = ""
    """How far from the data the seat may go, a `Reach`; empty = NEAR."""
    requirements: str = ""
    """What the Pod requires of its node, as the workflow knows it: a Pod of the watch that requires something else is
    read again. Empty = unknown.
    """
    is_judged: bool = False
    """The node of this seat was judged by the Pod's peers already; a warm is not given up for what they do later."""


@dataclass(frozen=True)
class CreateSeatResult:
    name: str
    gpus: int = 0
    """GPUs that the Pod asks for (sum of nvidia.com/gpu limits), for the savings in the result."""
    node: str = ""
    """Node that the seat is bound to. Empty when it is not bound yet: the signal `seat_bound` follows."""
    held: list[str] = field(default_factory=list)
    """Digests of the snapshots that the disk of `node` holds, by the inventory. Not all holders: a history keeps it."""
    unfit: str = ""
    """Why `node` cannot take the Pod any more, naming it; empty where nothing is known against it."""
    unreserved: list[str] = field(default_factory=list)
    """What the Pod needs and the seat cannot stand for (claims, unbound volumes), in words: with it the Pod must not be
    tied to the node for good, but may only prefer it.
    """
    unschedulable: str = ""
    """The scheduler's words, if it found no node within `wait_s`."""
    requirements: str = ""
    """What the Pod required of its node when the seat was made, a `PodView.requirements`."""
    peers: str = ""
    """Why the Pod's peers leave no node to the seat, or to any, in words; then the scheduler was not waited for."""
    depends_on_peers: bool = False
    """Hard constraints among Pods were computed for the seat: ask again, while it waits because the peers may move, and
    when it is bound because of two seats that raced one must give way.
    """
    node_created_at: float = 0
    """When `node` came into the cluster, in seconds since the epoch. 0 = unknown: nobody asked for a seat that stands.
    """
    lower_priority: str = ""
    """Why the seat is less important than the Pod, in the API server's words; empty = it is as important."""
    reach: str = ""
    """How far from the data the seat that stands may go, a `Reach`; empty = NEAR."""
    avoids: list[str] = field(default_factory=list)
    """Of the nodes to keep away from, those that are in the cluster."""


@dataclass(frozen=True)
class DeleteSeatInput:
    namespace: str
    name: str
    pod: PodRef | None = None
    """Pod that the seat stands for: a nomination that a release left on it is withdrawn. None = leave it."""


@dataclass(frozen=True)
class PatchGateInput:
    pod: PodRef
    node: str
    digests: list[str] = field(default_factory=list)
    cache_id: str = ""
    pin: bool = True
    """False releases the Pod without pinning it to a node: only for `on-timeout: release`."""
    prefer: bool = False
    """Pin by preference: the seat could not stand for all that the Pod needs, so the scheduler may go elsewhere."""
    seat: DeleteSeatInput | None = None
    """Seat to delete right after the patch, because the Pod may need its resources."""
    wait_s: float = 0
    """Seconds to wait for the scheduler to bind the Pod."""
    requirements: str = ""
    """What the Pod required of its node when its seat was made: a Pod that requires something else now is not released.
    Empty = do not compare.
    """
    say: str = ""
    """Words of the condition, which says that the data is ready, to be written on the way. Empty = write none."""
    bytes: int = 0
    """Size of the Pod's data; this and the next three fields are for the metrics of the release."""
    fetched_bytes: int = 0
    """Bytes that were read from the origin and from other nodes while the Pod waited."""
    fetch_s: float = 0
    """Seconds from the check of the disk to this release of a Pod that missed; 0 for a hit."""
    hit: bool = False
    """The node had all of the data."""


@dataclass(frozen=True)
class PatchGateResult:
    outcome: str
    """`released`, or `already` when the gate was gone before."""
    bound_node: str = ""
    """Node that the Pod is bound to. Empty when it is not bound yet: the signal `pod_bound` follows."""
    said: bool = False
    """The condition has the words that the input named."""


@dataclass(frozen=True)
class EvictPodInput:
    pod: PodRef
    why: str
    """Text of the Event."""


@dataclass(frozen=True)
class EvictPodResult:
    outcome: str
    """`evicted`, `gone`, `bound`, `uncontrolled` (nobody would make another Pod) or `unwanted`."""


@dataclass(frozen=True)
class MoveReceiptInput:
    """The receipt of a Pod that was bound to another node than it was released to."""

    pod: PodRef
    node: str
    cache_id: str
    digests: list[str]


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
    clear_action: str = ""
    """Action annotation that was acted upon: it is removed while it has this value, so that it can be written again."""
    warming: Warming | None = None
    """The Pod waits for these snapshots from now on, and shows their progress until its next report."""


@dataclass(frozen=True)
class SeatBound:
    seat: str
    node: str


@dataclass(frozen=True)
class SeatLost:
    seat: str
    reason: str = ""
    unfit: bool = False
    """The seat stands, but its node cannot take the Pod any more; `reason` names the node, too."""


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
    span: str = ""
    """See `StreamResult.span`."""
    node: str = ""
    neighbour_bytes: int = 0
    """Of `fetched_bytes`: those that came from other nodes."""
    neighbours: int = 0
    """Number of nodes that they came from."""
    banned: list[BannedNeighbour] = field(default_factory=list)
    """See `StreamResult.banned`."""


@dataclass(frozen=True)
class DatasetFailed:
    digest: str
    error: ErrorInfo
    node: str = ""
