"""`PodGroup`: its input, state and signals, what it tells its members, and the activities of both."""

from dataclasses import dataclass, field
from enum import StrEnum

from kube_cache.contracts.common import Snapshot


class Stage(StrEnum):
    """How far a member is."""

    PLACING = "placing"
    """No seat stands for it, or none that is bound."""
    SEATED = "seated"
    """Its seat holds a node; its data is not there yet."""
    ARRIVED = "arrived"
    """Its data is on the node that its seat holds."""


@dataclass(frozen=True)
class GroupMember:
    """What a `WarmPod` tells its group."""

    workflow_id: str
    size: int
    """The `group-size` of this Pod."""
    stage: str = Stage.PLACING
    snapshots: list[Snapshot] = field(default_factory=list)
    """On the node of a member that has arrived."""


@dataclass
class MemberState:
    size: int
    stage: str
    since: float
    """When the member was first heard of."""
    contents: str = ""
    """Key of its snapshots in `GroupState.contents`."""
    told: str = ""
    """The words that it was told last."""


@dataclass
class GroupState:
    """Everything that a group remembers: continue-as-new carries it over as it is. Times by the workflow's clock."""

    members: dict[str, MemberState] = field(default_factory=dict)
    """By workflow id."""
    contents: dict[str, list[Snapshot]] = field(default_factory=dict)
    """Key -> snapshots of members that have arrived: few, however many members."""
    running: int = 0
    """Pods of the group that were released and run, when it was last looked."""
    held_most: int = 0
    """The most seats that the members have held at once since all were given back."""
    held_since: float = 0
    """When that many seats were held first."""
    rounds: int = 0
    """How often all seats were given back, one after another."""
    rest_until: float = 0
    """Until when nobody of the group takes a seat."""
    rest_words: str = ""
    looked_at: float = 0
    look_pause_s: float = 0


@dataclass(frozen=True)
class PodGroupInput:
    namespace: str
    group: str
    hold_s: float = 600
    """Seconds that an incomplete group holds seats; 0 = no limit."""
    state: GroupState = field(default_factory=GroupState)


@dataclass(frozen=True)
class PodGroupStatus:
    """Answer of the `status` query."""

    ready: int
    size: int
    running: int
    message: str = ""


@dataclass(frozen=True)
class JoinGroupInput:
    group: PodGroupInput
    member: GroupMember
    leave: bool = False


class Verdict(StrEnum):
    WAIT = "wait"
    """Words to show."""
    GO = "go"
    RESOLVE = "resolve"
    """Another member has a newer snapshot: resolve again, and fetch that."""
    GIVE_BACK = "give-back"
    """Give the seat back until `until`."""


@dataclass(frozen=True)
class GroupTold:
    """What a group tells a member."""

    group: str
    verdict: str
    message: str = ""
    until: float = 0
    warning: bool = False


@dataclass(frozen=True)
class FindGroupInput:
    namespace: str
    group: str
    members: list[str] = field(default_factory=list)
    """Workflow ids of those that the group counts."""


@dataclass(frozen=True)
class WaitingPod:
    workflow_id: str
    pod: str
    phase: str
    """By the Pod's condition; empty while it has none."""


@dataclass(frozen=True)
class FindGroupResult:
    """Pods of a group as the operator's watch has them. Bounded, however large the group is."""

    running: int
    """Released, with or without data, and neither ended nor being deleted."""
    waiting: list[WaitingPod] = field(default_factory=list)
    """Some of the gated Pods whose condition does not say that they wait for the group."""
    absent: list[str] = field(default_factory=list)
    """Members whose Pod is not known: it is gone, or the watch has not shown it yet."""
    gone: list[str] = field(default_factory=list)
    """Members whose Pod was released, has ended or is being deleted."""
    running_digests: list[str] = field(default_factory=list)
    """Digests of the receipts of the running Pods, each once."""
