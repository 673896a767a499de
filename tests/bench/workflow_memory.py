"""Memory of an operator for each workflow that it caches, and the price of one that it does not.

`python -m tests.bench.workflow_memory`. The operator's worker with its workflows, activities and limits, around a real
Temporal. The entities rest, as nearly all of a cluster's do: each is started, and then signalled once, for which a
worker that has it in memory needs no history. A program, not a test: prints one line for each size of the cache.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from kubernetes import client as kubernetes_client
from temporalio.client import Client

from cli import garbage
from cli.operator_worker import new_worker
from kube_cache import names
from kube_cache.contracts.common import Consumer, PodRef, Snapshot
from kube_cache.contracts.node import DatasetOnNodeInput, DatasetState
from kube_cache.kube.client import KubeClient
from kube_cache.kube.expectations import Expectations
from kube_cache.settings import Settings
from kube_cache.temporal.client import connect
from kube_cache.temporal.runtime import new_runtime
from kube_cache.temporal.search_attributes import initial
from tests.bench import cpu, scale_measures
from tools.stack import Stack
from tools.stack.stack import TEMPORAL

_STARTS_AT_ONCE = 32
_MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entities", type=int, default=1000)
    parser.add_argument("--slots", type=int, nargs="+", default=[5000, 200])
    parser.add_argument("--worker", nargs=2, metavar=("ADDRESS", "SLOTS"), help="be the operator's worker")
    arguments = parser.parse_args()
    if arguments.worker:
        asyncio.run(_work(arguments.worker[0], int(arguments.worker[1])))
        return
    for slots in arguments.slots:
        with (
            tempfile.TemporaryDirectory() as folder,
            Stack(servers=[TEMPORAL], with_product=False, state=Path(folder) / "stack") as stack,
        ):
            print(json.dumps(asyncio.run(_measure(stack, arguments.entities, slots))), flush=True)


async def _work(address: str, slots: int) -> None:
    """What the operator's process is, without its watches."""
    garbage.share_heaps()
    os.environ["TEMPORAL_ADDRESS"] = address
    client = await connect(new_runtime(""))
    os.environ["KUBE_CACHE_OPERATOR__WORKFLOW_SLOTS"] = str(slots)
    kube = KubeClient(kubernetes_client.Configuration())
    worker = new_worker(
        client,
        kube,
        Settings(),
        Expectations(),
        lambda _: None,
        lambda: None,
        list,
        lambda _node, _pod: None,
        lambda _namespace, _group: None,
        lambda _uri, _digest, **_of: False,
        lambda: asyncio.sleep(0),
        dict,
        lambda: True,
    )
    garbage.tune()
    giving = asyncio.create_task(garbage.keep_giving_back())
    await worker.run()
    giving.cancel()


async def _measure(stack: Stack, entities: int, slots: int) -> dict[str, object]:
    address = stack.temporal_address
    command = [sys.executable, "-m", "tests.bench.workflow_memory", "--worker", address, str(slots)]
    worker = stack.processes.spawn("bench-worker", command, dict(os.environ))
    client = await Client.connect(address, namespace=names.TEMPORAL_NAMESPACE)
    await _start(client, 0, 20)
    await _answered(client, 19)
    before = _memory(worker.pid)
    await _start(client, 20, entities)
    await _answered(client, entities - 1)
    cached = _memory(worker.pid)
    spent = cpu.seconds(stack.processes)
    began = time.monotonic()
    await _signal(client, entities)
    await _answered(client, entities - 1)
    seconds = time.monotonic() - began
    used = {
        name: round(1000 * (after - spent.get(name, 0)) / entities, 2)
        for name, after in cpu.seconds(stack.processes).items()
    }
    return {
        "entities": entities,
        "slots": slots,
        "before_mib": round(before / _MIB, 1),
        "cached_mib": round(cached / _MIB, 1),
        "kib_each": round((cached - before) / 1024 / (entities - 20), 1),
        "after_signals_mib": round(_memory(worker.pid) / _MIB, 1),
        "ms_a_signal": round(1000 * seconds / entities, 2),
        "cpu_ms_a_signal": {name: round(1000 * each / entities, 2) for name, each in used.items() if each},
    }


def _id(number: int) -> str:
    return names.dataset_on_node_id(f"node-{number}", "disk", f"{number:064x}")


async def _start(client: Client, first: int, last: int) -> None:
    slots = asyncio.Semaphore(_STARTS_AT_ONCE)

    async def start(number: int) -> None:
        snapshot = Snapshot("s3://models/gpt", f"{number:064x}", 3, 3000)
        async with slots:
            await client.start_workflow(
                names.DATASET_ON_NODE,
                DatasetOnNodeInput(f"node-{number}", "disk", snapshot, state=DatasetState(ready=True)),
                id=_id(number),
                task_queue=names.OPERATOR_QUEUE,
                search_attributes=initial(phase="Ready", dataset=snapshot.uri, node=f"node-{number}"),
            )

    await asyncio.gather(*map(start, range(first, last)))


async def _signal(client: Client, entities: int) -> None:
    slots = asyncio.Semaphore(_STARTS_AT_ONCE)

    async def signal(number: int) -> None:
        pod = PodRef("ml", f"pod-{number}", f"uid-{number}")
        async with slots:
            await client.get_workflow_handle(_id(number)).signal("join", Consumer(f"warm/{number}", pod, hit=True))

    await asyncio.gather(*map(signal, range(entities)))


async def _answered(client: Client, number: int) -> None:
    """Wait until no workflow task is left."""
    for each in (number, number // 2, 0):
        await scale_measures.answers(client, _id(each))
    while await _has_task(client, number):  # noqa: ASYNC110 -- Temporal has no such event
        await asyncio.sleep(0.2)


async def _has_task(client: Client, number: int) -> bool:
    described = await client.get_workflow_handle(_id(number)).describe()
    return described.raw_description.HasField("pending_workflow_task")


def _memory(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise LookupError(pid)


if __name__ == "__main__":
    main()
