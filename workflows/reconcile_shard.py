"""`ReconcileShard`: some dozens of nodes of one run of the reconcile, each compared with what it should hold.

Ended Pods give their pins back, released Pods get the links that their receipts name, and the entity of a snapshot that
is no longer complete on its disk is told so, and for which Pods to repair it. A child workflow, so that no history is
longer than its nodes need.
"""

from __future__ import annotations

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError, FailureError

with workflow.unsafe.imports_passed_through():
    from kube_cache import names
    from kube_cache.contracts.node import SnapshotLost
    from kube_cache.contracts.reconcile import (
        Entity,
        NodePlan,
        NodeVisited,
        ReconcileDiskInput,
        ReconcileDiskResult,
        ReconcileResult,
        SettleInput,
        SettleResult,
        ShardInput,
    )
    from workflows import cluster_calls, node_calls
    from workflows.reconcile import add

# Nodes of a shard that are asked at once; with the shards that run at once some three hundred of the cluster. More
# would wait in Temporal's queues until their agents looked dead.
_NODES_AT_ONCE = 10


@workflow.defn(name=names.RECONCILE_SHARD)
class ReconcileShard:
    def __init__(self) -> None:
        self._places = asyncio.Semaphore(_NODES_AT_ONCE)

    @workflow.run
    async def run(self, arg: ShardInput) -> ReconcileResult:
        plan = await cluster_calls.plan_shard(arg)

        async def one(node: NodePlan) -> ReconcileResult:
            async with self._places:
                began_at = workflow.now().timestamp()
                result = await self._reconcile_node(arg, node)
                if node.asked and not (result.nodes_silent or result.skipped):
                    await self._answer(node.node, NodeVisited(began_at))
                return result

        done = await asyncio.gather(*(one(node) for node in plan.nodes))
        return add([ReconcileResult(skipped=plan.skipped), *done])

    async def _answer(self, node: str, visit: NodeVisited) -> None:
        """Tell the request of the node's agent."""
        try:
            await workflow.get_external_workflow_handle(names.reconcile_request_id(node)).signal("visited", visit)
        except FailureError:
            workflow.logger.info("request has ended", extra={"node": node})

    async def _reconcile_node(self, shard: ShardInput, plan: NodePlan) -> ReconcileResult:
        if not plan.exists:
            gone = SnapshotLost(disk_is_gone=True)
            await asyncio.gather(*(self._tell(plan.node, entity, gone) for entity in plan.entities))
            return ReconcileResult(snapshots_lost=len(plan.entities))
        ask = ReconcileDiskInput(
            plan.living,
            receipts=plan.receipts,
            ask=True,
            expected=sorted({entity.digest for entity in plan.entities if entity.ready}),
        )
        try:
            disk = await node_calls.reconcile_disk(plan.node, ask)
        except ActivityError:
            # Rebooting, or its agent is away: the next run tries again. An idle node may have no agent at all.
            # A silent node held its place up for 10 s and gave nobody work: it makes room for two. So a shard whose
            # agents are all away takes 30 s.
            self._places.release()
            may_have_none = plan.idle and not plan.asked
            return ReconcileResult() if may_have_none else ReconcileResult(nodes_silent=1, silent=[plan.node])
        _log(plan.node, disk)
        try:
            settled, unpinned, lost = await self._settle(shard, plan, disk)
        except ActivityError as error:
            workflow.logger.warning("a node is left as it is", extra={"node": plan.node, "error": str(error.cause)})
            settled, unpinned, lost = SettleResult(skipped=1), 0, []
        return ReconcileResult(
            nodes_seen=1,
            snapshots_lost=len(lost),
            unpinned=disk.unpinned + unpinned,
            pinned=disk.pinned,
            nodes_faulty=int(bool(disk.disk_fault)),
            wrong_links=len(disk.wrong_links),
            skipped=settled.skipped,
        )

    async def _settle(
        self, shard: ShardInput, plan: NodePlan, disk: ReconcileDiskResult
    ) -> tuple[SettleResult, int, list[Entity]]:
        """Repair what was lost and remove the pins of Pods that are gone. Raises ActivityError."""
        lost = [
            entity
            for entity in plan.entities
            if entity.cache_id != disk.cache_id or (entity.ready and entity.digest not in disk.complete)
        ]
        used = {digest for digests in plan.receipts.values() for digest in digests}
        in_use = sorted({entity.digest for entity in lost} & used)
        settled = SettleResult()
        if disk.doubtful or in_use:
            settled = await cluster_calls.settle_node(SettleInput(shard, plan.node, disk.doubtful, in_use))
        await asyncio.gather(
            *(
                self._tell(
                    plan.node,
                    entity,
                    SnapshotLost(
                        disk_is_gone=entity.cache_id != disk.cache_id,
                        consumers=settled.consumers.get(entity.digest, []),
                        cache_id=disk.cache_id,
                    ),
                )
                for entity in lost
            )
        )
        unpinned = 0
        if settled.ended:
            answer = ReconcileDiskInput(plan.living, receipts=plan.receipts, ask=True, ended=settled.ended, expected=[])
            unpinned = (await node_calls.reconcile_disk(plan.node, answer)).unpinned
        return settled, unpinned, lost

    async def _tell(self, node: str, entity: Entity, lost: SnapshotLost) -> None:
        workflow_id = names.dataset_on_node_id(node, entity.cache_id, entity.digest)
        try:
            await workflow.get_external_workflow_handle(workflow_id).signal("snapshot_lost", lost)
        except FailureError:
            workflow.logger.info("entity has ended", extra={"entity": workflow_id})


def _log(node: str, disk: ReconcileDiskResult) -> None:
    if disk.disk_fault:
        workflow.logger.warning("the disk of a node is failing", extra={"node": node, "fault": disk.disk_fault})
    if disk.wrong_links:
        workflow.logger.warning(
            "links of Pods are not those of their receipts", extra={"node": node, "uids": disk.wrong_links}
        )
