"""`Reconcile`: what Temporal, Kubernetes and the disks think of each other, brought together on a schedule.

Signals may be lost, an operator may be down while Pods are deleted, a node may come back with another disk. Nothing of
that is handled where it happens; it is found here, level-triggered: ended Pods give back what they held, bound ones hold what
their receipts say, and an entity whose snapshot is not whole on the disk any more is told so, and for whom to bring it back. It
never removes data: that is the store's decision, when room is needed.
"""

from __future__ import annotations

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError, FailureError

with workflow.unsafe.imports_passed_through():
    from kube_cache import names
    from kube_cache.contracts.common import Consumer
    from kube_cache.contracts.node import SnapshotLost
    from kube_cache.contracts.reconcile import (
        ClusterState,
        Entity,
        FindBoundPodsInput,
        FindBoundPodsResult,
        ReconcileDiskInput,
        ReconcileResult,
    )
    from workflows import activity_calls as calls

# Nodes without an open entity that one run looks at: pins may have outlived their entity there (terminated, or lost with Temporal's
# database). Bounded, because each node's input names every Pod that is gated, and a history may hold 50 MiB.
_MOST_OTHERS = 100


@workflow.defn(name=names.RECONCILE)
class Reconcile:
    @workflow.run
    async def run(self) -> ReconcileResult:
        cluster = await calls.collect_cluster_state()
        nodes = {entity.node for entity in cluster.entities}
        nodes |= self._others(cluster, nodes)
        found = await asyncio.gather(*(self._node(node, cluster) for node in sorted(nodes)))
        return ReconcileResult(
            nodes_seen=sum(result.nodes_seen for result in found),
            nodes_silent=sum(result.nodes_silent for result in found),
            snapshots_lost=sum(result.snapshots_lost for result in found),
            unpinned=sum(result.unpinned for result in found),
            pinned=sum(result.pinned for result in found),
        )

    def _others(self, cluster: ClusterState, visited: set[str]) -> set[str]:
        """All where Pods run on a dataset, and a sample of the rest: no node is left out for ever."""
        used = {use.node for use in cluster.bound} & set(cluster.nodes)
        rest = sorted(set(cluster.nodes) - visited - used)
        return used | set(workflow.random().sample(rest, min(len(rest), _MOST_OTHERS)))

    async def _node(self, node: str, cluster: ClusterState) -> ReconcileResult:
        entities = [entity for entity in cluster.entities if entity.node == node]
        if node not in cluster.nodes:
            await asyncio.gather(*(self._tell(entity, disk_is_gone=True) for entity in entities))
            return ReconcileResult(snapshots_lost=len(entities))
        here = {use.digest: use.uids for use in cluster.bound if use.node == node}
        elsewhere = {uid for use in cluster.bound if use.node != node for uid in use.uids}
        living = [uid for uid in cluster.living if uid not in elsewhere]
        try:
            disk = await calls.reconcile_disk(node, ReconcileDiskInput(living, here))
        except ActivityError:
            # Rebooting, or its agent is away: the next run looks again. Where there is no entity there may be no agent.
            return ReconcileResult(nodes_silent=int(bool(entities)))
        lost = [
            entity
            for entity in entities
            if entity.cache_id != disk.cache_id or (entity.ready and entity.digest not in disk.complete)
        ]
        used = sorted({entity.digest for entity in lost} & here.keys())
        bound = FindBoundPodsResult({})
        if used:
            bound = await calls.find_bound_pods(FindBoundPodsInput(node, used))
        await asyncio.gather(
            *(
                self._tell(
                    entity,
                    disk_is_gone=entity.cache_id != disk.cache_id,
                    consumers=bound.consumers.get(entity.digest),
                    cache_id=disk.cache_id,
                )
                for entity in lost
            )
        )
        return ReconcileResult(nodes_seen=1, snapshots_lost=len(lost), unpinned=disk.unpinned, pinned=disk.pinned)

    async def _tell(
        self, entity: Entity, *, disk_is_gone: bool, consumers: list[Consumer] | None = None, cache_id: str = ""
    ) -> None:
        try:
            handle = workflow.get_external_workflow_handle(entity.workflow_id)
            await handle.signal("snapshot_lost", SnapshotLost(disk_is_gone, consumers or [], cache_id))
        except FailureError:
            workflow.logger.info("entity has ended", extra={"entity": entity.workflow_id})
