"""Consumers of an entity whose Pods are gone: ask the entity, and have them leave."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from temporalio.client import Client
from temporalio.service import RPCError

from kube_cache.contracts.node import DatasetOnNodeStatus
from kube_cache.temporal import executions

# An entity whose workflow task fails never answers.
_QUERY_TIMEOUT = timedelta(seconds=5)


async def let_go(client: Client, entity: str, is_gone: Callable[[str], bool]) -> int:
    """Signal `leave` for each consumer whose Pod is gone, by its uid; return their number. Raises RPCError.

    An entity that has ended is no error. Running twice is harmless.
    """
    handle = client.get_workflow_handle(entity)
    try:
        status: DatasetOnNodeStatus = await handle.query(
            "status", result_type=DatasetOnNodeStatus, rpc_timeout=_QUERY_TIMEOUT
        )
    except RPCError as error:
        if executions.is_missing(error):
            return 0
        raise
    # A prefetch is no Pod that could be gone.
    gone = [consumer for consumer in status.consumers if not consumer.prefetch and is_gone(consumer.pod.uid)]
    for consumer in gone:
        await executions.signal_if_running(client, entity, "leave", consumer)
    return len(gone)
