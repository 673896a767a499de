"""A join asks the watches first, and Temporal only where they know nobody; where nobody can tell, it expects others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.service import RPCError, RPCStatusCode

from activities.cluster import company as module
from activities.cluster.company import Company
from kube_cache.contracts.common import Phase, Snapshot
from kube_cache.temporal.holdings import Holding

SNAPSHOT = Snapshot("s3://models/gpt", "d" * 64, 1, 1000)


class Inventory:
    def __init__(self, *holdings: Holding, error: Exception | None = None, hangs: bool = False) -> None:
        self.asked = 0
        self._holdings = list(holdings)
        self._error = error
        self._hangs = hangs

    async def of(self, _uri: str) -> list[Holding]:
        self.asked += 1
        if self._hangs:
            await asyncio.Event().wait()
        if self._error is not None:
            raise self._error
        return self._holdings


def holding(node: str, digest: str = SNAPSHOT.digest, phase: str = Phase.READY) -> Holding:
    return Holding(SNAPSHOT.uri, digest, node, phase, 1000)


async def expected(inventory: Any, *, by_the_watches: bool = False) -> bool:
    company = Company(inventory, lambda _uri, _digest, *, node, workflow_id: by_the_watches)
    return await company.expected(SNAPSHOT, "gpu-1", "warm/ml/one/uid")


@pytest.mark.parametrize(
    ("holdings", "answer"),
    [
        pytest.param([], False, id="nobody"),
        pytest.param([holding("gpu-1")], False, id="this node itself"),
        pytest.param([holding("gpu-2", "e" * 64)], False, id="a node with another snapshot"),
        pytest.param([holding("gpu-1"), holding("gpu-2")], True, id="a node that holds it"),
        pytest.param([holding("gpu-2", phase=Phase.WARMING)], True, id="a node that fetches it"),
    ],
)
async def test_who_holds_the_snapshot_is_company(holdings: list[Holding], answer: bool) -> None:
    assert await expected(Inventory(*holdings)) == answer


async def test_temporal_is_not_asked_where_the_watches_know_somebody() -> None:
    inventory = Inventory()
    assert await expected(inventory, by_the_watches=True)
    assert inventory.asked == 0


async def test_others_are_expected_where_temporal_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await expected(Inventory(error=RPCError("away", RPCStatusCode.UNAVAILABLE, b"")))
    monkeypatch.setattr(module, "_PATIENCE_S", 0.01)
    assert await expected(Inventory(hangs=True))
