"""`Reconcile`: compares Temporal, Kubernetes and the disks on a schedule, and repairs what they disagree on.

A signal may be lost, an operator may be down while Pods are deleted, a node may come back with another disk. None of
that is handled where it happens; it is found here, level-triggered. Ended Pods give their pins back, bound Pods get the
pins that their receipts name, and the entity of a snapshot that is no longer complete on its disk is told so, and for
which Pods to repair it. The reconcile never removes data: that is the store's decision, when it needs space.
"""

from __future__ import annotations

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError, FailureError

with workflow.unsafe.imports_passed_through():
    from kube_cache import names
    from kube_cache.contracts.node import SnapshotLost
    from kube_cache.contracts.reconcile import (
        ClusterState,
        Entity,
        FindBoundPodsInput,
        FindBoundPodsResult,
        ReconcileDiskInput,
        ReconcileResult,
    )
    from workflows import activity_calls

# Nodes without an open entity that one run looks at: a pin may have outlived its entity there (terminated, or lost with
# Temporal's database). Bounded, because each node's input names every gated Pod, and a history may hold 50 MiB.
_MAX_OTHER_NODES = 100


@workflow.defn(name=names.RECONCILE)
class Reconcile:
    @workflow.run
    async def run(self) -> ReconcileResult:
        cluster = await activity_calls.collect_cluster_state()
        nodes = {entity.node for entity in cluster.entities}
        nodes |= _other_nodes(cluster, nodes)
        results = await asyncio.gather(*(self._reconcile_node(node, cluster) for node in sorted(nodes)))
        return ReconcileResult(
            nodes_seen=sum(result.nodes_seen for result in results),
            nodes_silent=sum(result.nodes_silent for result in results),
            snapshots_lost=sum(result.snapshots_lost for result in results),
            unpinned=sum(result.unpinned for result in results),
            pinned=sum(result.pinned for result in results),
        )

    async def _reconcile_node(self, node: str, cluster: ClusterState) -> ReconcileResult:
        entities = [entity for entity in cluster.entities if entity.node == node]
        if node not in cluster.nodes:
            await asyncio.gather(*(self._tell(entity, SnapshotLost(disk_is_gone=True)) for entity in entities))
            return ReconcileResult(snapshots_lost=len(entities))
        bound_here = {use.digest: use.uids for use in cluster.bound if use.node == node}
        bound_elsewhere = {uid for use in cluster.bound if use.node != node for uid in use.uids}
        living = [uid for uid in cluster.living if uid not in bound_elsewhere]
        try:
            disk = await activity_calls.reconcile_disk(node, ReconcileDiskInput(living, bound_here))
        except ActivityError:
            # Rebooting, or its agent is away: the next run tries again. A node without an entity may have no agent at
            # all.
            return ReconcileResult(nodes_silent=int(bool(entities)))
        lost = [
            entity
            for entity in entities
            if entity.cache_id != disk.cache_id or (entity.ready and entity.digest not in disk.complete)
        ]
        in_use = sorted({entity.digest for entity in lost} & bound_here.keys())
        bound = FindBoundPodsResult({})
        if in_use:
            bound = await activity_calls.find_bound_pods(FindBoundPodsInput(node, in_use))
        await asyncio.gather(
            *(
                self._tell(
                    entity,
                    SnapshotLost(
                        disk_is_gone=entity.cache_id != disk.cache_id,
                        consumers=bound.consumers.get(entity.digest, []),
                        cache_id=disk.cache_id,
                    ),
                )
                for entity in lost
            )
        )
        return ReconcileResult(nodes_seen=1, snapshots_lost=len(lost), unpinned=disk.unpinned, pinned=disk.pinned)

    async def _tell(self, entity: Entity, lost: SnapshotLost) -> None:
        try:
            await workflow.get_external_workflow_handle(entity.workflow_id).signal("snapshot_lost", lost)
        except FailureError:
            workflow.logger.info("entity has ended", extra={"entity": entity.workflow_id})


def _other_nodes(cluster: ClusterState, visited: set[str]) -> set[str]:
    """Nodes without an entity to look at: all on which Pods run on a dataset, and a random sample of the rest."""
    used = {use.node for use in cluster.bound} & set(cluster.nodes)
    rest = sorted(set(cluster.nodes) - visited - used)
    return used | set(workflow.random().sample(rest, min(len(rest), _MAX_OTHER_NODES)))
