"""Record the histories that `test_replay` replays: `python -m tests.workflows.record [SCENARIO …]`.

Run it when a workflow is new or deliberately incompatible, never to make a red replay green: a red replay means that
workflows in flight would break at the next upgrade. Existing files are kept; delete one to record it anew.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable, Collection
from itertools import product
from pathlib import Path

from temporalio.client import WorkflowHandle

from kube_cache import names
from kube_cache.contracts.common import PodRef
from kube_cache.contracts.forecast import ForecastRecord, MadeForecast
from kube_cache.contracts.group import FindGroupResult
from kube_cache.contracts.prefetch import PrefetchSpec
from kube_cache.contracts.reconcile import Entity
from kube_cache.contracts.warm_pod import PodState, SeatLost
from kube_cache.kube.nodes import NodeFacts
from tests.workflows.fakes import DIGEST, failed, refused
from tests.workflows.workbench import WATCH_WAIT_S, Workbench, has_begun, until, workbench
from tools.stack import Stack
from tools.stack.stack import TEMPORAL

HISTORIES = Path(__file__).with_name("histories")
ROOT = Path(__file__).parents[2]

Scenario = Callable[[Workbench], Awaitable[dict[str, "WorkflowHandle[object, object]"]]]


async def hit(bench: Workbench) -> dict[str, WorkflowHandle]:
    bench.world.complete.add(DIGEST)
    pod = await bench.start()
    await pod.result()
    return {"pod": pod, "entity": bench.entity()}


async def miss(bench: Workbench) -> dict[str, WorkflowHandle]:
    pods = [await bench.start() for _ in range(3)]
    for pod in pods:
        await pod.result()
    return {"pod": pods[0], "entity": bench.entity()}


async def error_and_retry(bench: Workbench) -> dict[str, WorkflowHandle]:
    bench.world.error[names.RESOLVE_DATASET] = [refused("AccessDenied")]
    pod = await bench.start(foreign_gates=["example.com/other"], max_gate_time="10m")
    await until(lambda: "AwaitingOperator" in bench.world.phases())
    await pod.signal("retry")
    await until(lambda: "WaitingForGates" in bench.world.phases())
    await pod.signal("pod_changed", bench.view(max_gate_time="10m"))
    await pod.result()
    return {"pod": pod}


async def cancel_and_retry(bench: Workbench) -> dict[str, WorkflowHandle]:
    bench.world.finish_stream.clear()
    pod = await bench.start()
    await bench.world.streaming.wait()
    await pod.signal("cancel")
    await until(lambda: "Cancelled" in bench.world.phases())
    await until(lambda: bench.world.count(names.UNPIN) == 1)
    bench.world.finish_stream.set()
    await pod.signal("retry")
    await pod.result()
    return {"pod": pod, "entity": bench.entity()}


async def pod_gone(bench: Workbench) -> dict[str, WorkflowHandle]:
    bench.world.finish_stream.clear()
    pod = await bench.start()
    await bench.world.streaming.wait()
    bench.world.pods[pod.id.rsplit("/", 1)[1]] = PodState(gone=True)
    await pod.signal("pod_gone")
    await pod.result()
    await bench.entity().result()
    return {"pod": pod, "entity": bench.entity()}


async def source_changed(bench: Workbench) -> dict[str, WorkflowHandle]:
    bench.world.error[names.STREAM_DATASET] = [refused("SourceChanged")]
    pod = await bench.start()
    await pod.result()
    return {"pod": pod, "entity": bench.entity()}


async def seat_lost(bench: Workbench) -> dict[str, WorkflowHandle]:
    bench.world.finish_stream.clear()
    pod = await bench.start()
    await bench.world.streaming.wait()
    first = bench.world.args(names.CREATE_SEAT)[0]
    bench.world.nodes.reverse()
    await pod.signal("seat_lost", SeatLost(names.seat_name(first.pod.uid, 1), "preempted"))
    bench.world.finish_stream.set()
    await pod.result()
    return {"pod": pod}


async def gate_time_over(bench: Workbench) -> dict[str, WorkflowHandle]:
    bench.world.finish_stream.clear()
    pod = await bench.start(max_gate_time="1s", on_timeout="release")
    await pod.result()
    return {"pod": pod}


async def dead_node(bench: Workbench) -> dict[str, WorkflowHandle]:
    bench.world.nodes[0] = f"{bench.world.nodes[0]}-dead"
    pod = await bench.start()
    await pod.result()
    return {"pod": pod}


async def no_room(bench: Workbench) -> dict[str, WorkflowHandle]:
    bench.world.nodes.pop()
    bench.world.disk_takes_it.clear()
    bench.world.error[names.STREAM_DATASET] = [refused("InsufficientDisk", needed=3000, inodes=6)]
    pod = await bench.start()
    await until(lambda: "WaitingForDisk" in bench.world.phases())
    bench.world.disk_takes_it.set()
    await pod.result()
    return {"pod": pod, "entity": bench.entity()}


async def faulty_disk(bench: Workbench) -> dict[str, WorkflowHandle]:
    bench.world.error[names.CHECK_DISK] = [failed("DiskFault") for _ in range(3)]
    pod = await bench.start()
    await pod.result()
    return {"pod": pod}


async def disk_fails(bench: Workbench) -> dict[str, WorkflowHandle]:
    bench.world.nodes.pop()
    bench.world.error[names.STREAM_DATASET] = [refused("PersistentDiskFault") for _ in range(2)]
    pod = await bench.start()
    await pod.result()
    return {"pod": pod, "entity": bench.entity()}


def shard(bench: Workbench, run: WorkflowHandle) -> WorkflowHandle:
    return bench.client.get_workflow_handle(names.reconcile_shard_id(run.first_execution_run_id or "", 0))


async def snapshot_lost(bench: Workbench) -> dict[str, WorkflowHandle]:
    """A reconcile that finds a Pod's snapshot gone, and a node that nobody uses."""
    pod = await bench.start()
    await pod.result()
    ref = PodRef(*names.parse_warm_pod_id(pod.id))
    node = bench.world.nodes[0]
    bench.survey(entities={node: [Entity("disk-1", DIGEST, ready=True)]}, released={node: [ref]})
    bench.world.complete.clear()
    bench.world.pinned = {"gone"}
    run = await bench.reconcile()
    await run.result()
    await until(lambda: bench.world.count(names.STREAM_DATASET) == 2)
    return {"reconcile": run, "shard": shard(bench, run), "entity": bench.entity()}


