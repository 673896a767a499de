"""`place_placeholders`: as many placeholder Pods as copies are forecast for which no node is there. Operator queue.

Compares what stands in the seats' namespace with what the plan asks for, and makes up the difference. Names follow from
the dataset and a number, so that two operators, and two runs, make one set. Placeholders that stand on a node are kept
before those that do not: the node is there because of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog
from temporalio import activity

from activities.cluster.heartbeats import heartbeats
from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.forecast import AheadWanted, PlacePlaceholdersInput
from kube_cache.errors import NotSynced
from kube_cache.forecast.ahead import decide
from kube_cache.kube import placeholders, seats
from kube_cache.kube.client import Json, KubeClient
from kube_cache.kube.nodes import NodeFacts
from kube_cache.kube.placeholders import Asked, Placeholder

_log = structlog.get_logger("kube_cache.forecast")


class PlacePlaceholders:
    def __init__(
        self,
        kube: KubeClient,
        asked: Asked,
        get_nodes: Callable[[], Sequence[NodeFacts]],
        get_used: Callable[[], Mapping[str, Collection[str]]],
        is_synced: Callable[[], bool],
        get_owner: Callable[[], Json | None] = lambda: None,
        *,
        namespace: str,
        max_placeholders: int,
    ) -> None:
        """get_used: URIs of the datasets of the Pods on each node. is_synced: the watches have told all that there is.

        namespace: of the seats. get_owner: as of a seat.
        """
        self._kube = kube
        self._asked = asked
        self._get_nodes = get_nodes
        self._get_used = get_used
        self._is_synced = is_synced
        self._get_owner = get_owner
        self._namespace = namespace
        self._max_placeholders = max_placeholders

    @activity.defn(name=names.PLACE_PLACEHOLDERS)
    @as_application_errors
    async def place_placeholders(self, arg: PlacePlaceholdersInput) -> str:
        """Create what is missing and delete what is too many; twice is once. Return why nodes are not asked for.

        Raises NotSynced, SeatForbidden, ApiError.
        """
        if not self._is_synced():
            raise NotSynced("this operator has not seen the cluster's nodes and Pods yet")
        async with heartbeats():
            return await asyncio.to_thread(self.place, arg.wanted, arg.renew_s)

    def place(self, wanted: Sequence[AheadWanted], renew_s: float) -> str:
        all_nodes = {node.name: node for node in self._get_nodes()}
        eligible = [node.name for node in all_nodes.values() if self._is_eligible(node)]
        uris = {placeholders.digest_of(each.dataset): each.dataset for each in wanted}
        there = placeholders.list_all(self._kube, self._namespace)
        stand = [one for one in there if one.dataset in uris]
        keepers = [one for one in stand if _came_for(one, all_nodes)]
        came = {one.node: uris[one.dataset] for one in keepers}
        found = decide(wanted, eligible, self._get_used(), came, self._max_placeholders)
        renewed_from = time.time() + renew_s
        keep: set[str] = set()
        create: list[Json] = []
        for each in wanted:
            mine = [one for one in stand if one.dataset == placeholders.digest_of(each.dataset)]
            taken: set[str] = set()
            for one in sorted((one for one in mine if one in keepers), key=_order)[: found.kept.get(each.dataset, 0)]:
                taken.add(one.name)
                if _lives(one, renewed_from):
                    keep.add(one.name)
                else:
                    create.append(self._build(each, one.name, only_node=one.node))
            count = found.more.get(each.dataset, 0)
            others = [one for one in mine if one not in keepers and not one.only_node and _lives(one, renewed_from)]
            kept = {one.name for one in sorted(others, key=_order)[:count]}
            keep |= kept
            taken |= kept
            candidates = (placeholders.name_of(each.dataset, index) for index in range(len(taken) + count))
            free = [name for name in candidates if name not in taken]
            create.extend(self._build(each, name) for name in free[: count - len(kept)])
        deleted = 0
        for one in there:
            if one.name not in keep:
                deleted += seats.delete(self._kube, self._namespace, one.name)
        for pod in create:
            placeholders.create(self._kube, pod)
        if deleted or create:
            _log.info("placeholder Pods for copies that are forecast", created=len(create), deleted=deleted)
        return found.reason

    def _build(self, each: AheadWanted, name: str, *, only_node: str = "") -> Json:
        return placeholders.build(
            each.dataset,
            name,
            self._asked,
            namespace=self._namespace,
            lives_s=each.lives_s,
            only_node=only_node,
            owner=self._get_owner(),
        )

    def _is_eligible(self, node: NodeFacts) -> bool:
        """Whether the plan may choose the node and the scheduler may bind Pods to it."""
        labels = self._asked.node_selector.items()
        can_take = node.ready and not (node.unschedulable or node.deleting or node.pressures)
        return can_take and all(node.labels.get(key) == value for key, value in labels)


def _came_for(one: Placeholder, nodes: Mapping[str, NodeFacts]) -> bool:
    """Whether the placeholder stands on a node that is younger than it, or that an earlier one has kept.

    One that its deadline ended counts: its node was kept until now. A node that the watch does not show yet is new.
    """
    if not one.node:
        return False
    return bool(one.only_node) or one.node not in nodes or nodes[one.node].created_at >= one.created_at


def _lives(one: Placeholder, until: float) -> bool:
    return not one.ended and (not one.expires_at or one.expires_at > until)


def _order(one: Placeholder) -> tuple[bool, str]:
    """Those on a node first."""
    return not one.node, one.name
