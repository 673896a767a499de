"""Record the histories that `test_replay` replays: `python -m tests.workflows.record`.

Run it when a workflow is new or deliberately incompatible, never to make a red replay green: a red replay means that
workflows in flight would break at the next upgrade. Existing files are kept; delete one to record it anew.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from itertools import product
from pathlib import Path

from temporalio.client import WorkflowHandle

from kube_cache import names
from kube_cache.contracts.reconcile import BoundPods, ClusterState, Entity
from kube_cache.contracts.warm_pod import SeatLost
from tests.workflows.fakes import DIGEST, failed, refused
from tests.workflows.workbench import SEEN_S, Bench, bench, until
from tools.stack import Stack
from tools.stack.stack import TEMPORAL

HISTORIES = Path(__file__).with_name("histories")
ROOT = Path(__file__).parents[2]

Scenario = Callable[[Bench], Awaitable[dict[str, "WorkflowHandle[object, object]"]]]


async def hit(made: Bench) -> dict[str, WorkflowHandle]:
    made.world.complete.add(DIGEST)
    pod = await made.start()
    await pod.result()
    return {"pod": pod, "entity": made.entity()}


async def miss(made: Bench) -> dict[str, WorkflowHandle]:
    pods = [await made.start() for _ in range(3)]
    for pod in pods:
        await pod.result()
    return {"pod": pods[0], "entity": made.entity()}


async def error_and_retry(made: Bench) -> dict[str, WorkflowHandle]:
    made.world.error[names.RESOLVE_DATASET] = [refused("AccessDenied")]
    pod = await made.start(foreign_gates=["example.com/other"], max_gate_time="10m")
    await until(lambda: "AwaitingOperator" in made.world.phases())
    await pod.signal("retry")
    await until(lambda: "WaitingForGates" in made.world.phases())
    await pod.signal("pod_changed", made.view(max_gate_time="10m"))
    await pod.result()
    return {"pod": pod}


async def cancel_and_retry(made: Bench) -> dict[str, WorkflowHandle]:
    made.world.finish_stream.clear()
    pod = await made.start()
    await made.world.streaming.wait()
    await pod.signal("cancel")
    await until(lambda: "Cancelled" in made.world.phases())
    await until(lambda: made.world.count(names.UNPIN) == 1)
    made.world.finish_stream.set()
    await pod.signal("retry")
    await pod.result()
    return {"pod": pod, "entity": made.entity()}


async def pod_gone(made: Bench) -> dict[str, WorkflowHandle]:
    made.world.finish_stream.clear()
    pod = await made.start()
    await made.world.streaming.wait()
    await pod.signal("pod_gone")
    await pod.result()
    await made.entity().result()
    return {"pod": pod, "entity": made.entity()}


async def source_changed(made: Bench) -> dict[str, WorkflowHandle]:
    made.world.error[names.STREAM_DATASET] = [refused("SourceChanged")]
    pod = await made.start()
    await pod.result()
    return {"pod": pod, "entity": made.entity()}


async def seat_lost(made: Bench) -> dict[str, WorkflowHandle]:
    made.world.finish_stream.clear()
    pod = await made.start()
    await made.world.streaming.wait()
    first = made.world.args(names.CREATE_SEAT)[0]
    made.world.nodes.reverse()
    await pod.signal("seat_lost", SeatLost(names.seat_name(first.pod.uid, 1), "preempted"))
    made.world.finish_stream.set()
    await pod.result()
    return {"pod": pod}


async def gate_time_over(made: Bench) -> dict[str, WorkflowHandle]:
    made.world.finish_stream.clear()
    pod = await made.start(max_gate_time="1s", on_timeout="release")
    await pod.result()
    return {"pod": pod}


async def dead_node(made: Bench) -> dict[str, WorkflowHandle]:
    made.world.nodes[0] = f"{made.world.nodes[0]}-dead"
    pod = await made.start()
    await pod.result()
    return {"pod": pod}


async def no_room(made: Bench) -> dict[str, WorkflowHandle]:
    made.world.nodes.pop()
    made.world.disk_takes_it.clear()
    made.world.error[names.STREAM_DATASET] = [refused("InsufficientDisk", needed=3000, inodes=6)]
    pod = await made.start()
    await until(lambda: "WaitingForDisk" in made.world.phases())
    made.world.disk_takes_it.set()
    await pod.result()
    return {"pod": pod, "entity": made.entity()}


async def ill_disk(made: Bench) -> dict[str, WorkflowHandle]:
    made.world.error[names.CHECK_DISK] = [failed("DiskFault") for _ in range(3)]
    pod = await made.start()
    await pod.result()
    return {"pod": pod}


async def disk_fails(made: Bench) -> dict[str, WorkflowHandle]:
    made.world.nodes.pop()
    made.world.error[names.STREAM_DATASET] = [refused("PersistentDiskFault") for _ in range(2)]
    pod = await made.start()
    await pod.result()
    return {"pod": pod, "entity": made.entity()}


async def vanished(made: Bench) -> dict[str, WorkflowHandle]:
    """A reconcile that finds a Pod's snapshot gone, and a node that nobody uses."""
    pod = await made.start()
    await pod.result()
    entity = Entity(made.entity().id, made.world.nodes[0], "disk-1", DIGEST, ready=True)
    uid = pod.id.rsplit("/", 1)[1]
    bound = [BoundPods(made.world.nodes[0], DIGEST, [uid])]
    made.world.complete.clear()
    run = await made.reconcile(ClusterState([entity], [uid], made.world.nodes, bound))
    await run.result()
    await until(lambda: made.world.count(names.STREAM_DATASET) == 2)
    return {"reconcile": run, "entity": made.entity()}


async def other_nodes(made: Bench) -> dict[str, WorkflowHandle]:
    """A reconcile of nodes that have no entity."""
    run = await made.reconcile(ClusterState([], [], made.world.nodes))
    await run.result()
    return {"reconcile": run}


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
    ill_disk,
    disk_fails,
    vanished,
    other_nodes,
]


SIGHTS = {"signalled": 0.0, "seen": SEEN_S}
"""Both ways in which a Pod's workflow learns of the scheduler's doings."""


async def record(address: str) -> None:
    HISTORIES.mkdir(exist_ok=True)
    for scenario, (sight, seconds) in product(SCENARIOS, SIGHTS.items()):
        async with bench(address, watch_wait_s=seconds) as made:
            for part, handle in (await scenario(made)).items():
                target = HISTORIES / f"{scenario.__name__}.{part}.{sight}.json"
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
        asyncio.run(record(stack.temporal_address))


if __name__ == "__main__":
    main()
