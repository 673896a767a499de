"""The three moments at which a Pod's peers matter: before its seat is created, after it was bound, before its release.

Before: real peers and all seats become requirements of the seat's node. After: the choice is judged anew with real
peers and the seats that were bound earlier, so that of two seats that raced exactly one gives way. At the release: the
same, and with real peers alone, as the scheduler will judge; a violation only of these is a wait for peers.

Not seen: anti-affinity by which Pods exclude ours, if they run on another node and are no peers of ours; and for Pods
without hard constraints nothing is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from kube_cache.errors import NodeUnfit, PeersFirst, PlacementRaced
from kube_cache.kube.client import Json, KubeClient
from kube_cache.kube.nodes import NodeFacts
from kube_cache.kube.placement import constraints, seat_terms
from kube_cache.kube.placement.constraints import Constraints
from kube_cache.kube.placement.evaluation import Evaluation
from kube_cache.kube.placement.inter_pod import Domain, find_hostile, needs_namespace_labels
from kube_cache.kube.placement.listing import Listing, Peers


@dataclass(frozen=True)
class Plan:
    constraints: Constraints
    require: list[Json]
    """Match expressions for every node-affinity term of the seat."""
    join: bool
    impossible: str = ""
    """Why no node at all can take the Pod now, not even a new one: a seat would not help."""
    nowhere: str = ""
    """Why no node that there is can take the Pod; a new one could."""

    def complete(self, seat: Json) -> Json:
        """Add to the seat what the scheduler can enforce among seats, and what the plan was."""
        return seat_terms.add(seat, self.constraints, self.require, join=self.join, is_last_resort=bool(self.nowhere))

    def is_of(self, seat: Json) -> bool:
        """Whether the seat was made by this very plan."""
        written = (seat["metadata"].get("annotations") or {}).get(seat_terms.REQUIRE_ANNOTATION)
        return bool(
            written == seat_terms.fingerprint(self.constraints, self.require, is_last_resort=bool(self.nowhere))
        )


class Placement:
    def __init__(self, kube: KubeClient, get_nodes: Callable[[], Sequence[NodeFacts]]) -> None:
        """get_nodes: the cluster's nodes as a watch has them."""
        self._listing = Listing(kube, get_nodes)

    def turn(self, pod: Json) -> str:
        """Name of the group whose seats should be placed one after the other; empty if there is no need.

        Anti-affinity the scheduler itself enforces among seats. A spread is counted here, and seats that are counted at
        once would all choose the emptiest domain.
        """
        return constraints.spread_group(pod)

    def plan(self, pod: Json, seat_namespace: str, preferred: Collection[str]) -> Plan | None:
        """Compute what the Pod's peers demand of the seat's node; None if the Pod has no hard constraint.

        preferred: nodes to keep among those that are asked for. Raises ApiError.
        """
        if not constraints.has_any(pod):
            return None
        wanted, nodes = constraints.read(pod, self._listing.namespaces), self._listing.nodes()
        peers = self._peers(pod, wanted, seat_namespace, allow_stale=True)
        judged = Evaluation(pod, wanted, nodes, [*peers.pods, *peers.seats])
        require = judged.requirements(preferred, unnamed=True)
        if require is None:
            return Plan(wanted, [], join=False, impossible=judged.nowhere or "no peer that the Pod's affinity requires")
        among_pods = Evaluation(pod, wanted, nodes, peers.pods) if wanted.attracts_itself else None
        join = among_pods is not None and among_pods.nobody_attracts
        return Plan(wanted, require, join=join, nowhere=judged.nowhere)

    def check_bound(self, pod: Json, node: str, seat_namespace: str, seat: str) -> None:
        """Judge the node of a seat that was just bound. Raises PlacementRaced, NodeUnfit, ApiError."""
        if not constraints.has_any(pod):
            return
        judges, _, facts = self._judges(pod, node, seat_namespace, seat)
        _require_any(judges, facts)

    def check_release(self, pod: Json, node: str, seat_namespace: str, seat: str) -> bool:
        """Judge the node right before the Pod's release. Return whether the Pod must only prefer its node.

        Raises PlacementRaced, NodeUnfit, PeersFirst (wait: peers must be released before), ApiError.
        """
        if not constraints.has_any(pod):
            return False
        judges, among_pods, facts = self._judges(pod, node, seat_namespace, seat)
        _require_any(judges, facts)
        if words := among_pods.violation(facts):
            raise PeersFirst(
                f"node {node} is right once peers that wait for their data are released, and not before: {words}",
                node=node,
            )
        return among_pods.refuses_pinned(facts)

    def _judges(
        self, pod: Json, node: str, seat_namespace: str, seat: str
    ) -> tuple[list[Evaluation], Evaluation, NodeFacts]:
        """Return evaluations of which one must be content, that of real peers alone, and the node's facts."""
        wanted, nodes = constraints.read(pod, self._listing.namespaces), self._listing.nodes(node)
        if node not in nodes:
            raise NodeUnfit(f"node {node} is gone", node=node)
        own = self._listing.find_seat(seat_namespace, seat)
        peers = self._peers(pod, wanted, seat_namespace, allow_stale=False)
        hostile = self._hostile(pod, node, nodes, peers)
        older = [peer for peer in peers.seats if own is None or peer.bound < own.bound]
        # Younger seats cannot take the node from this one, but where they are elsewhere they may be what it waits for.
        return (
            [Evaluation(pod, wanted, nodes, [*peers.pods, *seats], hostile) for seats in (older, peers.seats)],
            Evaluation(pod, wanted, nodes, peers.pods, hostile),
            nodes[node],
        )

    def _peers(self, pod: Json, wanted: Constraints, seat_namespace: str, *, allow_stale: bool) -> Peers:
        return self._listing.peers(
            wanted.peer_selectors(), seat_namespace, pod["metadata"]["uid"], allow_stale=allow_stale
        )

    def _hostile(self, pod: Json, node: str, nodes: dict[str, NodeFacts], peers: Peers) -> dict[Domain, str]:
        others = [*self._listing.pods_of_node(node), *peers.repelling]
        labels = {}
        if needs_namespace_labels(others):
            labels = self._listing.namespace_labels(pod["metadata"]["namespace"])
        return find_hostile(pod, others, nodes, labels)


def _require_any(judges: Sequence[Evaluation], facts: NodeFacts) -> None:
    """Raises PlacementRaced with the words of the first; NodeUnfit if others exclude the Pod, whom no plan foresees."""
    words = [judge.violation(facts) for judge in judges]
    if all(words):
        error = NodeUnfit if judges[0].is_excluded(facts) else PlacementRaced
        raise error(f"node {facts.name} cannot take the Pod beside its peers: {words[0]}", node=facts.name)
