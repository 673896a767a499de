"""The stack's Temporal server keeps its workflows over a kill."""

from __future__ import annotations

import asyncio

from temporalio.client import Client

from kube_cache import names
from tools.stack.temporal import Temporal


def test_workflows_survive_a_kill_of_the_temporal_server(temporal_server: Temporal) -> None:
    async def start() -> None:
        client = await Client.connect(temporal_server.address, namespace=names.TEMPORAL_NAMESPACE)
        await client.start_workflow("Nothing", id="survivor", task_queue="nobody")

    async def status() -> str:
        client = await Client.connect(temporal_server.address, namespace=names.TEMPORAL_NAMESPACE)
        description = await client.get_workflow_handle("survivor").describe()
        return description.status.name if description.status else ""

    asyncio.run(start())
    temporal_server.stop()
    temporal_server.start()
    assert asyncio.run(status()) == "RUNNING"
