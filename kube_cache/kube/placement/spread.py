"""`PodTopologySpread`: the scheduler's filter of the constraints with `DoNotSchedule`.

Source: calPreFilterState and Filter in kube-scheduler's plugins/podtopologyspread. The Pod is taken as it is before its
release, which pins it to a node. The scheduler counts only nodes that the Pod's node affinity admits (unless
`nodeAffinityPolicy: Ignore`), so for a pinned Pod only the one: `refuses_pinned` tells when that refuses a node which
is right otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from kube_cache.kube.nodes import NodeFacts
from kube_cache.kube.placement.constraints import Spread
from kube_cache.kube.placement.node_rules import NodeRules
from kube_cache.kube.placement.peers import Peer


class SpreadFilter:
    def __init__(
        self, spreads: Sequence[Spread], rules: NodeRules, nodes: Sequence[NodeFacts], peers: Sequence[Peer]
    ) -> None:
        keys = {spread.key for spread in spreads}
        eligible = {node.name: node for node in nodes if keys <= node.labels.keys()} if spreads else {}
        self._domains = [_Domains(spread, rules, eligible, peers) for spread in spreads]

    def violation(self, node: NodeFacts) -> str:
        """Say why the node is refused, in words; empty if it is not."""
        for domains in self._domains:
            if words := domains.violation(node):
                return words
        return ""

    def requirements(self) -> list[tuple[str, set[str]]]:
        """Topology keys that a node must have, each with the values that it must not have."""
        return [(domains.spread.key, domains.full()) for domains in self._domains]

    def refuses_pinned(self, node: NodeFacts) -> bool:
        """Whether the scheduler would refuse the node to the Pod once that is pinned to it."""
        return any(domains.refuses_pinned(node) for domains in self._domains)


class _Domains:
    """Peers by the value of the topology key."""

    def __init__(self, spread: Spread, rules: NodeRules, eligible: dict[str, NodeFacts], peers: Sequence[Peer]) -> None:
        self.spread = spread
        counted: Callable[[NodeFacts], bool] = lambda node: (  # noqa: E731
            (not spread.honors_affinity or rules.admits(node)) and (not spread.honors_taints or rules.tolerates(node))
        )
        values = {name: node.labels[spread.key] for name, node in eligible.items() if counted(node)}
        self._by_node: Counter[str] = Counter()
        self._counts = Counter(dict.fromkeys(values.values(), 0))
        # A selector of everything counts nobody: the scheduler's oldest exception.
        for peer in () if spread.peers.pods.is_empty else peers:
            if peer.node in values and not peer.is_terminating and spread.peers.matches(peer):
                self._counts[values[peer.node]] += 1
                self._by_node[peer.node] += 1
        self._min = 0
        if len(self._counts) >= spread.min_domains:
            self._min = min(self._counts.values(), default=0)

    def violation(self, node: NodeFacts) -> str:
        spread, value = self.spread, node.labels.get(self.spread.key)
        if value is None:
            return f"node {node.name} has no label {spread.key}, by which the Pod is spread"
        if not self._is_full(value):
            return ""
        return (
            f"{spread.key}={value} holds {self._counts[value]} of the Pod's peers, and one more would be over"
            f" {spread.max_skew} (maxSkew) beyond the {self._min} of the emptiest domain"
        )

    def full(self) -> set[str]:
        return {value for value in self._counts if self._is_full(value)}

    def refuses_pinned(self, node: NodeFacts) -> bool:
        spread = self.spread
        if not spread.honors_affinity or spread.min_domains <= 1:
            return False
        return self._by_node[node.name] + spread.counts_itself > spread.max_skew

    def _is_full(self, value: str) -> bool:
        return self._counts[value] + self.spread.counts_itself - self._min > self.spread.max_skew
