"""The inventory's answers: fresh where a node more matters, shared and short where a dataset is on thousands."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from activities.cluster import inventory as module
from activities.cluster.inventory import Inventory
from kube_cache import names
from kube_cache.temporal.search_attributes import initial

URI = "s3://models/gpt"


class Temporal(Client):
    """Lists an entity for each of `nodes`."""

    def __init__(self, nodes: int) -> None:
        self.nodes, self.queries, self.read = nodes, 0, 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.error: Exception | None = None

    def list_workflows(self, query: str | None = None, **_: Any) -> Any:
        self.queries += 1
        return self._list()

    async def _list(self) -> AsyncIterator[Any]:
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        for number in range(self.nodes):
            self.read += 1
            yield SimpleNamespace(
                id=names.dataset_on_node_id(f"n{number}", "disk", "a" * 64),
                typed_search_attributes=initial(phase="Ready", dataset=URI),
            )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns a function by which the loop's time goes on by some seconds."""
    loop_time = asyncio.BaseEventLoop.time
    passed = 0.0

    def advance(seconds: float) -> None:
        nonlocal passed
        passed += seconds

    monkeypatch.setattr(asyncio.BaseEventLoop, "time", lambda loop: loop_time(loop) + passed)
    return advance


async def test_a_burst_of_pods_shares_one_query() -> None:
    temporal = Temporal(3)
    inventory = Inventory(temporal)
    answers = await asyncio.gather(*(inventory.of(URI) for _ in range(50)))
    assert temporal.queries <= 3  # one, unless the machine lets the burst take longer than an answer serves
    assert all(len(answer) == 3 for answer in answers)


async def test_a_node_that_has_just_been_warmed_is_found_where_few_are_known(clock: Any) -> None:
    temporal = Temporal(0)
    inventory = Inventory(temporal)
    assert await inventory.of(URI) == []
    temporal.nodes = 1
    clock(0.3)
    assert [holding.node for holding in await inventory.of(URI)] == ["n0"]


async def test_a_slow_temporal_is_asked_twice_and_not_by_each_pod(clock: Any) -> None:
    """And nobody gets an answer that is older than his question by more than the time that a burst takes."""
    temporal = Temporal(1)
    temporal.answers = asyncio.Event()
    inventory = Inventory(temporal)
    asking = []
    for _ in range(20):
        asking.append(asyncio.create_task(inventory.of(URI)))
        await asyncio.sleep(0)
        clock(0.3)
    assert temporal.queries == 1
    temporal.answers.set()
    answers = await asyncio.gather(*asking)
    assert temporal.queries == 2
    assert all([holding.node for holding in answer] == ["n0"] for answer in answers)


async def test_a_failure_that_nobody_awaits_any_more_is_no_noise() -> None:
    noise: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    temporal = Temporal(1)
    temporal.answers = asyncio.Event()
    temporal.error = RPCError("Timeout expired", RPCStatusCode.CANCELLED, b"")
    inventory = Inventory(temporal)
    asking = asyncio.create_task(inventory.of(URI))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    temporal.answers.set()
    await asyncio.wait([inventory._queries[URI].answer])
    del temporal, inventory, asking
    gc.collect()
    await asyncio.sleep(0)
    assert noise == []


async def test_an_answer_with_more_nodes_than_a_seat_names_serves_for_seconds(clock: Any) -> None:
    temporal = Temporal(64)
    inventory = Inventory(temporal)
    await inventory.of(URI)
    clock(4)
    await inventory.of(URI)
    assert temporal.queries == 1
    clock(2)
    await inventory.of(URI)
    assert temporal.queries == 2


async def test_what_was_known_is_told_for_seconds_and_costs_no_query(clock: Any) -> None:
    temporal = Temporal(3)
    inventory = Inventory(temporal)
    assert inventory.known(URI) == []
    await inventory.of(URI)
    clock(8)
    await inventory.of("s3://models/other")
    assert [holding.node for holding in inventory.known(URI)] == ["n0", "n1", "n2"]
    clock(3)
    assert inventory.known(URI) == []
    assert temporal.queries == 2


async def test_an_answer_that_failed_is_known_to_nobody() -> None:
    temporal = Temporal(3)
    temporal.error = RPCError("away", RPCStatusCode.UNAVAILABLE, b"")
    inventory = Inventory(temporal)
    with pytest.raises(RPCError):
        await inventory.of(URI)
    assert inventory.known(URI) == []


async def test_of_a_dataset_on_thousands_of_nodes_one_page_is_read() -> None:
    temporal = Temporal(5000)
    assert len(await Inventory(temporal).of(URI)) == module._MAX_READ == 1000
    assert temporal.read == 1000


async def test_answers_that_serve_nobody_any_more_are_forgotten(clock: Any) -> None:
    inventory = Inventory(Temporal(100))
    for number in range(20):
        await inventory.of(f"{URI}-{number}")
        clock(2)
    assert len(inventory._queries) <= 3
