"""`collect_cluster_state` and `find_bound_pods`: Temporal and Kubernetes as the reconcile sees them. Operator queue.

`collect_cluster_state` also does the part of a reconcile that needs no disk: it signals the workflow and the entities
of a Pod that is gone, and deletes a seat whose workflow has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import structlog
from temporalio import activity
from temporalio.client import Client, WorkflowExecution
from temporalio.service import RPCError, RPCStatusCode

from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.common import Consumer, Phase
from kube_cache.contracts.node import DatasetOnNodeStatus
from kube_cache.contracts.reconcile import BoundPods, ClusterState, Entity, FindBoundPodsInput, FindBoundPodsResult
from kube_cache.contracts.warm_pod import PodBound
from kube_cache.kube import pods, seats
from kube_cache.kube.client import KubeClient
from kube_cache.temporal import executions
from kube_cache.temporal.search_attributes import phase_of

_log = structlog.get_logger("kube_cache.reconcile")


class _Pods(NamedTuple):
    nodes: dict[str, str]
    """UID -> node (empty while unbound) of each Pod that requires a dataset and has not ended."""
    bound: list[BoundPods]


class ClusterStateActivities:
    def __init__(self, kube: KubeClient, client: Client, *, seat_namespace: str) -> None:
        self._kube = kube
        self._client = client
        self._seat_namespace = seat_namespace

    @activity.defn(name=names.COLLECT_CLUSTER_STATE)
    @as_application_errors
    async def collect_cluster_state(self) -> ClusterState:
        """Read workflows, consumers, seats and, last, Pods: a consumer's Pod that is not in the list is gone.

        Every signal can be sent twice, so running twice is harmless. Raises RPCError, ApiError.
        """
        warm_pods = {execution.id async for execution in self._running(names.WARM_POD)}
        entities = [_entity(execution) async for execution in self._running(names.DATASET_ON_NODE)]
        consumers = [(entity, await self._consumers(entity)) for entity in entities]
        standing_seats = await asyncio.to_thread(
            self._kube.list_items, "pods", namespace=self._seat_namespace, label_selector=names.SEAT_LABEL
        )
        living = await asyncio.to_thread(self._list_pods)
        activity.heartbeat()
        for entity, its_consumers in consumers:
            for consumer in its_consumers:
                if consumer.pod.uid not in living.nodes:
                    await executions.signal_if_running(self._client, entity.workflow_id, "leave", consumer)
        for workflow_id in warm_pods:
            await self._signal_warm_pod(workflow_id, living.nodes)
        for seat in standing_seats:
            owner = pods.seat_workflow_id(seat)
            if owner and owner not in warm_pods and await executions.has_ended(self._client, owner):
                name = seat["metadata"]["name"]
                _log.warning("deleting a seat whose workflow has ended", seat=name, workflow=owner)
                await asyncio.to_thread(seats.delete, self._kube, self._seat_namespace, name)
        nodes = await asyncio.to_thread(self._kube.list_items, "nodes")
        return ClusterState(entities, sorted(living.nodes), [node["metadata"]["name"] for node in nodes], living.bound)

    @activity.defn(name=names.FIND_BOUND_PODS)
    @as_application_errors
    async def find_bound_pods(self, arg: FindBoundPodsInput) -> FindBoundPodsResult:
        """Find the Pods that run on these snapshots on this node, by their receipts. Called when a snapshot was lost.

        The receipts know more than the entity, which a hit does not always join. Reads only, so running twice is
        harmless.
        """
        return await asyncio.to_thread(self._find_bound_pods, arg)

    async def _running(self, workflow_type: str) -> AsyncIterator[WorkflowExecution]:
        async for execution in executions.running(self._client, workflow_type):
            activity.heartbeat()
            yield execution

    async def _signal_warm_pod(self, workflow_id: str, living: dict[str, str]) -> None:
        uid = names.parse_warm_pod_id(workflow_id).uid
        if uid not in living:
            await executions.signal_if_running(self._client, workflow_id, "pod_gone")
        elif living[uid]:
            await executions.signal_if_running(self._client, workflow_id, "pod_bound", PodBound(living[uid]))
        else:
            await executions.signal_if_running(self._client, workflow_id, "resync")

    async def _consumers(self, entity: Entity) -> list[Consumer]:
        activity.heartbeat()
        try:
            handle = self._client.get_workflow_handle(entity.workflow_id)
            status: DatasetOnNodeStatus = await handle.query("status", result_type=DatasetOnNodeStatus)
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                return []
            raise
        return status.consumers

    def _list_pods(self) -> _Pods:
        nodes: dict[str, str] = {}
        bound: dict[tuple[str, str], list[str]] = {}
        for pod in self._kube.list_items("pods"):
            if not pods.is_living(pod):
                continue
            uid = pods.ref(pod).uid
            nodes[uid] = pods.node_name(pod)
            if (receipt := pods.receipt_if_bound(pod)) is not None:
                for digest in receipt.digests:
                    bound.setdefault((receipt.node, digest), []).append(uid)
        return _Pods(nodes, [BoundPods(node, digest, uids) for (node, digest), uids in bound.items()])

    def _find_bound_pods(self, arg: FindBoundPodsInput) -> FindBoundPodsResult:
        consumers: dict[str, list[Consumer]] = {}
        for pod in self._kube.list_items("pods", label_selector=f"{names.MANAGED_LABEL}=true"):
            receipt = pods.receipt_if_bound(pod) if pods.is_living(pod) else None
            if receipt is None or receipt.node != arg.node:
                continue
            ref = pods.ref(pod)
            for digest in receipt.digests:
                if digest in arg.digests:
                    workflow_id = names.warm_pod_id(ref.namespace, ref.name, ref.uid)
                    consumers.setdefault(digest, []).append(Consumer(workflow_id, ref))
        return FindBoundPodsResult(consumers)


def _entity(execution: WorkflowExecution) -> Entity:
    parsed = names.parse_dataset_on_node_id(execution.id)
    # AwaitingOperator: the repair of a snapshot that Pods run on has failed. Each reconcile has it tried again; an
    # entity without such Pods ends by itself.
    ready = phase_of(execution) in (Phase.READY, Phase.AWAITING_OPERATOR)
    return Entity(execution.id, parsed.node, parsed.cache_id, parsed.digest, ready=ready)
