"""The lists that constraints are judged by: peers, their seats, Pods of a node, nodes and namespaces.

Each list is selected by the constraint's own selector, so its size is that of the Pod's group, not of the cluster: a
group of 5,000 Pods costs half a second of parsing each time. Selectors that mean many namespaces become one list of the
whole cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from kube_cache import names
from kube_cache.kube.client import ApiError, Json, KubeClient, is_not_found, resource_path
from kube_cache.kube.nodes import NodeFacts, node_facts
from kube_cache.kube.placement.constraints import PeerSelector, anti_affinity_terms
from kube_cache.kube.placement.peers import Peer
from kube_cache.kube.placement.selectors import Selector

_NOT_ENDED = "status.phase!=Succeeded,status.phase!=Failed"
# Lists of single namespaces; with more namespaces one list of all of them is cheaper.
_MAX_NAMESPACES = 8


@dataclass
class Peers:
    pods: list[Peer] = field(default_factory=list)
    """Real Pods that have a place."""
    seats: list[Peer] = field(default_factory=list)
    """Seats that have a place, of Pods that have none, but the Pod's own."""
    repelling: list[Json] = field(default_factory=list)
    """Those of the real Pods that have required anti-affinity of their own."""


class Listing:
    def __init__(self, kube: KubeClient, get_nodes: Callable[[], Sequence[NodeFacts]]) -> None:
        """get_nodes: the cluster's nodes as a watch has them."""
        self._kube = kube
        self._get_nodes = get_nodes

    def peers(
        self, selectors: Sequence[PeerSelector], seat_namespace: str, own_uid: str, *, allow_stale: bool
    ) -> Peers:
        """List whom the selectors mean. allow_stale: an older state of the real Pods will do. Raises ApiError.

        Seats come first: a Pod that is released meanwhile is then seen as seat and as Pod, and counted once.
        """
        found = Peers()
        seats = self._seats(selectors, seat_namespace)
        placed = {own_uid}
        for pod in self._pods(selectors, allow_stale=allow_stale):
            peer = Peer.of_pod(pod)
            if peer.node and peer.uid != own_uid:
                placed.add(peer.uid)
                found.pods.append(peer)
                if anti_affinity_terms(pod):
                    found.repelling.append(pod)
        for seat in map(Peer.of_seat, seats):
            if seat.node and not seat.is_terminating and seat.uid not in placed:
                found.seats.append(seat)
        return found

    def find_seat(self, namespace: str, name: str) -> Peer | None:
        """Read one seat; None if it is gone. Raises ApiError."""
        try:
            return Peer.of_seat(self._kube.get_pod(namespace, name))
        except ApiError as error:
            if is_not_found(error):
                return None
            raise

    def pods_of_node(self, node: str) -> list[Json]:
        return self._kube.list_items("pods", field_selector=f"spec.nodeName={node},{_NOT_ENDED}")

    def nodes(self, bound: str = "") -> dict[str, NodeFacts]:
        """Nodes by name. bound: a node that must be among them if it exists, however new. Raises ApiError."""
        nodes = {node.name: node for node in self._get_nodes()}
        if not nodes:  # the watch has not begun
            nodes = {facts.name: facts for facts in map(node_facts, self._kube.list_items("nodes"))}
        if bound and bound not in nodes:
            try:
                nodes[bound] = node_facts(self._kube.request("GET", f"{resource_path('nodes')}/{bound}"))
            except ApiError as error:
                if not is_not_found(error):
                    raise
        return nodes

    def namespaces(self, selector: Selector) -> list[str]:
        """Names of the namespaces that the selector matches. Raises ApiError."""
        if selector.nothing:
            return []
        found = self._kube.list_items("namespaces", label_selector=selector.text(), allow_stale=True)
        return [namespace["metadata"]["name"] for namespace in found]

    def namespace_labels(self, name: str) -> dict[str, str]:
        found = self._kube.list_items("namespaces", field_selector=f"metadata.name={name}", allow_stale=True)
        return next((dict(namespace["metadata"].get("labels") or {}) for namespace in found), {})

    def _seats(self, selectors: Iterable[PeerSelector], namespace: str) -> list[Json]:
        texts = {f"{names.SEAT_LABEL},{one.seats.text()}" for one in selectors if not one.seats.nothing}
        return _union(
            self._kube.list_items("pods", namespace=namespace, label_selector=text, field_selector=_NOT_ENDED)
            for text in sorted(texts)
        )

    def _pods(self, selectors: Iterable[PeerSelector], *, allow_stale: bool) -> list[Json]:
        wanted: set[tuple[str, str]] = set()
        for one in selectors:
            if one.pods.nothing:
                continue
            everywhere = one.namespaces is None or len(one.namespaces) > _MAX_NAMESPACES
            wanted |= {(name, one.pods.text()) for name in ([""] if everywhere else one.namespaces or ())}
        return _union(
            self._kube.list_items(
                "pods", namespace=name, label_selector=text, field_selector=_NOT_ENDED, allow_stale=allow_stale
            )
            for name, text in sorted(wanted)
        )


def _union(lists: Iterable[list[Json]]) -> list[Json]:
    """Return each object once; of two states of one the later listed."""
    return [*{item["metadata"]["uid"]: item for items in lists for item in items}.values()]
