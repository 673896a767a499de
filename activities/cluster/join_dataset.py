"""`join_dataset`: join or leave a `DatasetOnNode` by signal-with-start, which Temporal makes atomic. Operator queue."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import TypeAlias

from temporalio import activity
from temporalio.client import Client, WorkflowQueryFailedError, WorkflowQueryRejectedError
from temporalio.common import QueryRejectCondition, WorkflowIDConflictPolicy
from temporalio.service import RPCError

from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.common import Phase, Policy, Snapshot
from kube_cache.contracts.node import JoinInput
from kube_cache.temporal.client import TASK_TIMEOUT
from kube_cache.temporal.search_attributes import initial
from kube_cache.units import cut

_RPC_TIMEOUT = timedelta(seconds=10)
# Less than the activity's timeout leaves for the signal after it.
_QUERY_TIMEOUT = timedelta(seconds=3)


Grant: TypeAlias = Callable[[Snapshot, str], str]
"""Returns a token with which a node may read a snapshot from its neighbours; empty: it may not."""


def no_grant(_snapshot: Snapshot, _node: str) -> str:
    """Grant nothing: every node fetches from the origin alone."""
    return ""


Expect: TypeAlias = Callable[[Snapshot, str, str], Awaitable[bool]]
"""Returns whether another node wants or has a snapshot: snapshot, node and workflow id of the Pod that asks."""


async def company(_snapshot: Snapshot, _node: str, _workflow_id: str) -> bool:
    """Always expect other nodes."""
    return True


class JoinDataset:
    def __init__(
        self, client: Client, policy: Policy | None = None, grant: Grant = no_grant, expects: Expect = company
    ) -> None:
        """policy: of this operator, which a join tells the entity; None = that of the workflow that joins."""
        self._client = client
        self._policy = policy
        self._grant = grant
        self._expects = expects

    @activity.defn(name=names.JOIN_DATASET)
    @as_application_errors
    async def join_dataset(self, arg: JoinInput) -> None:
        """Signal the entity, and start it if it does not run: only an entity removes a Pod's pins from the disk.

        Running twice joins (or leaves) once: the entity keeps its consumers by workflow id.
        """
        if arg.again and await self._is_awaited(arg):
            return
        dataset = arg.dataset
        consumer = arg.consumer
        if not arg.leave:
            # The dataset was resolved with the rights of the Pod, which are all that the token passes on to its node.
            needs_none = consumer.hit or consumer.forbids_neighbours
            token = "" if needs_none else self._grant(dataset.snapshot, dataset.node)
            # A prefetch is in no hurry, and fills many nodes at once.
            knows_better = bool(token) and not consumer.prefetch
            expects = not knows_better or await self._expects(dataset.snapshot, dataset.node, consumer.workflow_id)
            policy = self._policy or dataset.policy
            consumer = replace(consumer, policy=policy, peer_token=token, expects_others=expects)
        await self._client.start_workflow(
            names.DATASET_ON_NODE,
            dataset,
            id=names.dataset_on_node_id(dataset.node, dataset.cache_id, dataset.snapshot.digest),
            task_queue=names.OPERATOR_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            start_signal="leave" if arg.leave else "join",
            start_signal_args=[consumer],
            search_attributes=initial(
                phase=Phase.CHECKING, dataset=dataset.snapshot.uri, node=dataset.node, size=dataset.snapshot.bytes
            ),
            static_summary=cut(f"{dataset.snapshot.uri} on {dataset.node}", 200),
            task_timeout=TASK_TIMEOUT,
            rpc_timeout=_RPC_TIMEOUT,
        )

    async def _is_awaited(self, arg: JoinInput) -> bool:
        """Whether the entity runs and counts the consumer as waiting. A query, unlike a signal, writes no history."""
        dataset = arg.dataset
        entity = self._client.get_workflow_handle(
            names.dataset_on_node_id(dataset.node, dataset.cache_id, dataset.snapshot.digest)
        )
        try:
            awaited: bool = await entity.query(
                "awaits",
                arg.consumer,
                result_type=bool,
                reject_condition=QueryRejectCondition.NOT_OPEN,
                rpc_timeout=_QUERY_TIMEOUT,
            )
            return awaited
        except (RPCError, WorkflowQueryRejectedError, WorkflowQueryFailedError):
            return False  # it ended, or an older operator answered: the signal is safe in any case
