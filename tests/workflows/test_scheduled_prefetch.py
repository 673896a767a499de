"""What a schedule starts hands its prefetch on, once, and for no longer than its window."""

from __future__ import annotations

from temporalio.client import WorkflowExecutionStatus

from kube_cache import names
from kube_cache.contracts.prefetch import PrefetchPhase, StartPrefetchInput
from kube_cache.temporal.prefetches import status_of
from tests.workflows.test_prefetch import give_nodes, phase_is
from tests.workflows.workbench import workbench


async def test_a_prefetch_lives_to_the_end_of_the_window(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        give_nodes(bench, [0])
        handle = await bench.scheduled_prefetch(window_s=3600)
        assert (await handle.result()).started
        began = (await handle.describe()).start_time.timestamp()
        (asked,) = bench.world.args(names.START_PREFETCH)
        assert isinstance(asked, StartPrefetchInput)
        assert asked.until == began + 3600
        prefetch = bench.client.get_workflow_handle(names.prefetch_id("ml", bench.tag))
        status = await phase_is(prefetch, PrefetchPhase.READY, ready=1)
        assert status.expires_at - asked.until < 5, "a window does not grow by what it takes to start"


async def test_one_that_still_lives_is_prolonged_and_not_started_twice(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        give_nodes(bench, [0])
        first = await bench.prefetch(expires_s=600)
        before = await phase_is(first, PrefetchPhase.READY, ready=1)
        await (await bench.scheduled_prefetch(window_s=3600)).result()
        status = await phase_is(first, PrefetchPhase.READY, ready=1)
        assert status.expires_at > before.expires_at + 1800
        assert len(bench.world.fetched) == 1


async def test_a_start_that_comes_after_its_window_starts_nothing(temporal_address: str) -> None:
    """The operators were away all the time."""
    async with workbench(temporal_address) as bench:
        give_nodes(bench, [0])
        handle = await bench.scheduled_prefetch(window_s=0.5)
        assert not (await handle.result()).started
        described = await handle.describe()
        assert described.status == WorkflowExecutionStatus.COMPLETED
        prefetch = names.prefetch_id("ml", bench.tag)
        assert [each.id async for each in bench.client.list_workflows(f"WorkflowId = '{prefetch}'")] == []


async def test_the_specification_s_own_end_does_not_count(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        give_nodes(bench, [0])
        await (await bench.scheduled_prefetch(window_s=120)).result()
        status = await status_of(bench.client, "ml", bench.tag)
        assert status.spec is not None
        assert status.spec.expires_s <= 120
