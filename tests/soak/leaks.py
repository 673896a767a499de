"""What is left once every Pod is deleted: seats, workflows of Pods, links, nominations, half-made things on disks.

Each thing that can be left behind has its sweep (docs/architecture.md). The first count tells what the Pods' own ends
have left, after a short wait. Then links and parts are made old enough for their sweep, and a reconcile is run: what is
left after that nobody finds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any

from kube_cache import names
from tests.soak.disks import Disk
from tools.stack import Stack

_POLL_S = 1.0

Leaks = dict[str, list[str]]
"""Kind → what is left."""


def find(stack: Stack, disks: Mapping[str, Disk]) -> Leaks:
    """Return what is left now; every kind is named, also those of which nothing is left."""
    seats = stack.api.get(f"/api/v1/namespaces/{names.SEATS_NAMESPACE}/pods")["items"]
    warm, groups, consumers = asyncio.run(_workflows(stack))
    unfinished = [f"{node}: {path}" for node, disk in disks.items() for path in disk.unfinished()]
    return {
        "seats": [seat["metadata"]["name"] for seat in seats],
        "workflows of Pods": warm,
        "workflows of groups": groups,
        "Pods that an entity counts": consumers,
        "links of Pods (pins)": [f"{node}: {uid}" for node, disk in disks.items() for uid in disk.pods()],
        "parts and journals": [path for path in unfinished if "/incoming" in path or ": incoming/" in path],
        "half-made folders": [path for path in unfinished if ": snapshots/" in path or ": pods/" in path],
        "objects in quarantine": [path for path in unfinished if ": quarantine/" in path],
    }


def wait(stack: Stack, disks: Mapping[str, Disk], timeout_s: float, *, but: Iterable[str] = ()) -> Leaks:
    """Return what is left when nothing is, except of some kinds, or when the time is over."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = find(stack, disks)
        if not any(left for kind, left in found.items() if kind not in but) or time.monotonic() > deadline:
            return found
        time.sleep(_POLL_S)


def sweep(stack: Stack, disks: Mapping[str, Disk]) -> None:
    """Have every sweep run: links and parts become old, agents are rolled out anew, a reconcile is asked for."""
    for disk in disks.values():
        disk.make_old()
    for agent in stack.agents.values():
        agent.restart(kill=False, wait=False)
    for agent in stack.agents.values():
        agent.wait_ready()
    asyncio.run(_reconcile(stack))


def failed_workflows(stack: Stack) -> list[str]:
    """Return the workflows that ended in a way that none of ours may, with that way; reconciles may time out."""
    return asyncio.run(_failed(stack))


async def _failed(stack: Stack) -> list[str]:
    query = "ExecutionStatus IN ('Failed', 'TimedOut')"
    found = [each async for each in (await _client(stack)).list_workflows(query)]
    ours = {names.WARM_POD, names.DATASET_ON_NODE, names.POD_GROUP}
    return [f"{each.id}: {each.status.name if each.status else '?'}" for each in found if each.workflow_type in ours]


async def _client(stack: Stack) -> Any:
    from temporalio.client import Client

    return await Client.connect(stack.temporal_address, namespace=stack.temporal_namespace)


async def _reconcile(stack: Stack) -> None:
    from temporalio.client import ScheduleOverlapPolicy

    handle = (await _client(stack)).get_schedule_handle(names.RECONCILE_SCHEDULE)
    await handle.trigger(overlap=ScheduleOverlapPolicy.BUFFER_ONE)


async def _workflows(stack: Stack) -> tuple[list[str], list[str], list[str]]:
    """Return the open workflows of Pods and of groups, and what open entities still count."""
    from temporalio.client import WorkflowQueryFailedError
    from temporalio.service import RPCError, RPCStatusCode

    client = await _client(stack)
    consumers: list[str] = []
    kinds: dict[str, list[str]] = {names.WARM_POD: [], names.POD_GROUP: []}
    async for each in client.list_workflows("ExecutionStatus = 'Running'"):
        if each.workflow_type in kinds:
            kinds[each.workflow_type].append(each.id)
        elif each.workflow_type == names.DATASET_ON_NODE:
            try:
                status = await client.get_workflow_handle(each.id).query("status")
            except (RPCError, WorkflowQueryFailedError) as error:
                if not (isinstance(error, RPCError) and error.status == RPCStatusCode.NOT_FOUND):  # ended since
                    consumers.append(f"{each.id} does not answer: {error}")
                continue
            consumers += [f"{each.id}: {consumer['workflow_id']}" for consumer in status["consumers"]]
    return kinds[names.WARM_POD], kinds[names.POD_GROUP], consumers
