"""`Prefetch`: data that is to be on nodes before a Pod asks for it. Its specification, state, status and activities.

A specification is all that a face of the workflow (the command line, a resource, a schedule, a planner) hands over. No
message holds the list of all nodes: a cluster may have thousands.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from kube_cache.contracts.common import ErrorInfo, Policy, Snapshot

PREFETCH_PRIORITY = -1000
"""Of a prefetch's downloads: below that of every Pod, which is -100 at least."""
SCHEDULED = "Scheduled"
"""Instead of a phase, where none lives and a schedule begins the next one: no workflow says so of itself."""
MAX_NAMED_NODES = 500
MAX_DATASETS = 32


class PrefetchPhase(StrEnum):
    RESOLVING = "Resolving"
    """The datasets are listed at their origins."""
    WARMING = "Warming"
    """Nodes fetch, or are checked."""
    READY = "Ready"
    """Every node that was chosen holds the data; what changes is noticed."""
    WAITING = "Waiting"
    """Nothing can be done now: no node matches, all that is missing failed of late, or the budget is used up."""
    PAUSED = "Paused"
    AWAITING_OPERATOR = "AwaitingOperator"
    """The datasets cannot be resolved, and a retry alone cannot help; `resume` or another specification tries again."""
    ENDING = "Ending"
    """The nodes are told to let the data go."""
    EXPIRED = "Expired"
    CANCELLED = "Cancelled"


@dataclass(frozen=True)
class PrefetchSpec:
    namespace: str
    """Whose rights count: the datasets must be allowed to the Pods of this namespace."""
    name: str
    datasets: list[str]
    nodes: list[str] = field(default_factory=list)
    """Only these, by name; empty = all that match."""
    selector: str = ""
    """Only nodes with these labels: `key=value,key=value`; empty = all."""
    copies: int = 0
    """On how many of the nodes that match; 0 = on all."""
    expires_s: float = 86400
    """Seconds after the start, or after the last change of the specification, at which the prefetch ends."""
    max_bytes: int = 0
    """Bytes that may be fetched in all; a node is not begun that would exceed them. 0 = no limit."""
    max_bytes_per_s: int = 0
    """Of all nodes together, in bytes per second; 0 = no limit."""
    parallel: int = 8
    """Nodes that fetch at once."""
    follow: bool = False
    """Resolve the datasets again every `follow_s`, and fetch what is new."""
    follow_s: float = 300
    idle: bool = False
    """Of `copies`: choose nodes that run Pods of other datasets after those that run none."""


@dataclass
class NodeFailure:
    """Why a node is left alone for a while."""

    error: ErrorInfo
    count: int
    until: float
    """Seconds since the epoch."""


@dataclass
class PrefetchState:
    """Everything that a `Prefetch` remembers; continue-as-new carries it over as it is."""

    begun_at: float = 0
    """When the specification began to count, in seconds since the epoch."""
    snapshots: list[Snapshot] = field(default_factory=list)
    resolved_at: float = 0
    """By the workflow's clock, in seconds since the epoch; 0 = they must be resolved."""
    superseded: list[str] = field(default_factory=list)
    """Digests of earlier contents that some nodes may still keep for this prefetch; bounded."""
    paused: bool = False
    ending: str = ""
    """The last phase, `PrefetchPhase.EXPIRED` or `.CANCELLED`, once the end has begun."""
    cursor: str = ""
    """Name of the node that was visited last in the tour of those that hold the data; empty at its begin."""
    toured: bool = False
    """Every chosen node was visited since the specification, or the data, changed."""
    fetched_bytes: int = 0
    failures: dict[str, NodeFailure] = field(default_factory=dict)
    """Node -> failure, of those that failed last; bounded."""
    matched: int = 0
    """Nodes that match."""
    wanted: int = 0
    """Nodes that were chosen of them."""
    ready: int = 0
    """Of these: nodes that hold all the data."""
    ready_bytes: int = 0
    partial_bytes: int = 0
    """Bytes that the nodes that fetch have on their disks already, as of the last look; not in `ready_bytes`."""
    yielding: list[str] = field(default_factory=list)
    """Nodes whose download stands back for other downloads, as of the last look; no more than are busy."""
    error: ErrorInfo | None = None
    """Of the datasets; None once they are resolved."""


@dataclass(frozen=True)
class PrefetchInput:
    spec: PrefetchSpec
    policy: Policy = field(default_factory=Policy)
    state: PrefetchState = field(default_factory=PrefetchState)


