"""Decides for how many copies of each dataset no node is there yet, and how many placeholder Pods stand for them.

Pure. Copies are nodes, as in a plan. A node counts for a dataset if Pods use the dataset there, or if no Pod uses any
dataset there; each idle node counts for one dataset. A node that came for a placeholder is no room of its own: it would
be taken away without it.

A placeholder cannot be told to keep away from idle nodes by their names: Karpenter adds no node for such a Pod. So
while a node is missing the idle nodes have a placeholder each, too, and the next one fits nowhere. They go as soon as
nothing is missing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from kube_cache.contracts.forecast import AheadWanted
from kube_cache.forecast.planner import Budget, share


@dataclass(frozen=True)
class Ahead:
    kept: dict[str, int] = field(default_factory=dict)
    """Placeholders by dataset that keep the node which came for them; none of the others."""
    more: dict[str, int] = field(default_factory=dict)
    """Others by dataset: for nodes that are to come, and for idle nodes."""
    reason: str = ""
    """Why nodes are missing that nobody asks for, in words."""


def decide(
    wanted: Sequence[AheadWanted],
    nodes: Collection[str],
    used: Mapping[str, Collection[str]],
    came: Mapping[str, str],
    max_placeholders: int,
) -> Ahead:
    """nodes: names of those that may be chosen and can take Pods. used: URIs in use by node.

    came: the dataset of the placeholder that a node came for, and that still stands there, by node.
    """
    idle = sum(not used.get(node) and node not in came for node in nodes)
    left = idle
    kept: dict[str, int] = {}
    short: list[int] = []
    for each in wanted:
        own = sum(each.dataset in uris for uris in used.values())
        need = max(0, each.copies - own)
        there = min(need, left)
        left -= there
        kept[each.dataset] = min(need - there, sum(dataset == each.dataset for dataset in came.values()))
        short.append(need - there - kept[each.dataset])
    if not any(short):
        return Ahead(kept)
    room = max_placeholders - sum(kept.values()) - idle
    if room <= 0:
        return Ahead(
            kept,
            reason=f"{sum(short)} nodes are missing for what is forecast and none is asked for: {idle} placeholder Pods"
            f" for idle nodes and {sum(kept.values())} on nodes that came leave nothing of max_placeholders,"
            f" {max_placeholders} (KUBE_CACHE_FORECAST__MAX_PLACEHOLDERS)",
        )
    granted = share(short, [0] * len(short), Budget(room, 0))
    more = {each.dataset: count for each, count in zip(wanted, granted, strict=True) if count}
    more[next(iter(more))] += idle
    return Ahead(kept, more)
