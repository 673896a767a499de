"""Binding of a Temporal namespace to one Kubernetes cluster.

Workflow ids, queues and the reconcile carry no name of a cluster: the operators of two clusters on one namespace would
take each other's Pods for deleted. So the first operator writes its cluster's identity, and those of another cluster
refuse to start. The place is a schedule that never fires: a schedule outlives its runs, retention and a restart of the
server, is created by one client only, and is seen by people.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleSpec,
    ScheduleState,
)

from kube_cache import names
from kube_cache.errors import ForeignCluster

_RPC_TIMEOUT = timedelta(seconds=10)
_MEMO = "cluster"


async def bind_cluster(client: Client, cluster_uid: str) -> None:
    """Bind the client's namespace to the cluster, or find it bound to this one. Raises ForeignCluster, RPCError.

    cluster_uid: of the cluster's namespace kube-system, which lives as long as the cluster.
    """
    nothing = Schedule(
        action=ScheduleActionStartWorkflow("Nothing", id="nothing", task_queue=names.OPERATOR_QUEUE),
        spec=ScheduleSpec(),
        state=ScheduleState(note=f"belongs to the Kubernetes cluster {cluster_uid}; never fires", paused=True),
    )
    try:
        await client.create_schedule(
            names.CLUSTER_SCHEDULE, nothing, memo={_MEMO: cluster_uid}, rpc_timeout=_RPC_TIMEOUT
        )
    except ScheduleAlreadyRunningError:
        description = await client.get_schedule_handle(names.CLUSTER_SCHEDULE).describe(rpc_timeout=_RPC_TIMEOUT)
        bound_to = await description.memo_value(_MEMO, "")
        if bound_to != cluster_uid:
            raise ForeignCluster(
                f"the Temporal namespace {client.namespace!r} belongs to the Kubernetes cluster {bound_to!r} (uid of its "
                f"namespace kube-system), and this operator runs in {cluster_uid!r}; give each cluster a Temporal "
                "namespace of its own (TEMPORAL_NAMESPACE), or, if that cluster is gone, free the namespace with "
                f"`temporal schedule delete --schedule-id {names.CLUSTER_SCHEDULE}`"
            ) from None
