"""Continue-as-new of `DatasetOnNode`, forced on a real server that suggests it early: nothing that it knew is lost."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from temporalio.client import WorkflowUpdateFailedError

from kube_cache import names
from kube_cache.contracts.common import Consumer, ErrorInfo, PodRef
from kube_cache.contracts.node import DatasetOnNodeStatus, SnapshotLost
from tests.workflows.fakes import DIGEST, refused
from tests.workflows.workbench import Bench, bench, until
from tools.stack import Stack, temporal
from tools.stack.stack import TEMPORAL
from workflows.dataset_on_node import DatasetOnNode

pytestmark = pytest.mark.stack
EVENTS = 60
"""More than a download takes with all that it tells, far fewer than 4,096, the server's default."""


@pytest.fixture(scope="module")
def hasty_address() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(temporal.DYNAMIC_CONFIG, "limit.historyCount.suggestContinueAsNew", EVENTS)
        with Stack(servers=[TEMPORAL], with_product=False) as stack:
            yield stack.temporal_address


class Entity:
    def __init__(self, made: Bench) -> None:
        self._made = made
        self.runs: list[str] = []

    async def status(self) -> DatasetOnNodeStatus:
        return await self._made.entity().query("status", result_type=DatasetOnNodeStatus)

    async def run_id(self) -> str:
        return (await self._made.entity().describe()).run_id

    async def continued(self, times: int = 1) -> None:
        """Signal it with what changes nothing in the end, until it has begun anew so many times."""
        for _ in range(times):
            before = await self.run_id()
            for _ in range(20 * EVENTS):
                somebody = Consumer(f"nobody/{uuid.uuid4()}", PodRef("ml", "x", uuid.uuid4().hex))
                await self._made.entity().signal("leave", somebody)
                if await self.run_id() != before:
                    break
            else:
                raise AssertionError("it was never continued")


@asynccontextmanager
async def entity(address: str) -> AsyncIterator[tuple[Bench, Entity]]:
    async with bench(address) as made:
        yield made, Entity(made)


def test_users_ready_and_paused_survive(hasty_address: str) -> None:
    async def scenario() -> None:
        async with entity(hasty_address) as (made, one):
            pods = [await made.start() for _ in range(3)]
            assert {(await pod.result()).outcome for pod in pods} == {"released"}
            await made.entity().signal("pause")
            before = await one.status()
            await one.continued(2)
            after = await one.status()
            assert set(after.users) == set(before.users) == {pod.id for pod in pods}
            assert after.phase == "Ready"
            assert made.world.count(names.STREAM_DATASET) == 1, "nothing is fetched again"
            with pytest.raises(WorkflowUpdateFailedError) as refusal:
                await made.entity().execute_update(DatasetOnNode.evict)
            assert "in use by ml/pod-" in str(refusal.value.cause)
            # Still paused: whoever needs it now waits.
            made.world.complete.clear()
            late = await made.start()
            await until(lambda: made.world.count(names.JOIN_DATASET) == 4)
            await one.continued()
            assert (await one.status()).waiting == [late.id]
            assert made.world.count(names.STREAM_DATASET) == 1
            await made.entity().signal("resume")
            assert (await late.result()).outcome == "released"

    asyncio.run(scenario())


def test_a_download_goes_on_and_each_joiner_is_answered_also_one_that_joins_during_the_change(
    hasty_address: str,
) -> None:
    async def scenario() -> None:
        async with entity(hasty_address) as (made, one):
            made.world.finish_stream.clear()
            pods = [await made.start()]
            await made.world.streaming.wait()
            first = await one.run_id()
            while await one.run_id() == first:
                pods.append(await made.start())
            pods += [await made.start() for _ in range(3)]
            await until(lambda: made.world.count(names.JOIN_DATASET) == len(pods))

            async def all_wait() -> bool:
                return set((await one.status()).waiting) == {pod.id for pod in pods}

            await until(all_wait)
            made.world.finish_stream.set()
            assert {(await pod.result()).outcome for pod in pods} == {"released"}
            assert made.world.count(names.PATCH_GATE) == len(pods)

    asyncio.run(scenario())


def test_an_error_and_those_that_run_on_it_survive(hasty_address: str) -> None:
    async def scenario() -> None:
        async with entity(hasty_address) as (made, one):
            pod = await made.start()
            await pod.result()
            made.world.complete.clear()
            made.world.error[names.STREAM_DATASET] = [refused("AccessDenied", "denied")]
            await made.entity().signal("snapshot_lost", SnapshotLost())

            async def failed() -> bool:
                return (await one.status()).error is not None

            await until(failed)
            await one.continued()
            found = await one.status()
            assert found.error == ErrorInfo("AccessDenied", "denied")
            assert found.users == [pod.id]
            assert found.phase == "AwaitingOperator"
            await made.entity().signal("snapshot_lost", SnapshotLost())

            async def ready() -> bool:
                return (await one.status()).phase == "Ready"

            await until(ready)

    asyncio.run(scenario())


def test_each_pin_is_given_back_across_the_changes(hasty_address: str) -> None:
    async def scenario() -> None:
        async with entity(hasty_address) as (made, one):
            made.world.complete.add(DIGEST)
            handle = await made.start()
            await handle.result()
            first = await one.run_id()
            leaving = [PodRef("ml", f"gone-{number}", uuid.uuid4().hex) for number in range(EVENTS)]
            await asyncio.gather(*(made.entity().signal("leave", Consumer(f"warm/{pod.uid}", pod)) for pod in leaving))
            await until(lambda: made.world.count(names.UNPIN) >= len(leaving))
            assert {arg.pod.uid for arg in made.world.args(names.UNPIN)} == {pod.uid for pod in leaving}
            assert await one.run_id() != first
            assert (await one.status()).users == [handle.id]

    asyncio.run(scenario())
