"""`create_seat`: the placeholder Pod that makes the scheduler choose a node and hold it. Operator queue, local activity."""

from __future__ import annotations

import asyncio
from collections import Counter

from temporalio import activity
from temporalio.client import Client

from activities.edge import translated
from kube_cache import names
from kube_cache.contracts import CreateSeatInput, CreateSeatResult, Phase, Snapshot
from kube_cache.kube import gate, seats
from kube_cache.kube.client import KubeClient
from kube_cache.settings import OperatorSettings

# A node that is fetching the data already is worth half of one that holds it: waiting beats fetching twice.
_WORTH = {str(Phase.READY): 2, str(Phase.WARMING): 1, str(Phase.PAUSED): 1}


class CreateSeat:
    def __init__(self, kube: KubeClient, client: Client, settings: OperatorSettings) -> None:
        self._kube = kube
        self._client = client
        self._image = settings.seat_image

    @activity.defn(name=names.CREATE_SEAT)
    @translated
    async def create_seat(self, arg: CreateSeatInput) -> CreateSeatResult:
        """The name follows from the Pod and the attempt, so running twice finds the seat of the first run.

        Raises PodGone.
        """
        preferred = await self._nodes_that_hold(arg.snapshots)
        return await asyncio.to_thread(self._create, arg, preferred)

    def _create(self, arg: CreateSeatInput, preferred: list[str]) -> CreateSeatResult:
        pod = gate.read_pod(self._kube, arg.pod)
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
        return CreateSeatResult(made["metadata"]["name"], seats.gpu_count(pod), made["spec"].get("nodeName") or "")

    async def _nodes_that_hold(self, snapshots: list[Snapshot]) -> list[str]:
        """Nodes with the most of these bytes. Temporal is the inventory: the open entities say what is where."""
        held: Counter[str] = Counter()
        for snapshot in snapshots:
            uri = snapshot.uri.replace("'", "''")
            query = f"WorkflowType = '{names.DATASET_ON_NODE}' AND ExecutionStatus = 'Running' AND KcDataset = '{uri}'"
            async for found in self._client.list_workflows(query, page_size=200):
                _, node, _, digest = found.id.split("/", 3)
                phase = (found.search_attributes.get("KcPhase") or [""])[0]
                if digest == snapshot.digest:
                    held[node] += _WORTH.get(str(phase), 0) * (snapshot.bytes + 1)
        most = max(held.values(), default=0)
        return sorted(node for node, worth in held.items() if worth == most and worth > 0)
