"""`join_dataset`: join or leave a `DatasetOnNode` by signal-with-start, which Temporal makes atomic. Operator queue."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy

from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.common import Phase
from kube_cache.contracts.node import JoinInput
from kube_cache.temporal.client import TASK_TIMEOUT
from kube_cache.temporal.search_attributes import initial


class JoinDataset:
    def __init__(self, client: Client) -> None:
        self._client = client

    @activity.defn(name=names.JOIN_DATASET)
    @as_application_errors
    async def join_dataset(self, arg: JoinInput) -> None:
        """Signal the entity, and start it if it does not run: only an entity removes a Pod's pins from the disk.

        Running twice joins (or leaves) once: the entity keeps its consumers by workflow id.
        """
        dataset = arg.dataset
        await self._client.start_workflow(
            names.DATASET_ON_NODE,
            dataset,
            id=names.dataset_on_node_id(dataset.node, dataset.cache_id, dataset.snapshot.digest),
            task_queue=names.OPERATOR_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            start_signal="leave" if arg.leave else "join",
            start_signal_args=[arg.consumer],
            search_attributes=initial(
                phase=Phase.CHECKING, dataset=dataset.snapshot.uri, node=dataset.node, size=dataset.snapshot.bytes
            ),
            static_summary=f"{dataset.snapshot.uri} on {dataset.node}"[:200],
            task_timeout=TASK_TIMEOUT,
            rpc_timeout=timedelta(seconds=10),
        )
