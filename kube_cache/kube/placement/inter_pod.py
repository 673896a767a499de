"""`InterPodAffinity`: the scheduler's filter of required pod affinity and anti-affinity.

Source: PreFilter and Filter in kube-scheduler's plugins/interpodaffinity. The anti-affinity of other Pods that excludes
ours is judged for the Pods that the caller hands over (`hostile`). At most moments these are few: the API server
cannot select Pods by their terms, and to list every Pod of the cluster for every release would be beyond all measure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kube_cache import names
from kube_cache.kube.client import Json
from kube_cache.kube.nodes import NodeFacts
from kube_cache.kube.placement.constraints import Constraints, Term, anti_affinity_terms, named_namespaces
from kube_cache.kube.placement.peers import Peer
from kube_cache.kube.placement.selectors import parse

Domain = tuple[str, str]
"""Topology key and value."""


class InterPodFilter:
    def __init__(
        self,
        constraints: Constraints,
        nodes: Mapping[str, NodeFacts],
        peers: Sequence[Peer],
        hostile: Mapping[Domain, str],
    ) -> None:
        """hostile: domains from which other Pods exclude ours, each with the name of one of them."""
        self._constraints = constraints
        terms = constraints.affinity
        friends = [peer for peer in peers if terms and all(term.peers.matches(peer) for term in terms)]
        self._attracting = _domains(terms, friends, nodes)
        self._repelling: set[Domain] = set()
        for term in constraints.anti_affinity:
            self._repelling |= _domains([term], [peer for peer in peers if term.peers.matches(peer)], nodes)
        self._hostile = hostile

    @property
    def nobody_attracts(self) -> bool:
        return not self._attracting

    def violation(self, node: NodeFacts) -> str:
        """Say why the node is refused, in words; empty if it is not."""
        if words := self.exclusion(node):
            return words
        for term in self._constraints.anti_affinity:
            value = node.labels.get(term.key, "")
            if (term.key, value) in self._repelling:
                return f"a Pod that the Pod's anti-affinity excludes is in {term.key}={value}"
        return self._missing(node)

    def exclusion(self, node: NodeFacts) -> str:
        """Say which other Pod excludes ours from the node; empty if none does."""
        for key, value in node.labels.items():
            if name := self._hostile.get((key, value)):
                return f"Pod {name} in {key}={value} excludes the Pod by its anti-affinity"
        return ""

    def _missing(self, node: NodeFacts) -> str:
        for term in self._constraints.affinity:
            if term.key not in node.labels:
                return f"node {node.name} has no label {term.key}, which the Pod's affinity needs"
        if self.nobody_attracts and self._constraints.attracts_itself:
            return ""  # the first of its group
        for term in self._constraints.affinity:
            value = node.labels[term.key]
            if (term.key, value) not in self._attracting:
                return f"no Pod that the Pod's affinity requires is in {term.key}={value}"
        return ""

    def allowed(self) -> list[tuple[str, set[str] | None]]:
        """Topology keys that a node must have, each with the values that it may have; None: any value."""
        if self.nobody_attracts and self._constraints.attracts_itself:
            return [(term.key, None) for term in self._constraints.affinity]
        return [(term.key, _values(self._attracting, term.key)) for term in self._constraints.affinity]

    def forbidden(self) -> list[tuple[str, set[str]]]:
        """Topology keys, each with the values that a node must not have."""
        return [(term.key, _values(self._repelling, term.key)) for term in self._constraints.anti_affinity]


def find_hostile(
    pod: Json, others: Iterable[Json], nodes: Mapping[str, NodeFacts], namespace_labels: Mapping[str, str]
) -> dict[Domain, str]:
    """Return the domains from which other Pods exclude this one. namespace_labels: of the Pod's namespace."""
    meta = pod["metadata"]
    labels: Mapping[str, str] = meta.get("labels") or {}
    found: dict[Domain, str] = {}
    for other in others:
        place = Peer.of_pod(other)
        # A seat repels what its Pod repels, and is a peer: which of two seats gives way is decided by their age.
        if place.node not in nodes or place.uid == meta.get("uid") or names.SEAT_LABEL in place.labels:
            continue
        for term in anti_affinity_terms(other):
            among = parse(term.get("namespaceSelector"))
            is_meant = meta["namespace"] in named_namespaces(other, term) or among.matches(namespace_labels)
            value = nodes[place.node].labels.get(term["topologyKey"])
            if is_meant and value is not None and parse(term.get("labelSelector")).matches(labels):
                found[term["topologyKey"], value] = f"{place.namespace}/{other['metadata']['name']}"
    return found


def needs_namespace_labels(others: Iterable[Json]) -> bool:
    """Whether a term of these Pods selects namespaces by their labels, other than all of them."""
    return any(term.get("namespaceSelector") for other in others for term in anti_affinity_terms(other))


def _domains(terms: Iterable[Term], peers: Iterable[Peer], nodes: Mapping[str, NodeFacts]) -> set[Domain]:
    keys = {term.key for term in terms}
    places = {peer.node for peer in peers} & nodes.keys()
    return {(key, nodes[place].labels[key]) for place in places for key in keys & nodes[place].labels.keys()}


def _values(domains: set[Domain], key: str) -> set[str]:
    return {value for of_key, value in domains if of_key == key}
