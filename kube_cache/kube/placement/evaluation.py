"""The verdict about nodes: the scheduler's two filters, and both of them as requirements of a node's labels.

Requirements are exact, except that a list of more than a few hundred values is cut: then some of the nodes that are
allowed are not asked for.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

from kube_cache.kube.client import Json
from kube_cache.kube.nodes import NodeFacts
from kube_cache.kube.placement.constraints import HOSTNAME, Constraints
from kube_cache.kube.placement.inter_pod import Domain, InterPodFilter
from kube_cache.kube.placement.node_rules import NodeRules
from kube_cache.kube.placement.peers import Peer
from kube_cache.kube.placement.spread import SpreadFilter

# Values of one requirement. The scheduler compares each with each node: 2.5 million times at 5,000 nodes, milliseconds.
_MAX_VALUES = 500


class Evaluation:
    def __init__(
        self,
        pod: Json,
        constraints: Constraints,
        nodes: Mapping[str, NodeFacts],
        peers: Sequence[Peer],
        hostile: Mapping[Domain, str] | None = None,
    ) -> None:
        """peers: whom the constraints may count, the Pod itself not among them. hostile: see InterPodFilter."""
        self._rules = NodeRules(pod)
        self._nodes = nodes
        self._spread = SpreadFilter(constraints.spreads, self._rules, [*nodes.values()], peers)
        self._inter_pod = InterPodFilter(constraints, nodes, peers, hostile or {})

    def violation(self, node: NodeFacts) -> str:
        """Say why the Pod's peers, or their absence, refuse the node; empty if they do not."""
        return self._spread.violation(node) or self._inter_pod.violation(node)

    def is_excluded(self, node: NodeFacts) -> bool:
        """Whether another Pod's anti-affinity refuses the node."""
        return bool(self._inter_pod.exclusion(node))

    def refuses_pinned(self, node: NodeFacts) -> bool:
        """Whether the scheduler would refuse the node to the Pod once that is pinned to it."""
        return self._spread.refuses_pinned(node)

    @property
    def nobody_attracts(self) -> bool:
        return self._inter_pod.nobody_attracts

    @cached_property
    def nowhere(self) -> str:
        """Say why no node that the Pod admits is free of violations; empty if one is, or if no node is admitted."""
        reasons: Counter[str] = Counter()
        for node in self._nodes.values():
            if self._rules.admits(node) and self._rules.tolerates(node):
                words = self.violation(node)
                if not words:
                    return ""
                reasons[words] += 1
        if not reasons:
            return ""
        words, count = reasons.most_common(1)[0]
        return f"the Pod's peers leave it none of {reasons.total()} nodes; on {count} of these {words}"

    def requirements(self, preferred: Collection[str], *, unnamed: bool = False) -> list[Json] | None:
        """Match expressions that a node must fulfil; None if no node can. preferred: nodes to keep if some are cut.

        unnamed: leave out the host names that terms of a seat can exclude (`seat_terms.apart`), because Karpenter adds
        no node for a Pod that requires anything of a host name.
        """
        wanted: dict[str, set[str] | None] = {}
        unwanted: dict[str, set[str]] = {}
        for key, values in self._inter_pod.allowed():
            before = wanted.get(key)
            wanted[key] = values if before is None else before & (before if values is None else values)
        is_last_resort = unnamed and bool(self.nowhere)
        for key, full in self._spread.requirements():
            if key == HOSTNAME and is_last_resort:
                continue
            wanted.setdefault(key, None)
            unwanted.setdefault(key, set()).update(full)
        for key, full in self._inter_pod.forbidden():
            if key == HOSTNAME and unnamed:
                continue
            unwanted.setdefault(key, set()).update(full)
        expressions: list[Json] = []
        for key in sorted(wanted.keys() | unwanted.keys()):
            allowed, forbidden = wanted.get(key), unwanted.get(key, set())
            if allowed is None and len(forbidden) > _MAX_VALUES:
                allowed = {node.labels[key] for node in self._nodes.values() if key in node.labels}
            if allowed is not None:
                if not (allowed := allowed - forbidden):
                    return None
                expressions.append(_expression(key, "In", self._cut(key, allowed, preferred)))
                continue
            if key in wanted and not (unnamed and key == HOSTNAME):  # every node has one
                expressions.append({"key": key, "operator": "Exists"})
            if forbidden:
                expressions.append(_expression(key, "NotIn", forbidden))
        return expressions

    def _cut(self, key: str, values: set[str], preferred: Collection[str]) -> set[str]:
        if len(values) <= _MAX_VALUES:
            return values
        near = {self._nodes[name].labels.get(key, "") for name in preferred if name in self._nodes} & values
        chosen = sorted(near)[:_MAX_VALUES]
        return {*chosen, *random.sample(sorted(values - near), _MAX_VALUES - len(chosen))}


def _expression(key: str, operator: str, values: Collection[str]) -> Json:
    return {"key": key, "operator": operator, "values": sorted(values)}
