"""Where Temporal is: a missing address is said in words, by the process that needs it."""

from __future__ import annotations

import asyncio

import pytest

from cli import store_remote
from kube_cache.contracts.node import ExitCode, StoreRequest
from kube_cache.errors import InvalidRequest
from kube_cache.temporal.client import connect, connect_once


@pytest.fixture(autouse=True)
def _no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TEMPORAL_ADDRESS", "TEMPORAL_PROFILE", "TEMPORAL_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", "/nonexistent/temporal.toml")


@pytest.mark.parametrize("how", [connect, connect_once])
def test_a_missing_address_is_named_with_the_remedy(how: object) -> None:
    with pytest.raises(InvalidRequest, match="set TEMPORAL_ADDRESS to host:port"):
        asyncio.run(how())  # type: ignore[operator]


def test_a_store_command_for_another_node_names_it() -> None:
    response = store_remote.run(StoreRequest("gpu-1", "ls"))
    assert response.code == ExitCode.USAGE
    assert "set TEMPORAL_ADDRESS" in response.message
