"""`create_seat` and `delete_seat`: the placeholder Pod by which the scheduler chooses a node and reserves it.

Operator queue, local activities. `kube_cache.kube.seats` composes the seat; here the inventory says which nodes it
prefers.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from temporalio import activity
from temporalio.client import Client

from activities.cluster.inventory import Holding, Inventory
from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.common import Snapshot
from kube_cache.contracts.warm_pod import CreateSeatInput, CreateSeatResult, DeleteSeatInput, SeatBound
from kube_cache.kube import gate, pods, seats
from kube_cache.kube.client import Json, KubeClient
from kube_cache.kube.expectations import Expectations

# Score per byte. A node that is fetching the data is worth half of one that holds it: waiting beats fetching twice.
_SCORE_READY, _SCORE_WARMING = 2, 1


class SeatActivities:
    def __init__(
        self,
        kube: KubeClient,
        client: Client,
        expectations: Expectations,
        get_gated_pod: Callable[[str], Json | None],
        *,
        image: str,
    ) -> None:
        """get_gated_pod: the JSON of a gated Pod by uid, as the watch has it; None if the watch does not have it.

        image: of the seat's only container.
        """
        self._kube = kube
        self._expectations = expectations
        self._get_gated_pod = get_gated_pod
        self._inventory = Inventory(client)
        self._image = image

    @activity.defn(name=names.CREATE_SEAT)
    @as_application_errors
    async def create_seat(self, arg: CreateSeatInput) -> CreateSeatResult:
        """Create the seat and wait up to `wait_s` for the scheduler to bind it.

        The name follows from the Pod and the attempt, so running twice finds the seat of the first run. Raises PodGone.
        """
        holdings = {snapshot.uri: await self._inventory.of(snapshot.uri) for snapshot in arg.snapshots}
        if not arg.wait_s:
            return await asyncio.to_thread(self._create, arg, holdings)
        with self._expectations.expect(arg.workflow_id, SeatBound) as expected:
            seat = await asyncio.to_thread(self._create, arg, holdings)
            if not seat.node and (bound := await expected.wait(arg.wait_s)) is not None and bound.seat == seat.name:
                seat = replace(seat, node=bound.node)
        return seat

    @activity.defn(name=names.DELETE_SEAT)
    @as_application_errors
    async def delete_seat(self, arg: DeleteSeatInput) -> None:
        """Delete the seat. A missing seat is no error, so running twice is harmless."""
        await asyncio.to_thread(seats.delete, self._kube, arg.namespace, arg.name)

    def _create(self, arg: CreateSeatInput, holdings: Mapping[str, Sequence[Holding]]) -> CreateSeatResult:
        preferred = _preferred_nodes(arg.snapshots, holdings)
        pod = self._get_gated_pod(arg.pod.uid) or gate.read_pod(self._kube, arg.pod, allow_stale=True)
        seat = seats.create(
            self._kube,
            seats.build_seat(
                pod,
                name=names.seat_name(arg.pod.uid, arg.number),
                namespace=arg.namespace,
                workflow_id=arg.workflow_id,
                prefer_nodes=[node for node in preferred if node not in arg.exclude_nodes],
                exclude_nodes=arg.exclude_nodes,
                image=self._image,
            ),
        )
        holders = {
            snapshot.digest: [
                holding.node
                for holding in holdings[snapshot.uri]
                if holding.digest == snapshot.digest and holding.ready
            ]
            for snapshot in arg.snapshots
        }
        return CreateSeatResult(seat["metadata"]["name"], seats.gpu_count(pod), pods.node_name(seat), holders)


def _preferred_nodes(snapshots: list[Snapshot], holdings: Mapping[str, Sequence[Holding]]) -> list[str]:
    """Nodes with the highest score, by name: those that hold, or are fetching, the most bytes of these snapshots."""
    scores: Counter[str] = Counter()
    for snapshot in snapshots:
        for holding in holdings[snapshot.uri]:
            if holding.digest == snapshot.digest:
                scores[holding.node] += (_SCORE_READY if holding.ready else _SCORE_WARMING) * (snapshot.bytes + 1)
    best = max(scores.values(), default=0)
    return sorted(node for node, score in scores.items() if score == best)
