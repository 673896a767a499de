"""What `tests.bench.scale` measures, each from outside the operator: memory, requests, lag, reconciles."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from temporalio.client import Client, WorkflowExecution, WorkflowFailureError
from temporalio.service import RPCError

from kube_cache import names
from kube_cache.contracts.reconcile import ReconcileResult
from kube_cache.temporal import reconcile_schedule
from tools.stack.audit import Audit

_MIB = 1 << 20
_POLL_S = 0.5

T = TypeVar("T")


class Memory:
    """Resident memory of a process, MiB."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")

    def now(self) -> float:
        return self._read("VmRSS")

    def peak(self) -> float:
        """Since the last `forget_peak`, or the start."""
        return self._read("VmHWM")

    def forget_peak(self) -> None:
        (self._folder / "clear_refs").write_text("5")

    def _read(self, key: str) -> float:
        for line in (self._folder / "status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return round(int(line.split()[1]) * 1024 / _MIB, 1)
        raise LookupError(key)


class Requests:
    """Requests that the operator has made, by the API server's audit log; the log must record no other user.

    Watches are left out, which stay open, and the Lease, which is renewed whatever happens.
    """

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    def count(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for verb, resource in self._audit.requests():
            if verb != "watch" and resource != "leases":
                found[f"{verb} {resource}"] += 1
        return found


async def insist(attempt: Callable[[], Awaitable[T]]) -> T:
    """Try until Temporal answers: under a burst it is too busy for a bench's questions now and then."""
    while True:
        try:
            return await attempt()
        except RPCError:
            await asyncio.sleep(1)


async def starts(client: Client, ids: set[str]) -> dict[str, float]:
    """Workflow id -> time of its start by Temporal, seconds since the epoch."""

    async def read() -> dict[str, float]:
        listed = client.list_workflows(f"WorkflowType = '{names.WARM_POD}'")
        return {each.id: each.start_time.timestamp() async for each in listed if each.id in ids}

    return await insist(read)


async def signalled(client: Client, workflow_id: str, signal: str) -> float | None:
    """Return the time at which Temporal took the signal, seconds since the epoch; None if it never did."""
    history = await insist(client.get_workflow_handle(workflow_id).fetch_history)
    for event in history.events:
        if event.workflow_execution_signaled_event_attributes.signal_name == signal:
            return event.event_time.ToNanoseconds() / 1e9
    return None


async def count(client: Client, workflow_type: str, phase: str = "") -> int:
    query = f"WorkflowType = '{workflow_type}' AND ExecutionStatus = 'Running'"
    if phase:
        query += f" AND KcPhase = '{phase}'"
    return (await insist(lambda: client.count_workflows(query))).count


async def history_length(client: Client, workflow_id: str) -> int:
    """Return the number of events."""
    return (await insist(client.get_workflow_handle(workflow_id).describe)).history_length


async def until_count(client: Client, wanted: int, timeout_s: float, workflow_type: str, phase: str = "") -> None:
    """Wait until so many run. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while (found := await count(client, workflow_type, phase)) != wanted:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{found} of {wanted} {workflow_type} {phase} after {timeout_s} s")
        await asyncio.sleep(_POLL_S)


@dataclass(frozen=True)
class Reconcile:
    seconds: float
    peak_mib: float
    """Of the operator while the run lasted."""
    result: dict[str, Any]


async def reconcile(client: Client, memory: Memory, timeout_s: float = 540) -> Reconcile:
    """Have a reconcile run and wait for its end; one that runs already ends before. Raises TimeoutError."""
    before = {run.run_id for run in await _runs(client)}
    memory.forget_peak()
    await reconcile_schedule.trigger(client)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        done = [run for run in await _runs(client) if run.run_id not in before and run.close_time is not None]
        if done:
            return await _read(client, done[0], memory)
        await asyncio.sleep(_POLL_S)
    raise TimeoutError(f"no reconcile has ended within {timeout_s} s")


async def _runs(client: Client) -> list[WorkflowExecution]:
    async def read() -> list[WorkflowExecution]:
        return [run async for run in client.list_workflows(f"WorkflowType = '{names.RECONCILE}'")]

    return await insist(read)


async def _read(client: Client, run: WorkflowExecution, memory: Memory) -> Reconcile:
    peak = memory.peak()
    handle: Any = client.get_workflow_handle(run.id, run_id=run.run_id, result_type=ReconcileResult)
    try:
        result: ReconcileResult = await insist(handle.result)
        told = {key: value for key, value in vars(result).items() if value}
    except WorkflowFailureError as error:
        told = {"failed": repr(error.cause)}
    assert run.close_time is not None
    seconds = (run.close_time - run.start_time).total_seconds()
    return Reconcile(round(seconds, 1), peak, told)


async def answers(client: Client, workflow_id: str) -> None:
    """Wait until the operator answers a query, which it does when it has done what was asked of it before."""
    while True:
        try:
            await client.get_workflow_handle(workflow_id).query("status")
            return
        except RPCError:
            await asyncio.sleep(1)


def percentile(values: list[float], part: float) -> float:
    """Return 0 for no values."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * part))], 3) if ordered else 0.0
