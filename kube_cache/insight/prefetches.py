"""The prefetches that live, as people see them: how many, what they keep where and until when, and what they fetch.

Lists them by their search attributes, which costs no worker anything; asks some of them for their status. A `Prefetch`
runs no local activity, so that a query does its history no harm. Cannot tell of one node's disk: its agent can.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from temporalio.client import Client

from kube_cache.contracts.prefetch import PrefetchPhase, PrefetchStatus
from kube_cache.temporal.prefetches import UNKNOWN, running_prefetches, statuses_of
from kube_cache.temporal.search_attributes import dataset_value

MAX_ASKED = 200
"""Prefetches that are asked for one answer. Each query is a few milliseconds of an operator."""
_NEED_SOMEBODY = (PrefetchPhase.AWAITING_OPERATOR, PrefetchPhase.WAITING)


@dataclass(frozen=True)
class Kept:
    """What one prefetch does for a dataset."""

    name: str
    """`namespace/name`."""
    nodes: int
    """How many hold all the data of the prefetch now."""
    until: float
    """Seconds since the epoch; until then the copies are evicted last."""


@dataclass
class Living:
    total: int = 0
    by_phase: Counter[str] = field(default_factory=Counter)
    stuck: list[str] = field(default_factory=list)
    """`namespace/name` of those that wait for a person, or for nodes or room."""


async def count(client: Client, *, namespace: str = "") -> Living:
    """Count those that live. namespace: empty = any. Raises RPCError."""
    found = [each async for each in running_prefetches(client) if namespace in ("", each.namespace)]
    phases = Counter(each.phase for each in found)
    return Living(
        len(found), phases, sorted(f"{each.namespace}/{each.name}" for each in found if each.phase in _NEED_SOMEBODY)
    )


async def ask(client: Client) -> list[PrefetchStatus]:
    """Ask the first `MAX_ASKED` of those that live; one that answers nothing is left out. Raises RPCError."""
    found = sorted({(each.namespace, each.name) async for each in running_prefetches(client)})
    return [status for status in await statuses_of(client, found[:MAX_ASKED]) if status.phase != UNKNOWN]


def by_dataset(statuses: Iterable[PrefetchStatus]) -> dict[str, list[Kept]]:
    """Tell who keeps a dataset, the one that ends last first. By URI, a long one as `dataset_value` cuts it."""
    found: dict[str, list[Kept]] = {}
    for status in statuses:
        kept = Kept(f"{status.namespace}/{status.name}", status.ready, status.expires_at)
        for uri in status.datasets:
            found.setdefault(dataset_value(uri), []).append(kept)
    return {uri: sorted(kept, key=lambda each: (-each.until, each.name)) for uri, kept in found.items()}


def fetching_here(statuses: Iterable[PrefetchStatus], node: str, uris: Sequence[str]) -> list[str]:
    """Return `namespace/name` of those whose download of one of the datasets on the node has not ended."""
    return sorted(
        f"{status.namespace}/{status.name}"
        for status in statuses
        if node in status.busy and not set(uris).isdisjoint(status.datasets)
    )
