"""What the page shows, as plain values: made by `facts`, cut to one view by `view`, turned into HTML by `render`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Step(StrEnum):
    """A part of a Pod's life, as the operator's watches tell them apart."""

    UNSEEN = "unseen"
    """Before this operator saw the Pod."""
    WAIT = "wait"
    """For other gates, room, the Pod's group, or a person."""
    RESOLVE = "resolve"
    """List the dataset; also the time until an operator takes the Pod."""
    SEAT = "seat"
    """From the seat's creation until the scheduler binds it."""
    FETCH = "fetch"
    """Wait for the download; checksums are computed as the bytes come."""
    VERIFY = "verify"
    """Link the Pod and check the node's disk."""
    RELEASE = "release"
    """From the Pod's nomination until its gate is gone."""
    BIND = "bind"


class Span(NamedTuple):
    step: Step
    seconds: float


@dataclass(frozen=True, slots=True)
class Release:
    uid: str
    namespace: str
    pod: str
    dataset: str
    node: str
    kind: str
    """`hit`, `miss` or `cold`, as in the metrics."""
    bound_at: float
    """Seconds since the epoch."""
    spans: tuple[Span, ...]
    """In their order, from the Pod's creation until it was bound."""

    @property
    def seconds(self) -> float:
        return sum(span.seconds for span in self.spans)


@dataclass(frozen=True, slots=True)
class Hour:
    """Releases of one hour."""

    starts_at: float
    hits: int = 0
    misses: int = 0
    cold: int = 0
    gpu_s: float = 0
    """GPU-seconds that Pods did not hold while their data was fetched."""


@dataclass(frozen=True, slots=True)
class Warm:
    """A Pod that has not reached its data yet."""

    uid: str
    namespace: str
    pod: str
    dataset: str
    phase: str
    message: str
    created_at: float
    """Seconds since the epoch; 0 = unknown."""
    node: str = ""
    total_bytes: int = 0
    done_bytes: int = -1
    """-1 = unknown."""
    bytes_per_s: float = 0
    from_neighbours: str = ""
    """Share of the bytes that other nodes sent, in words: `61 % from 7 neighbours`; empty for none."""

    @property
    def percent(self) -> float:
        return min(100.0, 100 * self.done_bytes / self.total_bytes) if self.total_bytes else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds until the download is done; None where nobody knows."""
        if self.bytes_per_s <= 0 or self.done_bytes < 0:
            return None
        return (self.total_bytes - self.done_bytes) / self.bytes_per_s


@dataclass(frozen=True, slots=True)
class Holding:
    """A snapshot on a node."""

    dataset: str
    digest: str
    bytes: int
    ready: bool
    """The disk holds the whole snapshot; else the node is fetching it."""
    pinned: bool = False
    """A Pod that lives was released to the node with this snapshot."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A node's disk, as its agent told with the heartbeat of a download."""

    free_bytes: int
    reserved_bytes: int
    told_at: float


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    state: str = ""
    """Why no Pod may come; empty where nothing is wrong."""
    holdings: tuple[Holding, ...] = ()
    disk: Disk | None = None

    @property
    def held_bytes(self) -> int:
        return sum(each.bytes for each in self.holdings if each.ready)

    @property
    def pinned_bytes(self) -> int:
        return sum(each.bytes for each in self.holdings if each.ready and each.pinned)


@dataclass(frozen=True, slots=True)
class Dataset:
    """The snapshots of a dataset in the whole cluster."""

    uri: str
    ready: int
    """Number of nodes."""
    fetching: int
    pinned: int
    bytes: int
    """Of the largest snapshot."""


@dataclass(frozen=True, slots=True)
class Prefetch:
    """Data that is kept on nodes before a Pod asks for it."""

    name: str
    """`namespace/name`."""
    phase: str
    message: str
    dataset: str
    """URIs, with commas between several."""
    percent: int
    ready: int
    """Nodes that hold all of it, of those that are wanted."""
    wanted: int
    expires_at: float
    """Seconds since the epoch; 0 = unknown."""

    @property
    def namespace(self) -> str:
        return self.name.partition("/")[0]

    @property
    def short_name(self) -> str:
        return self.name.partition("/")[2]


@dataclass(frozen=True, slots=True)
class Facts:
    """One look at everything, shared by all viewers."""

    at: float
    waits_for: str = ""
    """What the operator lacks to know the cluster; empty when it knows."""
    leading: bool = True
    holder: str = ""
    """The operator that leads, if another does."""
    warms: Sequence[Warm] = ()
    """In the order of their creation."""
    nodes: Sequence[Node] = ()
    """By name."""
    datasets: Sequence[Dataset] = ()
    """By URI."""
    prefetches: Sequence[Prefetch] = ()
    """Those first that may need somebody."""
    prefetch_count: int = 0
    """How many live, shown or not."""
    releases: Sequence[Release] = ()
    """The last one first."""
    hours: Sequence[Hour] = ()
    since: float = 0
    """When this operator began to count."""
    held_at: float = 0
    """When Temporal was asked last who holds what; 0 = never."""
    held_error: str = ""
    held_is_cut: bool = False
    """There are more snapshots on nodes than were read."""
    message: Callable[[str], str] = lambda _uid: ""
    """What a Pod says, by uid, where its `Warm` has no message."""
    dollars_per_hour: float = 0