@dataclass(frozen=True)
class PrefetchStatus:
    """Answer of the `status` query, and the workflow's result."""

    namespace: str
    name: str
    phase: str
    message: str
    datasets: list[str]
    matched: int = 0
    wanted: int = 0
    ready: int = 0
    ready_bytes: int = 0
    total_bytes: int = 0
    """Bytes of the data on all chosen nodes together."""
    fetched_bytes: int = 0
    """Bytes that were fetched for it since the specification changed."""
    busy: list[str] = field(default_factory=list)
    """Nodes that are worked on now; at most `parallel`."""
    partial_bytes: int = 0
    """As in `PrefetchState`, like the next field."""
    yielding: list[str] = field(default_factory=list)
    failures: dict[str, NodeFailure] = field(default_factory=dict)
    expires_at: float = 0
    """Seconds since the epoch."""
    spec: PrefetchSpec | None = None
    paused: bool = False

    @property
    def percent(self) -> int:
        """Share of the data that is where it should be, 0 to 100; 100 only when all is."""
        if self.phase == PrefetchPhase.READY:
            return 100
        there = self.ready_bytes + self.partial_bytes
        return min(99, 100 * there // self.total_bytes) if self.total_bytes else 0


@dataclass(frozen=True)
class PlanPrefetchInput:
    spec: PrefetchSpec
    snapshots: list[Snapshot]
    busy: list[str] = field(default_factory=list)
    """Nodes that are worked on: chosen before others, and not named again."""
    avoid: list[str] = field(default_factory=list)
    """Nodes that failed of late. Without `copies` they count as chosen, but are not named."""
    cursor: str = ""
    missing: int = 0
    """How many nodes to name at most that do not hold all the data by the inventory."""
    tour: int = 0
    """How many nodes to name at most of the others, in the order of their names after `cursor`."""
    ending: bool = False
    """The tour goes to every node that holds any of the data by the inventory, and nothing is missing."""


@dataclass(frozen=True)
class PrefetchPlan:
    matched: int
    wanted: int
    ready: int
    ready_bytes: int
    missing: list[str] = field(default_factory=list)
    tour: list[str] = field(default_factory=list)
    toured: bool = False
    """The tour came to its end with these."""
    look_s: float = 0
    """Seconds to the next look, by the settings of the operator that made the plan; 0 = as the policy says."""
    partial_bytes: int = 0
    """Bytes that busy nodes have fetched of snapshots that are not complete."""
    yielding: list[str] = field(default_factory=list)
    """Busy nodes whose download stands back for others; some of them where there are very many."""


@dataclass(frozen=True)
class HoldPrefetchedInput:
    """Check snapshots on a node's disk, mark them, and see whether the missing ones fit."""

    owner: str
    """Workflow id of the prefetch."""
    until: float
    """Seconds since the epoch."""
    snapshots: list[Snapshot]
    superseded: list[str] = field(default_factory=list)
    """Digests of earlier contents of the datasets, which are let go."""


@dataclass(frozen=True)
class HoldPrefetchedResult:
    cache_id: str
    missing: list[str]
    """Digests of the snapshots that the disk does not hold whole."""
    missing_bytes: int = 0


@dataclass(frozen=True)
class ReleasePrefetchedInput:
    owner: str
    digests: list[str]


@dataclass(frozen=True)
class PrefetchSchedule:
    """When a prefetch begins, again and again, and for how long."""

    cron: str
    """Five fields, as Temporal takes them: minute, hour, day of the month, month, day of the week."""
    window_s: float
    """How long each one lives, in seconds from its time on."""
    time_zone: str = "UTC"
    """By the name of the IANA database that Temporal's server has."""


@dataclass(frozen=True)
class ScheduledPrefetchInput:
    """What a schedule starts at each of its times."""

    spec: PrefetchSpec
    """Its `expires_s` does not count: the window does."""
    window_s: float
    policy: Policy = field(default_factory=Policy)
    resource: str = ""
    """Uid of the resource that asks for it; empty for a person."""


@dataclass(frozen=True)
class ScheduledPrefetchResult:
    started: bool
    """False if the window was over before an operator came to start it."""


@dataclass(frozen=True)
class StartPrefetchInput:
    spec: PrefetchSpec
    until: float
    """When the window ends, in seconds since the epoch."""
    policy: Policy = field(default_factory=Policy)
    resource: str = ""
