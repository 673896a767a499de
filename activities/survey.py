"""`survey`: what is open in Temporal and what lives in Kubernetes, for the reconcile. Operator queue.

It also does the part that needs no disk: a Pod that is gone is told to its workflow and to the entities that count it, and
a seat whose workflow has ended is deleted.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from activities.bound_pods import is_living, receipt
from activities.edge import translated
from kube_cache import contracts, names
from kube_cache.contracts import BoundPods, Entity, Interest, Phase, PodBound, Survey
from kube_cache.kube import seats
from kube_cache.kube.client import KubeClient
from kube_cache.settings import OperatorSettings

_log = structlog.get_logger("kube_cache.survey")


class TakeSurvey:
    def __init__(self, kube: KubeClient, client: Client, settings: OperatorSettings) -> None:
        self._kube = kube
        self._client = client
        self._namespace = settings.namespace

    @activity.defn(name=names.SURVEY)
    @translated
    async def survey(self) -> Survey:
        """Every signal that it sends can be sent twice; running twice is harmless.

        The order matters: workflows, users and seats are read before the Pods are listed, so whatever they name and the
        list lacks is gone, not too new to be seen.
        """
        warm = await self._running(names.WARM_POD)
        entities = [_entity(found) for found in await self._running(names.DATASET_ON_NODE)]
        users = [(entity, await self._users(entity)) for entity in entities]
        standing = await asyncio.to_thread(
            self._kube.list_items, "pods", namespace=self._namespace, label_selector=names.SEAT_LABEL
        )
        pods, bound = await asyncio.to_thread(self._pods)
        living = set(pods)
        activity.heartbeat()
        for entity, interests in users:
            for interest in interests:
                if interest.pod.uid not in living:
                    await self._signal(entity.workflow_id, "leave", interest)
        open_ids = {found.id for found in warm}
        for workflow_id in open_ids:
            uid = workflow_id.rsplit("/", 1)[1]
            if uid not in living:
                await self._signal(workflow_id, "pod_gone")
            elif pods[uid]:
                await self._signal(workflow_id, "pod_bound", PodBound(pods[uid]))
            else:
                await self._signal(workflow_id, "look_again")
        for seat in standing:
            owner = (seat["metadata"].get("annotations") or {}).get(names.SEAT_WORKFLOW_ANNOTATION)
            if owner and owner not in open_ids and await self._has_ended(owner):
                _log.warning("deleting a seat whose workflow has ended", seat=seat["metadata"]["name"], workflow=owner)
                await asyncio.to_thread(seats.delete, self._kube, self._namespace, seat["metadata"]["name"])
        nodes = await asyncio.to_thread(self._kube.list_items, "nodes")
        return Survey(entities, sorted(living), [node["metadata"]["name"] for node in nodes], bound)

    async def _running(self, kind: str) -> list[Any]:
        query = f"WorkflowType = '{kind}' AND ExecutionStatus = 'Running'"
        found = []
        async for execution in self._client.list_workflows(query):
            found.append(execution)
            activity.heartbeat()
        return found

    async def _users(self, entity: Entity) -> list[Interest]:
        activity.heartbeat()
        try:
            handle = self._client.get_workflow_handle(entity.workflow_id)
            status: contracts.DatasetOnNodeStatus = await handle.query(
                "status", result_type=contracts.DatasetOnNodeStatus
            )
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                return []
            raise
        return status.interests

    def _pods(self) -> tuple[dict[str, str], list[BoundPods]]:
        """UID -> node ('' while unbound) of each Pod that wants a dataset and has not ended; and who runs on what."""
        nodes: dict[str, str] = {}
        bound: dict[tuple[str, str], list[str]] = {}
        for pod in self._kube.list_items("pods"):
            if is_living(pod):
                uid = pod["metadata"]["uid"]
                nodes[uid] = pod["spec"].get("nodeName") or ""
                for digest in receipt(pod, nodes[uid]):
                    bound.setdefault((nodes[uid], digest), []).append(uid)
        return nodes, [BoundPods(node, digest, uids) for (node, digest), uids in bound.items()]

    async def _has_ended(self, workflow_id: str) -> bool:
        """Visibility lags a little; the workflow itself does not."""
        try:
            described = await self._client.get_workflow_handle(workflow_id).describe()
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                return True
            raise
        return described.close_time is not None

    async def _signal(self, workflow_id: str, name: str, arg: object | None = None) -> None:
        try:
            await self._client.get_workflow_handle(workflow_id).signal(name, args=[] if arg is None else [arg])
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise


def _entity(found: Any) -> Entity:
    _, node, cache_id, digest = found.id.split("/", 3)
    phase = (found.search_attributes.get("KcPhase") or [""])[0]
    # One that could not mend what Pods run on is asked again at each reconcile; without such Pods it ends by itself.
    return Entity(found.id, node, cache_id, digest, ready=phase in (Phase.READY, Phase.AWAITING_OPERATOR))