async def asked_for(bench: Workbench) -> dict[str, WorkflowHandle]:
    """A reconcile of a node whose agent has asked for it."""
    request = await bench.ask()
    await until(lambda: has_begun(request))
    bench.survey(asked=bench.world.nodes[:1])
    run = await bench.reconcile()
    await run.result()
    await request.result()
    return {"request": request, "shard": shard(bench, run)}


async def other_nodes(bench: Workbench) -> dict[str, WorkflowHandle]:
    """A reconcile of nodes that have no entity."""
    bench.survey()
    run = await bench.reconcile()
    await run.result()
    return {"reconcile": run, "shard": shard(bench, run)}


async def group(bench: Workbench) -> dict[str, WorkflowHandle]:
    """A group that gives its seats back for a while, loses a member's workflow, and goes when another has come."""
    bench.world.complete.add(DIGEST)
    members = [await bench.start_member(), await bench.start_member()]
    told = bench.world.args
    await until(lambda: any(arg.event_reason == "SeatGivenBack" for arg in told(names.REPORT_PHASE)))
    await members[1].terminate("a test")
    bench.world.group = FindGroupResult(0, gone=[members[1].id])
    members[1:] = [await bench.start_member(), await bench.start_member()]
    for member in members:
        await member.result()
    ended = bench.group()
    await ended.result()
    return {"pod": members[0], "group": ended}


