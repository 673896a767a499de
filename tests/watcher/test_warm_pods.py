"""A start on a real Temporal server that refuses it is told on the Pod."""

from __future__ import annotations

import asyncio
import subprocess

import pytest
from temporalio.client import Client

from kube_cache.contracts.common import Policy
from kube_cache.errors import StartRefused
from kube_cache.kube.pods import pod_facts
from tests.watcher.fakes import WARM, FakeReporter, pod
from tools.servers import build
from tools.stack.temporal import NAMESPACE, Temporal
from watcher.warm_pods import WarmPods


def test_a_temporal_without_our_search_attributes_is_named_on_the_pod(temporal_server: Temporal) -> None:
    """Refused for as long as it takes an admin: every 10 s in silence, before."""
    command = [str(build.ensure(["temporal"])["temporal"]), "operator", "namespace", "create", "bare"]
    subprocess.run([*command, "--address", temporal_server.address], check=True, capture_output=True, timeout=120)
    reporter = FakeReporter()
    facts = pod_facts(pod())
    assert facts is not None

    async def run() -> None:
        client = await Client.connect(temporal_server.address, namespace="bare")
        with pytest.raises(StartRefused, match="INVALID_ARGUMENT"):
            await WarmPods(client, Policy(), reporter).start(facts, 1.0)  # type: ignore[arg-type]

    asyncio.run(run())
    ((reason, message),) = reporter.told
    assert reason == "StartRefused"
    assert "search attribute" in message


def test_a_long_annotation_is_started_and_seen(temporal_server: Temporal) -> None:
    many = ",".join(f"s3://models/{'long-' * 200}{number}" for number in range(200))
    item = pod(**{"x-openai/required-dataset": many})
    facts = pod_facts(item)
    assert facts is not None

    async def run() -> list[str]:
        client = await Client.connect(temporal_server.address, namespace=NAMESPACE)
        await WarmPods(client, Policy(), FakeReporter()).start(facts, 1.0)  # type: ignore[arg-type]
        for _ in range(200):
            found = [each.id async for each in client.list_workflows("KcDataset STARTS_WITH 's3://models/long'")]
            if found:
                return found
            await asyncio.sleep(0.05)
        return []

    assert asyncio.run(run()) == [WARM]
