"""The reconcile: each node is compared, whatever is wrong with another one, and no history grows with the cluster."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from kube_cache import names
from kube_cache.contracts.common import PodRef
from kube_cache.contracts.reconcile import Entity, NodeVisited, ReconcileResult
from tests.workflows.fakes import DIGEST, failed, refused
from tests.workflows.workbench import Workbench, has_begun, until, workbench

MIB = 1 << 20


def pods(number: int) -> list[PodRef]:
    return [PodRef("ml", f"pod-{each}", str(uuid.uuid4())) for each in range(number)]


async def run(bench: Workbench) -> ReconcileResult:
    return await (await bench.reconcile()).result()


async def test_the_pins_of_a_pod_that_is_gone_are_removed_and_those_of_one_that_lives_stay(
    temporal_address: str,
) -> None:
    """Also where no entity tells of the node, and though the operator names only the Pods that it knows there."""
    async with workbench(temporal_address, living_nodes=(0,)) as bench:
        bench.survey(nodes=bench.world.nodes[:1], gated=["waits"])
        bench.world.pinned = {"gone", "waits"}
        assert await run(bench) == ReconcileResult(nodes_seen=1, unpinned=1)
        assert bench.world.pinned == {"waits"}


async def test_a_pod_that_is_bound_elsewhere_may_hold_nothing_here(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        here, there = bench.world.nodes
        (moved,) = pods(1)
        bench.survey(entities={here: [Entity("disk-1", DIGEST, ready=False)]}, released={there: [moved]})
        bench.world.pinned = {moved.uid}
        result = await run(bench)
        assert result.nodes_seen == 2
        (removing,) = (arg for arg in bench.world.args(names.RECONCILE_DISK) if arg.ended)
        assert removing.ended == [moved.uid]
        assert moved.uid not in removing.receipts, "it was sent to the node that the Pod is not bound to"


async def test_an_agent_that_is_away_is_named_and_the_others_are_reconciled(temporal_address: str) -> None:
    """A node without anything of ours may have no agent, and counts as nothing."""
    async with workbench(temporal_address, living_nodes=(0,)) as bench:
        here, silent = bench.world.nodes
        bench.survey(nodes=[here, silent, f"{silent}-idle"], released={node: pods(1) for node in (here, silent)})
        assert await run(bench) == ReconcileResult(nodes_seen=1, nodes_silent=1, silent=[silent])


async def test_silent_agents_make_room_so_that_a_shard_without_agents_ends_soon(temporal_address: str) -> None:
    """An agent that is away keeps its place for ten seconds, in which it gives nobody work."""
    async with workbench(temporal_address, living_nodes=()) as bench:
        silent = [f"{bench.world.nodes[0]}-{each}" for each in range(24)]
        bench.survey(nodes=silent, released={node: pods(1) for node in silent})
        handle = await bench.reconcile()
        run_id = handle.first_execution_run_id or ""
        assert (await handle.result()).nodes_silent == len(silent)
        asked, at_once = 0, []
        for event in await history(bench.client.get_workflow_handle(names.reconcile_shard_id(run_id, 0))):
            asked += event.activity_task_scheduled_event_attributes.activity_type.name == names.RECONCILE_DISK
            asked -= event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT
            at_once.append(asked)
        assert max(at_once) > 10, "the ten places that a shard has for agents that answer"


async def test_a_shard_that_fails_fails_the_run_when_the_others_are_done(temporal_address: str) -> None:
    """So that the metrics and the UI tell, and one bad shard keeps nobody from the reconcile."""
    async with workbench(temporal_address, living_nodes=()) as bench:
        # Agents that are away are answers, too, and quicker to have than three hundred agents.
        bench.survey(nodes=[], entities={f"{bench.world.nodes[0]}-{each}": [gone()] for each in range(200)})
        bench.world.error[names.PLAN_SHARD] = [refused("Broken", "the plan is broken")]
        with pytest.raises(WorkflowFailureError) as failure:
            await run(bench)
        assert isinstance(failure.value.cause, ApplicationError)
        assert failure.value.cause.type == "ReconcileIncomplete"
        assert "1 of 5 parts failed" in failure.value.cause.message
        assert "the plan is broken" in failure.value.cause.message
        assert bench.world.count(names.PLAN_SHARD) == 4
        (partial,) = failure.value.cause.details
        assert 100 < partial["snapshots_lost"] < 200


async def test_workflows_that_cannot_be_told_do_not_keep_the_disks_waiting(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.survey()
        bench.world.error[names.TELL_WORKFLOWS] = [refused("ApiError", "503")]
        with pytest.raises(WorkflowFailureError):
            await run(bench)
        assert bench.world.count(names.RECONCILE_DISK) == 2


async def test_a_node_that_cannot_be_settled_is_left_out_and_the_others_are_not(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.survey()
        bench.world.pinned = {"gone"}
        bench.world.error[names.SETTLE_NODE] = [refused("ApiError", "403")]
        result = await run(bench)
        assert (result.nodes_seen, result.skipped, result.unpinned) == (2, 1, 1)


async def test_a_disk_that_fails_once_is_asked_again(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        bench.survey()
        bench.world.error[names.RECONCILE_DISK] = [failed("DiskFault")]
        assert (await run(bench)).nodes_seen == 2


async def test_neither_histories_nor_messages_grow_with_the_cluster(temporal_address: str) -> None:
    """The run's history holds its shards, a shard's its nodes; the nodes are gone, so that none must answer."""
    async with workbench(temporal_address, living_nodes=()) as bench:
        tag = bench.world.nodes[0]
        names_of_nodes = [f"{tag}-{each}" for each in range(320)]
        bench.survey(
            nodes=[],
            entities={node: [gone()] for node in names_of_nodes},
            released={node: pods(10) for node in names_of_nodes},
        )
        handle = await bench.reconcile()
        run_id = handle.first_execution_run_id or ""
        assert (await handle.result()).snapshots_lost == len(names_of_nodes)
        shards = -(-len(names_of_nodes) // 64)
        parent = await history(handle)
        assert len(parent) < 15 * shards + 40
        children = [
            event
            for event in parent
            if event.event_type == EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED
        ]
        assert len(children) == shards
        for number in range(shards):
            child = await history(bench.client.get_workflow_handle(names.reconcile_shard_id(run_id, number)))
            assert len(child) < 1500
            assert max(event.ByteSize() for event in child) < MIB


def gone() -> Entity:
    return Entity("disk-1", DIGEST, ready=True)


async def history(handle: WorkflowHandle[object, object]) -> list[HistoryEvent]:
    return list((await asyncio.wait_for(handle.fetch_history(), 90)).events)


async def is_open(handle: WorkflowHandle[Any, Any]) -> bool:
    return (await handle.describe()).status == WorkflowExecutionStatus.RUNNING


async def test_a_request_ends_with_the_visit_that_it_asks_for(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        request = await bench.ask()
        bench.survey(asked=bench.world.nodes[:1])
        await until(lambda: has_begun(request))
        assert (await run(bench)).nodes_seen == 2
        assert await request.result() is True


async def test_a_request_outlives_a_visit_that_the_agent_did_not_answer(temporal_address: str) -> None:
    async with workbench(temporal_address, living_nodes=(1,)) as bench:
        request = await bench.ask()
        bench.survey(nodes=bench.world.nodes[:1], asked=bench.world.nodes[:1])
        result = await run(bench)
        assert (result.nodes_silent, result.silent) == (1, bench.world.nodes[:1]), "it has an agent, which has asked"
        assert await is_open(request)
        async with bench.agent(0):
            await run(bench)
            assert await request.result() is True


async def test_a_request_that_comes_while_its_node_is_visited_is_answered_by_the_next_visit(
    temporal_address: str,
) -> None:
    async with workbench(temporal_address) as bench:
        bench.survey(nodes=bench.world.nodes[:1], asked=bench.world.nodes[:1])
        request = await bench.ask()
        await until(lambda: has_begun(request))
        before = datetime.now(UTC).timestamp() - 1
        await bench.ask()
        await request.signal("visited", NodeVisited(before))
        assert await request.query("__temporal_workflow_metadata") is not None  # the signals were handled
        assert await is_open(request)
        await run(bench)
        assert await request.result() is True


async def test_the_request_of_a_node_that_was_deleted_ends(temporal_address: str) -> None:
    async with workbench(temporal_address) as bench:
        request = await bench.ask()
        await until(lambda: has_begun(request))
        bench.survey(nodes=bench.world.nodes[1:], asked=bench.world.nodes[:1])
        await run(bench)
        assert await request.result() is True
