"""Stub agents of many nodes in one process: `python -m tests.bench.stub_agents ADDRESS FIRST LAST [HELD]`.

Each answers on its node's queue at once, as an agent does whose disk is as it should be, and keeps one poll open, so
that the polls cost Temporal what those of real agents cost. HELD: a file with JSON, node -> digests of the snapshots
that its disk holds; without one each disk holds whatever it is asked for. A snapshot that is missing is "fetched" by
the first download that is asked for. The bench's other processes import this module's names of nodes.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from pathlib import Path

from temporalio.api.common.v1 import Payloads
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    PollActivityTaskQueueRequest,
    PollActivityTaskQueueResponse,
    RespondActivityTaskCompletedRequest,
)
from temporalio.client import Client
from temporalio.converter import DataConverter
from temporalio.service import RPCError

from kube_cache import names
from kube_cache.contracts.node import (
    CheckDiskInput,
    CheckDiskResult,
    DiskSnapshot,
    StreamInput,
    StreamResult,
)
from kube_cache.contracts.reconcile import ReconcileDiskInput, ReconcileDiskResult

CACHE_ID = "disk-1"
AGENT_NODES = 500
"""Nodes of a process."""
_CLIENT_NODES = 250
_CONVERTER = DataConverter.default


def node_name(number: int) -> str:
    return f"gpu-{number:05}"


class Agent:
    def __init__(self, client: Client, node: str, held: set[str] | None) -> None:
        """held: digests that the disk holds; None: whatever is asked for."""
        self._client = client
        self._node = node
        self._held = held
        self._fetching: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        while True:
            await self._serve_one(names.node_queue(self._node))

    async def _serve_one(self, queue: str) -> None:
        task = await self._poll(queue)
        answer = RespondActivityTaskCompletedRequest(
            namespace=self._client.namespace,
            task_token=task.task_token,
            result=Payloads(payloads=await _CONVERTER.encode([await self._answer(task)])),
            identity=self._node,
        )
        # As a real agent: an answer that a busy Temporal refuses is sent again, and one that comes too late is dropped.
        with suppress(RPCError):
            await self._client.workflow_service.respond_activity_task_completed(answer, retry=True)

    async def _poll(self, queue: str) -> PollActivityTaskQueueResponse:
        request = PollActivityTaskQueueRequest(
            namespace=self._client.namespace, task_queue=TaskQueue(name=queue), identity=self._node
        )
        while True:
            try:
                task = await self._client.workflow_service.poll_activity_task_queue(request)
            except RPCError:  # it took no task for a minute, or Temporal is busy
                continue
            if task.task_token:
                return task

    async def _answer(self, task: PollActivityTaskQueueResponse) -> object:
        name = task.activity_type.name
        if name == names.RECONCILE_DISK:
            (expected,) = await _CONVERTER.decode(task.input.payloads, [ReconcileDiskInput])
            return ReconcileDiskResult(CACHE_ID, [digest for digest in expected.expected or [] if self._holds(digest)])
        if name == names.CHECK_DISK:
            (check,) = await _CONVERTER.decode(task.input.payloads, [CheckDiskInput])
            return CheckDiskResult(CACHE_ID, [self._look(each.digest, each.bytes) for each in check.snapshots])
        if name == names.STREAM_DATASET:
            (stream,) = await _CONVERTER.decode(task.input.payloads, [StreamInput])
            if self._held is not None:
                self._held.add(stream.snapshot.digest)
            return StreamResult(stream.snapshot.digest, stream.snapshot.bytes, stream.snapshot.bytes, 0.0, "md5")
        return None

    def _holds(self, digest: str) -> bool:
        return self._held is None or digest in self._held

    def _look(self, digest: str, size: int) -> DiskSnapshot:
        if self._holds(digest):
            return DiskSnapshot(digest, True, size, "full-object")
        if self._fetching is None or self._fetching.done():
            # That queue is polled only while a download is to come: a second poll for each node costs as much again.
            self._fetching = asyncio.create_task(self._serve_one(names.node_stream_queue(self._node)))
        return DiskSnapshot(digest, False, 0)


async def serve(address: str, first: int, last: int, held: dict[str, list[str]] | None) -> None:
    """Answer for the nodes from first to last, the last not included."""
    clients = [
        await Client.connect(address, namespace=names.TEMPORAL_NAMESPACE) for _ in range(first, last, _CLIENT_NODES)
    ]
    agents = []
    for number in range(first, last):
        node = node_name(number)
        disk = None if held is None else set(held.get(node, []))
        agents.append(Agent(clients[(number - first) // _CLIENT_NODES], node, disk))
    await asyncio.gather(*(agent.serve() for agent in agents))


def command(address: str, first: int, last: int, held: Path | None = None) -> list[str]:
    """Return the command line of a process."""
    words = [sys.executable, "-m", "tests.bench.stub_agents", address, str(first), str(last)]
    return words if held is None else [*words, str(held)]


if __name__ == "__main__":
    address, first, last, *file = sys.argv[1:]
    asyncio.run(serve(address, int(first), int(last), json.loads(Path(file[0]).read_text()) if file else None))