async def prefetch(bench: Workbench) -> dict[str, WorkflowHandle]:
    """A prefetch to two nodes: one fails first, a Pod joins the other's download; cancelled in the end."""
    for name in bench.world.nodes:
        bench.world.kube_nodes[name] = NodeFacts(name)
    bench.world.error[names.HOLD_PREFETCHED] = [refused("InsufficientDisk")]
    bench.world.finish_stream.clear()
    handle = await bench.prefetch()
    await bench.world.streaming.wait()
    await handle.signal("pause")
    await until(lambda: bench.world.count(names.JOIN_DATASET) == 2)
    await handle.signal("resume")
    await until(lambda: bench.world.count(names.STREAM_DATASET) == 3)
    bench.world.finish_stream.set()
    await until(lambda: len(bench.world.fetched) == 2)
    await until(lambda: bench.world.args(names.PLAN_PREFETCH)[-1].tour == 4)
    await handle.signal("cancel")
    await handle.result()
    return {"prefetch": handle, "entity": bench.entity()}


async def forecast(bench: Workbench) -> dict[str, WorkflowHandle]:
    """A run that starts and ends prefetches, and asks for two sizes, of which it gets one; then a run that fails."""
    spec = PrefetchSpec("ml", "forecast-a", ["s3://models/a"], copies=2, idle=True)
    bench.world.made = MadeForecast(
        ForecastRecord("ok", datasets=2, acting=1, packed="a report"),
        [spec],
        ["forecast-b"],
        "ml",
        ["s3://models/a", "s3://models/b"],
    )
    bench.world.error[names.RESOLVE_DATASET] = [refused("AccessDenied")]
    first = await bench.forecast()
    record = await first.result()
    bench.world.error[names.MAKE_FORECAST] = [refused("ForecastFailed")]
    second = await bench.forecast(record)
    await second.result()
    return {"run": first, "failed": second}


async def scheduled(bench: Workbench) -> dict[str, WorkflowHandle]:
    """A schedule has a prefetch started that lives to the end of its window."""
    bench.world.kube_nodes[bench.world.nodes[0]] = NodeFacts(bench.world.nodes[0])
    handle = await bench.scheduled_prefetch(window_s=3600)
    await handle.result()
    return {"scheduled": handle}


SCENARIOS = [
    hit,
    miss,
    error_and_retry,
    cancel_and_retry,
    pod_gone,
    source_changed,
    seat_lost,
    gate_time_over,
    dead_node,
    no_room,
    faulty_disk,
    disk_fails,
    snapshot_lost,
    other_nodes,
    asked_for,
    group,
    prefetch,
    forecast,
    scheduled,
]


WATCH_WAITS = {"signalled": 0.0, "awaited": WATCH_WAIT_S}
"""Both ways in which a Pod's workflow learns of the scheduler's doings."""


async def record(address: str, wanted: Collection[str]) -> None:
    """wanted: names of scenarios; empty = all."""
    HISTORIES.mkdir(exist_ok=True)
    scenarios = [scenario for scenario in SCENARIOS if not wanted or scenario.__name__ in wanted]
    for scenario, (how, seconds) in product(scenarios, WATCH_WAITS.items()):
        async with workbench(address, watch_wait_s=seconds, group_hold_s=1.0) as bench:
            for part, handle in (await scenario(bench)).items():
                target = HISTORIES / f"{scenario.__name__}.{part}.{how}.json"
                if target.exists():
                    continue
                text = (await handle.fetch_history()).to_json()
                target.write_text(text.replace(f"{ROOT}/", "") + "\n")  # stack traces name files
                print(target)


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        Stack(servers=[TEMPORAL], with_product=False, state=Path(folder) / "stack") as stack,
    ):
        asyncio.run(record(stack.temporal_address, sys.argv[1:]))


if __name__ == "__main__":
    main()
