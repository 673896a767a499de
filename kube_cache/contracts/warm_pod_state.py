"""Everything that a `WarmPod` remembers: continue-as-new carries it over as it is.

Each part of the workflow keeps what it must not forget in the state that bears its name, and changes it in place, so
that there is no step of saving that could be forgotten. Times are seconds since the epoch, by the workflow's clock.
"""

from dataclasses import dataclass, field

from kube_cache.contracts.common import BannedNeighbour, ErrorInfo, Snapshot, Warming


@dataclass
class RequestState:
    """What was asked, and how long the Pod has waited by its `max-gate-time`."""

    stop: str = ""
    """What was asked and is not acted upon yet, a `Stop`; empty = nothing."""
    parked: str = ""
    """Why the Pod waits for a person, a `Stop`; empty while its main path runs."""
    error: ErrorInfo | None = None
    retry_requested: bool = False
    timed_out: bool = False
    """The gate time is over, and was acted upon."""
    goes_cold: bool = False
    """The gate time is over, and the Pod is to start without its data."""
    spent_s: float = 0
    """Seconds of gate time that had passed when the clock was started last."""
    running_since: float = 0
    """0 while the clock stands still."""
    has_begun: bool = False
    """The action that the Pod carried at its start was acted upon."""
    held: str = ""
    """The `pause` or `cancel` that nothing has taken back: what a Pod obeys that is warmed after its release."""


@dataclass
class SeatState:
    number: int = 0
    """Of the seat that stands or stood last; 0 before the first."""
    created: bool = False
    node: str = ""
    lost: str = ""
    """Why the seat is gone, or of no use; empty while it stands."""
    gpus: int = 0
    held: list[str] = field(default_factory=list)
    """Digests of the snapshots that the inventory knows on the seat's node."""
    unschedulable: str = ""
    """The scheduler's last words about this seat."""
    excluded: list[str] = field(default_factory=list)
    """Nodes that this seat was told to keep away from."""
    avoided: dict[str, float] = field(default_factory=dict)
    """Node -> end of its exclusion."""
    losses: dict[str, int] = field(default_factory=dict)
    """Node -> losses of a seat there, since a seat last stood for long."""
    taken_at: float = 0
    reach: str = ""
    """How far from the data the present seat may go, a `Reach`; empty = NEAR."""
    unreserved: list[str] = field(default_factory=list)
    """What the Pod needs and the seat cannot stand for, in words."""
    requirements: str = ""
    """What the Pod required of its node when the seat was made."""
    recalled: bool = False
    """The seat is given up because it is not wanted any more, so its loss is nobody's fault."""
    lost_as: str = ""
    """Reason of the Event that tells of the loss; empty = `SeatLost`."""
    depends_on_peers: bool = False
    """The seat obeys constraints among Pods."""
    judged: bool = False
    """The seat's node was judged by the Pod's peers."""
    peers: str = ""
    """Why no node fits the Pod beside its peers, in words; empty = unknown."""
    told_lower: bool = False
    """The Pod was told that its seat is less important than it is."""
    preferred: str = ""
    """Node that the next seat prefers, because it holds what was fetched; empty = no such node."""
    named: list[str] = field(default_factory=list)
    """Those of `excluded` that are in the cluster, and that this seat names."""


@dataclass
class Pins:
    """Snapshots that were pinned on a disk for this Pod."""

    node: str
    cache_id: str
    attempt: int
    snapshots: list[Snapshot]


@dataclass
class DataState:
    snapshots: list[Snapshot] = field(default_factory=list)
    resolved_at: float = 0
    source_changes: int = 0
    """How often the source changed while it was fetched, since a person looked last."""
    attempt: int = 0
    """Number of the present placement, in milliseconds since the epoch."""
    pins: list[Pins] = field(default_factory=list)
    warm_since: float = 0
    """When the disk of the present placement was checked first; 0 before."""
    is_miss: bool = False
    """Something had to be fetched for the present placement."""
    downloads: int = 0
    """Downloads that were completed for the present placement; more than one when something damaged the snapshot."""
    fetched_bytes: int = 0
    """Bytes that were read from the origin and from other nodes for the present placement."""
    neighbour_bytes: int = 0
    """Of `fetched_bytes`: those that came from other nodes."""
    neighbours: int = 0
    """Number of nodes that they came from; of several datasets the greatest, since their nodes may be the same."""
    banned: list[BannedNeighbour] = field(default_factory=list)
    """Neighbours that were banned meanwhile, and that the Pod was not told of yet."""


@dataclass
class RejectionState:
    """Disks that rejected the Pod's data."""

    count: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    """Node -> faults of its disk."""
    by_node: dict[str, ErrorInfo] = field(default_factory=dict)
    """Rejections since the last wait, or those that are waited for."""
    is_waiting: bool = False


@dataclass(frozen=True)
class Report:
    """One write of the Pod's condition, and an Event if `event` names its reason."""

    phase: str
    message: str
    ready: bool = False
    event: str = ""
    warning: bool = False
    warming: Warming | None = None


@dataclass
class ReportState:
    phase: str = "Resolving"
    message: str = ""
    """Shown in the UI and by the query."""
    told: Report | None = None
    """What the Pod's condition shows; None when unknown."""
    owed: Report | None = None
    """What the Pod's condition should show, and the API server did not take."""
    recent: dict[str, float] = field(default_factory=dict)
    """Texts whose numbers change, told within the last minute: a hash without the numbers -> when."""
    events: dict[str, float] = field(default_factory=dict)
    """Events of the last hour: as above."""


@dataclass
class ReleaseState:
    """The release of the Pod, once the gate is gone."""

    node: str = ""
    """Node that the Pod was released to; empty before the release."""
    bytes: int = 0
    fetched_bytes: int = 0
    seconds: float = 0
    """From the check of the disk to the release."""
    waited_s: float = 0
    """From the Pod's first sight to its release."""
    hit: bool = False
    announced: bool = False
    """The Pod and the entities were told of the release."""
    bound_node: str = ""
    unschedulable: str = ""
    is_unpinned: bool = False
    """The release was noticed when the Pod's pins on `node` had been given back already."""
    arrived_at: str = ""
    """Node where the Pod is bound and its data is checked, and fetched, after the release; empty = no such node."""
    neighbour_bytes: int = 0
    """As in `DataState`, like the next field."""
    neighbours: int = 0


@dataclass
class MembershipState:
    """The Pod as a member of its group; all of it empty for a Pod without one."""

    group: str = ""
    """Group that knows of the Pod; empty = none."""
    stage: str = ""
    """What the group was told last, a `Stage`."""
    key: str = ""
    """What else it was told: size and snapshots; empty when the group may not know."""
    gone_with: str = ""
    """Group that may go, so that the Pod waits for the others no more."""
    must_resolve: bool = False
    """Another member has a newer snapshot."""
    rest_until: float = 0
    """Until when the Pod takes no seat."""
    message: str = ""
    warning: bool = False
    announced: bool = False
    """An Event has said that the Pod waits for its group."""


@dataclass
class WarmPodState:
    started_at: float = 0
    """Start of the first run."""
    requests: RequestState = field(default_factory=RequestState)
    seat: SeatState = field(default_factory=SeatState)
    data: DataState = field(default_factory=DataState)
    rejections: RejectionState = field(default_factory=RejectionState)
    report: ReportState = field(default_factory=ReportState)
    release: ReleaseState = field(default_factory=ReleaseState)
    membership: MembershipState = field(default_factory=MembershipState)
