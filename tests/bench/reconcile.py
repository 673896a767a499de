"""`make bench-reconcile`: seconds, memory, events and payloads of a reconcile at 100, 1,000 and 5,000 nodes.

A program, not a test: it measures and never fails on wall time. Temporal, the entities, the operator's worker and its
activities are real; the API server and the agents are stubs (tests.bench.reconcile_parts), and a `WarmPod` that waits
takes its signal without looking at a cluster. Sizes by RECONCILE_NODES, and of the greatest RECONCILE_PODS,
RECONCILE_GATED, RECONCILE_ENTITIES (a node) and RECONCILE_AWAY (nodes whose agent is away). Writes
build/bench/reconcile.json.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from kube_cache import names
from kube_cache.contracts.common import Consumer, PodRef, Snapshot
from kube_cache.contracts.node import DatasetOnNodeInput, DatasetState
from kube_cache.contracts.reconcile import ReconcileInput
from kube_cache.temporal.search_attributes import initial
from tests.bench import cpu, stub_agents
from tests.bench.reconcile_parts import digest, pod_uid
from tests.bench.stub_agents import CACHE_ID, node_name
from tools.stack import Stack, ports
from tools.stack.processes import Process
from tools.stack.stack import TEMPORAL
from workflows.dataset_on_node import DatasetOnNode
from workflows.reconcile import Reconcile

_OUT = Path(__file__).parents[2] / "build" / "bench" / "reconcile.json"
_NODES = [int(each) for each in os.environ.get("RECONCILE_NODES", "100,1000,5000").split(",")]
_PODS = int(os.environ.get("RECONCILE_PODS", "20000"))
_GATED = int(os.environ.get("RECONCILE_GATED", "2000"))
_ENTITIES = int(os.environ.get("RECONCILE_ENTITIES", "1"))
_AWAY = int(os.environ.get("RECONCILE_AWAY", "0"))
_STARTS_AT_ONCE = 64
_MIB = 1 << 20


def main() -> int:
    console = Console(width=140, highlight=False)
    table = Table("nodes", "Pods", "gated", "entities", "seconds", "MiB beyond", "events", "in a shard", "largest KiB")
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Stack(servers=[TEMPORAL], with_product=False, state=Path(folder) / "stack") as stack,
    ):
        bench = _Bench(stack)
        for nodes in _NODES:
            row = asyncio.run(bench.measure(nodes))
            rows.append(row)
            console.print(row)
            table.add_row(*(str(row[key]) for key in row if key not in ("result", "stages_s", "cpu_s")))
        bench.stop()
    console.print(table)
    found = {
        "command": " ".join(["python -m tests.bench.reconcile", *sys.argv[1:]]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "rows": rows,
    }
    _OUT.parent.mkdir(parents=True, exist_ok=True)
    _OUT.write_text(json.dumps(found, indent=1) + "\n")
    return 0


class _Bench:
    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._entities = 0
        self._waiting = 0
        self._parts: list[Process] = []

    async def measure(self, nodes: int) -> dict[str, object]:
        """Grow to so many nodes and their share of everything, and run one reconcile."""
        share = nodes / max(_NODES)
        pods, gated = int(_PODS * share), int(_GATED * share)
        async with self._running(nodes, pods, gated) as (client, operator):
            await self._grow(client, nodes, gated)
            await _until_idle(client)
            _reset_peak(operator.pid)
            base = _rss(operator.pid)
            before = self._cpu()
            began = time.monotonic()
            handle = await client.start_workflow(
                Reconcile.run, ReconcileInput(), id=f"bench-{uuid.uuid4()}", task_queue=names.OPERATOR_QUEUE
            )
            result = await handle.result()
            seconds = time.monotonic() - began
            beyond = _peak(operator.pid) - base
            spent = {name: round(used - before.get(name, 0), 1) for name, used in self._cpu().items()}
            parent = list((await handle.fetch_history()).events)
            shards = [
                list((await client.get_workflow_handle(
                    event.start_child_workflow_execution_initiated_event_attributes.workflow_id
                ).fetch_history()).events)
                for event in parent
                if event.HasField("start_child_workflow_execution_initiated_event_attributes")
            ]  # fmt: skip
        return {
            "nodes": nodes,
            "pods": pods,
            "gated": gated,
            "entities": self._entities,
            "seconds": round(seconds, 1),
            "mib_beyond": round(beyond / _MIB),
            "events": len(parent),
            "events_of_a_shard": max(map(len, shards)),
            "largest_kib": round(max(event.ByteSize() for history in [parent, *shards] for event in history) / 1024),
            "stages_s": _stages(parent),
            "cpu_s": spent,
            "result": {key: value for key, value in vars(result).items() if value},
        }

    def _cpu(self) -> dict[str, float]:
        """CPU seconds by part; what the other processes of this machine have used is `others`."""
        used: dict[str, float] = {}
        for name, seconds in cpu.seconds(self._stack.processes).items():
            part = name.removeprefix("bench-").rpartition("-")[0] or name
            used[part] = used.get(part, 0) + seconds
        return used

    @asynccontextmanager
    async def _running(self, nodes: int, pods: int, gated: int) -> AsyncIterator[tuple[Client, Process]]:
        address = self._stack.temporal_address
        (port,) = ports.free(1)
        self.stop()
        spawn = self._spawn
        spawn("api", str(port), str(nodes), str(pods), str(gated))
        operator = spawn("operator", address, str(port))
        for first in range(0, nodes - _AWAY, 2500):
            self._run("agents", stub_agents.command(address, first, min(nodes - _AWAY, first + 2500)))
        client = await Client.connect(address, namespace=names.TEMPORAL_NAMESPACE)
        yield client, operator

    def _spawn(self, part: str, *arguments: str) -> Process:
        return self._run(part, [sys.executable, "-m", "tests.bench.reconcile_parts", part, *arguments])

    def _run(self, part: str, command: list[str]) -> Process:
        process = self._stack.processes.spawn(f"bench-{part}-{len(self._parts)}", command, dict(os.environ))
        self._parts.append(process)
        return process

    def stop(self) -> None:
        for part in self._parts:
            part.kill()
        self._parts.clear()

    async def _grow(self, client: Client, nodes: int, gated: int) -> None:
        wanted = nodes * _ENTITIES
        await _at_once(lambda number: _start_entity(client, number, nodes), range(self._entities, wanted))
        await _at_once(lambda number: _start_waiting(client, number), range(self._waiting, gated))
        self._entities, self._waiting = wanted, gated
        for kind, number in ((names.DATASET_ON_NODE, wanted), (names.WARM_POD, gated)):
            query = f"WorkflowType = '{kind}' AND ExecutionStatus = 'Running'"
            while (await client.count_workflows(query)).count < number:  # noqa: ASYNC110 -- Temporal has no such event
                await asyncio.sleep(1)


def _stages(parent: list[HistoryEvent]) -> dict[str, float]:
    """Seconds of the run that the survey took, and until the workflows were told and the last shard was done."""
    first = parent[0].event_time.ToNanoseconds()
    scheduled: dict[int, str] = {}
    stages: dict[str, float] = {}
    for event in parent:
        seconds = round((event.event_time.ToNanoseconds() - first) / 1e9, 1)
        if event.HasField("activity_task_scheduled_event_attributes"):
            scheduled[event.event_id] = event.activity_task_scheduled_event_attributes.activity_type.name
        elif event.HasField("activity_task_completed_event_attributes"):
            stages[scheduled[event.activity_task_completed_event_attributes.scheduled_event_id]] = seconds
        elif event.HasField("child_workflow_execution_completed_event_attributes"):
            stages["shards"] = seconds
    return stages


async def _until_idle(client: Client) -> None:
    """Wait until the operator has done what the starts asked of it: its work is not the reconcile's."""
    request = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=names.OPERATOR_QUEUE),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
        report_stats=True,
    )
    while (await client.workflow_service.describe_task_queue(request)).stats.approximate_backlog_count:  # noqa: ASYNC110 -- Temporal has no such event
        await asyncio.sleep(1)


