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
from kube_cache.forecast.ahead import missing
from kube_cache.kube import placeholders, seats
from kube_cache.kube.client import Json, KubeClient
from kube_cache.kube.nodes import NodeFacts
from kube_cache.kube.placeholders import Asked, Placeholder

_log = structlog.get_logger("kube_cache.forecast")
_HOSTNAME = "kubernetes.io/hostname"


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
    async def place_placeholders(self, arg: PlacePlaceholdersInput) -> None:
        """Create what is missing and delete what is too many; twice is once.

        Raises NotSynced, SeatForbidden, ApiError.
        """
        if not self._is_synced():
            raise NotSynced("this operator has not seen the cluster's nodes and Pods yet")
        async with heartbeats():
            await asyncio.to_thread(self.place, arg.wanted, arg.renew_s)

    def place(self, wanted: Sequence[AheadWanted], renew_s: float) -> None:
        stand, too_old = self._standing(time.time() + renew_s)
        eligible = {node.name: node for node in self._get_nodes() if self._is_eligible(node)}
        # One that its deadline ended was what kept its node until now, and the one in its place is to keep it.
        held = {each.node for each in [*stand, *too_old] if each.node}
        used = self._get_used()
        found = missing(wanted, eligible, used, held, self._max_placeholders)
        surplus = list(too_old)
        create: list[tuple[AheadWanted, int]] = []
        for each in wanted:
            mine = [one for one in stand if one.dataset == placeholders.digest_of(each.dataset)]
            mine.sort(key=lambda one: (not one.node, one.name))
            count = found.copies.get(each.dataset, 0)
            surplus.extend(mine[count:])
            kept = {one.name for one in mine[:count]}
            # More indices than there are placeholders, so that there is a free one for each that is missing.
            free = [index for index in range(2 * count) if placeholders.name_of(each.dataset, index) not in kept]
            create.extend((each, index) for index in free[: count - len(kept)])
        of_plans = {placeholders.digest_of(each.dataset) for each in wanted}
        surplus.extend(one for one in stand if one.dataset not in of_plans)
        for one in surplus:
            seats.delete(self._kube, self._namespace, one.name)
        hosts = {eligible[node].labels.get(_HOSTNAME, node) if node in eligible else node for node in found.counted}
        for each, index in create:
            pod = placeholders.build(
                each.dataset,
                index,
                self._asked,
                namespace=self._namespace,
                exclude_hosts=hosts,
                lives_s=each.lives_s,
                owner=self._get_owner(),
            )
            placeholders.create(self._kube, pod)
        if surplus or create:
            _log.info("placeholder Pods for copies that are forecast", created=len(create), deleted=len(surplus))

    def _standing(self, until: float) -> tuple[list[Placeholder], list[Placeholder]]:
        """Return those that live at `until`, and the others, in whose place new ones are made."""
        stand: list[Placeholder] = []
        too_old: list[Placeholder] = []
        for each in placeholders.list_all(self._kube, self._namespace):
            (too_old if each.ended or 0 < each.expires_at <= until else stand).append(each)
        return stand, too_old

    def _is_eligible(self, node: NodeFacts) -> bool:
        """Whether the plan may choose the node and the scheduler may bind Pods to it."""
        labels = self._asked.node_selector.items()
        can_take = node.ready and not (node.unschedulable or node.deleting or node.pressures)
        return can_take and all(node.labels.get(key) == value for key, value in labels)
