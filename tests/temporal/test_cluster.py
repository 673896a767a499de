"""A Temporal namespace belongs to one Kubernetes cluster, and says so after a restart of the server, too."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from temporalio.client import Client

from kube_cache import names
from kube_cache.errors import ForeignCluster
from kube_cache.temporal.cluster import bind_cluster
from tools.stack.temporal import Temporal


def bind(server: Temporal, uid: str) -> None:
    async def run() -> None:
        client = await Client.connect(server.address, namespace=names.TEMPORAL_NAMESPACE)
        await bind_cluster(client, uid)

    asyncio.run(run())


@pytest.fixture(autouse=True)
def _free(temporal_server: Temporal) -> Iterator[None]:
    """Leave the namespace as it was: other tests bind it to clusters of their own."""
    yield

    async def free() -> None:
        client = await Client.connect(temporal_server.address, namespace=names.TEMPORAL_NAMESPACE)
        await client.get_schedule_handle(names.CLUSTER_SCHEDULE).delete()

    asyncio.run(free())


def test_another_clusters_operator_is_refused_with_the_remedy(temporal_server: Temporal) -> None:
    bind(temporal_server, "cluster-a")
    bind(temporal_server, "cluster-a")
    temporal_server.stop()
    temporal_server.start()
    with pytest.raises(ForeignCluster, match=r"cluster-a.*cluster-b.*TEMPORAL_NAMESPACE.*schedule delete") as refused:
        bind(temporal_server, "cluster-b")
    assert not refused.value.retryable
    bind(temporal_server, "cluster-a")
