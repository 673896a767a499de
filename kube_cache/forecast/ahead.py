"""Decides for how many copies of each dataset no node is there yet, and so how many placeholder Pods are to stand.

Pure. Copies are nodes, as in a plan. A node counts for a dataset if Pods use the dataset there, or if no Pod uses any
dataset there. Each idle node counts for one dataset. A node on which a placeholder stands is no room of its own: it is
there because of the placeholder, and would be taken away without it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from kube_cache.contracts.forecast import AheadWanted
from kube_cache.forecast.planner import Budget, share


@dataclass(frozen=True)
class Missing:
    copies: dict[str, int]
    """Placeholders by dataset, within the budget; datasets without one are left out."""
    counted: frozenset[str]
    """Nodes that count as room, where no placeholder may go: it would stand there, and no node would come."""


def missing(
    wanted: Sequence[AheadWanted],
    nodes: Collection[str],
    used: Mapping[str, Collection[str]],
    held: Collection[str],
    max_placeholders: int,
) -> Missing:
    """Decide. nodes: names of those that may be chosen and can take Pods. used: URIs in use by node.

    held: nodes on which a placeholder stands.
    """
    datasets = {each.dataset for each in wanted}
    idle = sorted(node for node in nodes if not used.get(node) and node not in held)
    in_use = {node for node, uris in used.items() if datasets.intersection(uris)}
    left = len(idle)
    short: list[int] = []
    for each in wanted:
        own = sum(each.dataset in uris for uris in used.values())
        need = max(0, each.copies - own)
        there = min(need, left)
        left -= there
        short.append(need - there)
    granted = share(short, [0] * len(short), Budget(max_placeholders, 0))
    copies = {each.dataset: count for each, count in zip(wanted, granted, strict=True) if count}
    return Missing(copies, frozenset(idle) | in_use)
