"""What a Pod hard-demands of the places of other Pods: topology spread, required pod affinity and anti-affinity.

Read from the Pod as the API server stores it, with the keys of `matchLabelKeys` in the selectors of affinity terms
already. Soft constraints (`ScheduleAnyway`, preferred terms) are none of this package's business: they forbid no node.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from kube_cache.kube.client import Json
from kube_cache.kube.placement.peers import Peer
from kube_cache.kube.placement.selectors import Selector, parse
from kube_cache.kube.seat_labels import seat_selector

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
HOSTNAME = "kubernetes.io/hostname"


@dataclass(frozen=True)
class PeerSelector:
    """Pods that a constraint means, and their seats."""

    pods: Selector
    seats: Selector
    namespaces: frozenset[str] | None
    """None: all."""
    seat_json: Json | None
    """The selector of the seats as a labelSelector."""
    pod_json: Json | None
    """The selector of the Pods, without their namespaces, as a labelSelector."""

    def matches(self, peer: Peer) -> bool:
        if peer.is_seat:
            return self.seats.matches(peer.labels)
        return (self.namespaces is None or peer.namespace in self.namespaces) and self.pods.matches(peer.labels)


@dataclass(frozen=True)
class Spread:
    """One topology spread constraint with `DoNotSchedule`."""

    key: str
    max_skew: int
    min_domains: int
    honors_affinity: bool
    """Nodes that the Pod's node affinity excludes do not count."""
    honors_taints: bool
    """Nodes with taints that the Pod does not tolerate do not count."""
    peers: PeerSelector
    counts_itself: bool
    """The Pod matches its own selector."""


@dataclass(frozen=True)
class Term:
    """One required term of a pod affinity or anti-affinity."""

    key: str
    peers: PeerSelector


@dataclass(frozen=True)
class Constraints:
    spreads: tuple[Spread, ...]
    affinity: tuple[Term, ...]
    anti_affinity: tuple[Term, ...]
    attracts_itself: bool
    """The Pod matches all terms of its own affinity: it may be the first of its group."""

    def peer_selectors(self) -> list[PeerSelector]:
        terms = (*self.affinity, *self.anti_affinity)
        return [*(spread.peers for spread in self.spreads), *(term.peers for term in terms)]


def has_any(pod: Json) -> bool:
    """Whether the Pod has a hard constraint. Most have none, and nothing of this package is done for them."""
    affinity = pod["spec"].get("affinity") or {}
    return any(True for _ in _hard_spreads(pod)) or any(
        (affinity.get(kind) or {}).get(_REQUIRED) for kind in ("podAffinity", "podAntiAffinity")
    )


def spread_group(pod: Json) -> str:
    """Name that Pods share which are spread alike; empty for a Pod that is not spread by a hard constraint."""
    spreads = [(spread["topologyKey"], spread.get("labelSelector")) for spread in _hard_spreads(pod)]
    return json.dumps([pod["metadata"]["namespace"], spreads], sort_keys=True) if spreads else ""


def read(pod: Json, find_namespaces: Callable[[Selector], Collection[str]]) -> Constraints:
    """find_namespaces: names of the namespaces whose labels a selector matches."""
    itself = Peer.of_pod(pod)
    affinity = tuple(_terms(pod, "podAffinity", find_namespaces))
    return Constraints(
        tuple(_spread(pod, constraint, itself) for constraint in _hard_spreads(pod)),
        affinity,
        tuple(_terms(pod, "podAntiAffinity", find_namespaces)),
        bool(affinity) and all(term.peers.matches(itself) for term in affinity),
    )


def anti_affinity_terms(pod: Json) -> list[Json]:
    """Return the Pod's required anti-affinity terms as they are written."""
    return list((((pod["spec"].get("affinity") or {}).get("podAntiAffinity")) or {}).get(_REQUIRED) or [])


def _hard_spreads(pod: Json) -> Iterator[Json]:
    for constraint in pod["spec"].get("topologySpreadConstraints") or []:
        if constraint.get("whenUnsatisfiable") == "DoNotSchedule":
            yield constraint


def _spread(pod: Json, constraint: Json, itself: Peer) -> Spread:
    labels, namespace = pod["metadata"].get("labels") or {}, pod["metadata"]["namespace"]
    selector = constraint.get("labelSelector")
    if selector is not None:
        # The API server may have merged these keys. The scheduler merges them once more, with the labels of today.
        merged = [
            {"key": key, "operator": "In", "values": [labels[key]]}
            for key in constraint.get("matchLabelKeys") or []
            if key in labels
        ]
        selector = {**selector, "matchExpressions": [*(selector.get("matchExpressions") or []), *merged]}
    peers = _peer_selector(selector, frozenset({namespace}))
    return Spread(
        constraint["topologyKey"],
        constraint["maxSkew"],
        constraint.get("minDomains") or 1,
        (constraint.get("nodeAffinityPolicy") or "Honor") == "Honor",
        (constraint.get("nodeTaintsPolicy") or "Ignore") == "Honor",
        peers,
        peers.matches(itself),
    )


def _terms(pod: Json, kind: str, find_namespaces: Callable[[Selector], Collection[str]]) -> Iterator[Term]:
    for term in ((pod["spec"].get("affinity") or {}).get(kind) or {}).get(_REQUIRED) or []:
        namespaces: frozenset[str] | None = named_namespaces(pod, term)
        if (selector := term.get("namespaceSelector")) is not None:
            among = parse(selector)
            namespaces = None if among.is_empty else named_namespaces(pod, term) | frozenset(find_namespaces(among))
        yield Term(term["topologyKey"], _peer_selector(term.get("labelSelector"), namespaces))


def named_namespaces(pod: Json, term: Json) -> frozenset[str]:
    """Namespaces that the term of this Pod names; its own when it says nothing."""
    if not term.get("namespaces") and term.get("namespaceSelector") is None:
        return frozenset({pod["metadata"]["namespace"]})
    return frozenset(term.get("namespaces") or ())


def _peer_selector(selector: Json | None, namespaces: frozenset[str] | None) -> PeerSelector:
    if namespaces is not None and not namespaces:
        selector = None  # no namespace has the labels that the term selects
    translated = seat_selector(selector, namespaces)
    return PeerSelector(parse(selector), parse(translated), namespaces, translated, selector)
