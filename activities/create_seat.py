"""`create_seat`: the placeholder Pod that makes the scheduler choose a node and hold it. Operator queue, local activity."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from temporalio import activity
from temporalio.client import Client

from activities.edge import translated
from activities.inventory import Holding, Inventory
from kube_cache import names
from kube_cache.contracts import CreateSeatInput, CreateSeatResult, SeatBound, Snapshot
from kube_cache.kube import gate, seats
from kube_cache.kube.client import KubeClient
from kube_cache.kube.sightings import Sightings
from kube_cache.settings import OperatorSettings

# A node that is fetching the data already is worth half of one that holds it: waiting beats fetching twice.
_WORTH_READY, _WORTH_WARMING = 2, 1


class CreateSeat:
    def __init__(self, kube: KubeClient, client: Client, settings: OperatorSettings, sightings: Sightings) -> None:
        self._kube = kube
        self._sightings = sightings
        self._inventory = Inventory(client)
        self._image = settings.seat_image

    @activity.defn(name=names.CREATE_SEAT)
    @translated
    async def create_seat(self, arg: CreateSeatInput) -> CreateSeatResult:
        """The name follows from the Pod and the attempt, so running twice finds the seat of the first run.

        Raises PodGone.
        """
        held = {snapshot.uri: await self._inventory.of(snapshot.uri) for snapshot in arg.snapshots}
        if not arg.wait_s:
            return await asyncio.to_thread(self._create, arg, held)
        with self._sightings.expect(arg.workflow_id, SeatBound) as expected:
            made = await asyncio.to_thread(self._create, arg, held)
            if not made.node and (bound := await expected.wait(arg.wait_s)) is not None and bound.seat == made.name:
                made = replace(made, node=bound.node)
        return made

    def _create(self, arg: CreateSeatInput, held: Mapping[str, Sequence[Holding]]) -> CreateSeatResult:
        preferred = _with_most_bytes(arg.snapshots, held)
        pod = self._sightings.gated_pod(arg.pod.uid) or gate.read_pod(self._kube, arg.pod, maybe_stale=True)
        seat = seats.build_seat(
            pod,
            name=names.seat_name(arg.pod.uid, arg.number),
            namespace=arg.namespace,
            workflow_id=arg.workflow_id,
            prefer_nodes=[node for node in preferred if node not in arg.exclude_nodes],
            exclude_nodes=arg.exclude_nodes,
            image=self._image,
        )
        made = seats.create(self._kube, seat)
        holders = {
            snapshot.digest: [one.node for one in held[snapshot.uri] if one.digest == snapshot.digest and one.ready]
            for snapshot in arg.snapshots
        }
        return CreateSeatResult(
            made["metadata"]["name"], seats.gpu_count(pod), made["spec"].get("nodeName") or "", holders
        )


def _with_most_bytes(snapshots: list[Snapshot], held: Mapping[str, Sequence[Holding]]) -> list[str]:
    """Nodes with the most of these bytes, fetched or being fetched."""
    worth: Counter[str] = Counter()
    for snapshot in snapshots:
        for one in held[snapshot.uri]:
            if one.digest == snapshot.digest:
                worth[one.node] += (_WORTH_READY if one.ready else _WORTH_WARMING) * (snapshot.bytes + 1)
    most = max(worth.values(), default=0)
    return sorted(node for node, value in worth.items() if value == most)
