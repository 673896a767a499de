"""The metrics of Temporal's SDK have a port of their own, or none."""

from __future__ import annotations

import asyncio
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kube_cache import names
from kube_cache.errors import InvalidRequest
from kube_cache.temporal.client import connect
from kube_cache.temporal.runtime import new_runtime, telemetry
from tools.stack import ports
from tools.stack.temporal import Temporal


async def test_the_sdk_counts_its_requests_on_a_port_of_its_own(
    temporal_server: Temporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_server.address)
    monkeypatch.setenv("TEMPORAL_NAMESPACE", names.TEMPORAL_NAMESPACE)
    address = f"127.0.0.1:{ports.free(1)[0]}"
    client = await connect(new_runtime(address))
    assert await client.count_workflows()
    text = await asyncio.to_thread(scraped, address)
    assert "temporal_request" in {family.name for family in text_string_to_metric_families(text)}


def scraped(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_without_an_address_nothing_is_served() -> None:
    assert telemetry("").metrics is None


@pytest.mark.parametrize("address", ["localhost:9465", "9465", "nonsense"])
def test_an_address_that_cannot_be_served_is_an_error_that_names_the_setting(address: str) -> None:
    with pytest.raises(InvalidRequest, match="KUBE_CACHE_TELEMETRY__TEMPORAL_METRICS_ADDRESS"):
        new_runtime(address)
