"""`join_dataset`: join or leave a `DatasetOnNode` entity by signal-with-start, which Temporal makes atomic. Operator queue."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy

from activities.edge import translated
from kube_cache import names
from kube_cache.contracts import JoinInput, Phase
from kube_cache.search import initial
from kube_cache.temporal import TASK_TIMEOUT


class JoinDataset:
    def __init__(self, client: Client) -> None:
        self._client = client

    @activity.defn(name=names.JOIN_DATASET)
    @translated
    async def join_dataset(self, arg: JoinInput) -> None:
        """Running twice joins (or leaves) once: the entity keys interest by workflow id.

        Leaving starts the entity too where none runs, because only the entity gives the Pod's pins on the disk back.
        """
        dataset = arg.dataset
        await self._client.start_workflow(
            names.DATASET_ON_NODE,
            dataset,
            id=names.dataset_on_node_id(dataset.node, dataset.cache_id, dataset.snapshot.digest),
            task_queue=names.OPERATOR_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            start_signal="leave" if arg.leave else "join",
            start_signal_args=[arg.interest],
            search_attributes=initial(
                phase=Phase.CHECKING, dataset=dataset.snapshot.uri, node=dataset.node, size=dataset.snapshot.bytes
            ),
            static_summary=f"{dataset.snapshot.uri} on {dataset.node}"[:200],
            task_timeout=TASK_TIMEOUT,
            rpc_timeout=timedelta(seconds=10),
        )