async def _start_entity(client: Client, number: int, nodes: int) -> None:
    """The first of a node's holds what its Pods run on; Pod `number` is one of its consumers."""
    node = node_name(number % nodes)
    snapshot = Snapshot("s3://models/gpt", digest(number), 3, 3000)
    ref = PodRef("ml", pod_uid(number), pod_uid(number))
    consumer = Consumer(names.warm_pod_id("ml", ref.name, ref.uid), ref)
    state = DatasetState(ready=True, consumers={consumer.workflow_id: consumer})
    await client.start_workflow(
        DatasetOnNode.run,
        DatasetOnNodeInput(node, CACHE_ID, snapshot, state=state),
        id=names.dataset_on_node_id(node, CACHE_ID, snapshot.digest),
        task_queue=names.OPERATOR_QUEUE,
        search_attributes=initial(phase="Ready", dataset=snapshot.uri, node=node),
    )


async def _start_waiting(client: Client, number: int) -> None:
    uid = pod_uid(number)
    await client.start_workflow(
        names.WARM_POD,
        id=names.warm_pod_id("ml", uid, uid),
        task_queue=names.OPERATOR_QUEUE,
        search_attributes=initial(phase="AwaitingOperator", dataset="s3://models/gpt", namespace="ml", pod=uid),
    )


async def _at_once(work: Callable[[int], Awaitable[None]], numbers: Iterable[int]) -> None:
    slots = asyncio.Semaphore(_STARTS_AT_ONCE)

    async def one(number: int) -> None:
        async with slots:
            while True:
                try:
                    await work(number)
                    return
                except WorkflowAlreadyStartedError:  # by an attempt whose answer came too late
                    return
                except RPCError:  # Temporal is busy
                    await asyncio.sleep(1)

    await asyncio.gather(*(one(number) for number in numbers))


def _reset_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _rss(pid: int) -> int:
    return _status(pid, "VmRSS")


def _peak(pid: int) -> int:
    return _status(pid, "VmHWM")


def _status(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(key)


if __name__ == "__main__":
    raise SystemExit(main())
