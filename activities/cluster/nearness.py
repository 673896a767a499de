"""Which nodes are near a Pod's data, by the inventory: those that hold all of it, and those that a seat prefers.

The scheduler scores a sample of the feasible nodes only, 10 % of 5,000, so a preferred node is mostly not looked at.
Nodes that a seat requires by name are the only ones that it looks at.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kube_cache.contracts.common import Snapshot
from kube_cache.contracts.warm_pod import CreateSeatInput, Reach
from kube_cache.temporal.holdings import Holding

# Terms of a seat's preferred affinity. Each costs the scheduler a comparison per feasible node, and a popular dataset
# is on a thousand nodes.
_MAX_PREFERRED_NODES = 16
# Score per byte. A node that is fetching the data is worth half of one that holds it: waiting beats fetching twice.
_SCORE_READY, _SCORE_WARMING = 2, 1

Holdings = Mapping[str, Sequence[Holding]]
"""URI -> what nodes hold of it."""


@dataclass(frozen=True)
class Near:
    holders: list[str]
    """Nodes that hold all snapshots, in an order by chance; empty if the seat may go elsewhere, too."""
    preferred: list[str]


def near(arg: CreateSeatInput, holdings: Holdings) -> Near:
    """Choose the nodes for a seat. Those that the workflow excludes are not among them."""
    return Near(_holders(arg, holdings), _preferred(arg, _scores(arg, holdings)))


def is_held(snapshot: Snapshot, node: str, holdings: Holdings) -> bool:
    """Whether the node's disk holds the snapshot, by the inventory."""
    return any(
        holding.ready and holding.node == node and holding.digest == snapshot.digest
        for holding in holdings[snapshot.uri]
    )


def _scores(arg: CreateSeatInput, holdings: Holdings) -> Counter[str]:
    """Bytes of the snapshots that each node holds or is fetching, weighted."""
    scores: Counter[str] = Counter()
    for snapshot in arg.snapshots:
        for holding in holdings[snapshot.uri]:
            if holding.digest == snapshot.digest and holding.node not in arg.exclude_nodes:
                scores[holding.node] += (_SCORE_READY if holding.ready else _SCORE_WARMING) * (snapshot.bytes + 1)
    return scores


def _holders(arg: CreateSeatInput, holdings: Holdings) -> list[str]:
    """By chance, so that the Pods of a burst do not all try the same few of many."""
    if arg.reach != Reach.HOLDERS or not arg.snapshots:
        return []
    of_each = (
        {holding.node for holding in holdings[snapshot.uri] if holding.ready and holding.digest == snapshot.digest}
        for snapshot in arg.snapshots
    )
    found = sorted(set.intersection(*of_each).difference(arg.exclude_nodes))
    return random.sample(found, len(found))


def _preferred(arg: CreateSeatInput, scores: Counter[str]) -> list[str]:
    """Nodes that the workflow names, then those with the highest score; of too many some, by chance as above."""
    best = max(scores.values(), default=0)
    named = [node for node in arg.prefer_nodes if node not in arg.exclude_nodes]
    others = sorted(node for node, score in scores.items() if score == best and node not in named)
    room = max(0, _MAX_PREFERRED_NODES - len(named))
    return [*named, *(others if len(others) <= room else random.sample(others, room))]
