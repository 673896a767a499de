"""`make bench-release`: how long a cache hit takes from Pod creation to bound, one by one and 200 at once, and on what.

A program, not a test: it measures and never fails on wall time. Everything runs on this machine (control plane,
Temporal, S3, operator, one agent a node), so the figures are of the whole stack on these cores. Prints tables and
writes build/bench/release.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from temporalio.client import Client

from kube_cache import names
from tests.bench import api_requests, cpu
from tests.bench.release_clock import Clock
from tests.bench.release_stages import History, Stage, histories, merge, stages
from tools.stack import Stack, control_plane
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods, gated

_OUT = Path(__file__).parents[2] / "build" / "bench" / "release.json"
_SIZES = [700_000, 300_000, 1_000]
_NAMESPACE = control_plane.USER_NAMESPACE
_CREATORS = 16
_PATIENCE_S = 300
_RUNNING = f"WorkflowType = '{names.WARM_POD}' AND ExecutionStatus = 'Running'"


def main() -> int:
    arguments = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    with Stack(node_count=arguments.nodes, report=console.print) as stack:
        bench = _Bench(stack, console)
        bench.warm_every_node()
        found: dict[str, object] = {
            "command": " ".join(["python -m tests.bench.release", *sys.argv[1:]]),
            "machine": _machine(),
        }
        if arguments.pods:
            found |= bench.one_by_one(arguments.pods, arguments.pause)
        if arguments.burst:
            found |= bench.burst(arguments.burst)
    _OUT.parent.mkdir(parents=True, exist_ok=True)
    _OUT.write_text(json.dumps(found, indent=1) + "\n")
    console.print(f"written: {_OUT.relative_to(Path.cwd()) if _OUT.is_relative_to(Path.cwd()) else _OUT}")
    return 0


class _Bench:
    def __init__(self, stack: Stack, console: Console) -> None:
        self._stack = stack
        self._console = console
        self._pods = Pods(stack.api, _NAMESPACE)
        self._clock = Clock(stack.kubeconfig, _NAMESPACE, control_plane.SEATS_NAMESPACE)
        self._bucket = Bucket(stack.s3, "bench")
        self._bucket.fill("weights", _SIZES)
        self._workflows: dict[str, str] = {}
        """Pod uid → workflow id."""

    def warm_every_node(self) -> None:
        """So that every Pod that is measured finds its data, wherever the scheduler sends it."""
        wanted = {f"warm-{node}": {"nodeSelector": {"kubernetes.io/hostname": node}} for node in self._stack.nodes}
        for name, spec in wanted.items():
            self._pods.create(gated(name, self._bucket.uri("weights"), spec=spec))
        for name in wanted:
            self._pods.wait_bound(name)

    def one_by_one(self, count: int, pause_s: float) -> dict[str, object]:
        before, asked_before = cpu.seconds(self._stack.processes), api_requests.answered(self._stack.api)
        uids = []
        for number in range(count):
            uid = self._create(f"hit-{number:03}", gpus=1)
            self._clock.wait([uid], "bound", _PATIENCE_S)
            self._pods.delete(f"hit-{number:03}")
            self._clock.wait([uid], "gone", _PATIENCE_S)
            uids.append(uid)
            # What is asked here is one Pod's time: its own end (condition, Event, pins) is not the next one's delay.
            time.sleep(pause_s)
        self._until_all_closed()
        spent = cpu.between(before, cpu.seconds(self._stack.processes), count)
        asked = api_requests.between(asked_before, api_requests.answered(self._stack.api), count)
        spans = sorted((self._clock.times[uid].bound - self._clock.times[uid].sent) * 1e3 for uid in uids)
        found = self._tell(f"{count} hits one by one", uids, "hit", spent, asked)
        p50, p90, p95, p99 = (spans[min(len(spans) - 1, int(len(spans) * part))] for part in (0.5, 0.9, 0.95, 0.99))
        self._console.print(
            f"one by one: p50 {p50:.0f} ms, p90 {p90:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms,"
            f" max {spans[-1]:.0f} ms\n"
        )
        measured = {
            "hit_p50_ms": p50,
            "hit_p90_ms": p90,
            "hit_p95_ms": p95,
            "hit_p99_ms": p99,
            "hit_ms": spans,
            "hit_pause_s": pause_s,
        }
        return measured | found

    def burst(self, count: int) -> dict[str, object]:
        before, asked_before = cpu.seconds(self._stack.processes), api_requests.answered(self._stack.api)
        began = time.time()
        with ThreadPoolExecutor(_CREATORS) as pool:
            uids = list(pool.map(lambda number: self._create(f"burst-{number:03}", gpus=0), range(count)))
        created = time.time() - began
        self._clock.wait(uids, "bound", _PATIENCE_S)
        bound = [self._clock.times[uid].bound for uid in uids]
        seconds = max(bound) - began
        self._until_all_closed()
        spent = cpu.between(before, cpu.seconds(self._stack.processes), count)
        asked = api_requests.between(asked_before, api_requests.answered(self._stack.api), count)
        found = self._tell(f"{count} hits at once", uids, "burst", spent, asked)
        rate = count / seconds
        self._console.print(
            f"at once: {count} created in {created:.1f} s, bound in {seconds:.1f} s: {rate:.1f} Pods/s;"
            f" first after {min(bound) - began:.1f} s\n"
        )
        return {"burst_pods_per_s": rate, "burst_s": seconds, "burst_created_s": created} | found

    def _create(self, name: str, *, gpus: int) -> str:
        pod = gated(name, self._bucket.uri("weights"), gpus=gpus)
        sent = time.time()
        made = self._pods.create(pod)
        uid = str(made["metadata"]["uid"])
        self._clock.sent(uid, sent, time.time())
        self._workflows[uid] = names.warm_pod_id(_NAMESPACE, name, uid)
        return uid

    def _until_all_closed(self) -> None:
        """What follows a release (seat, condition, Event) is paid for by it too."""
        asyncio.run(self._no_workflow_runs())

    async def _no_workflow_runs(self) -> None:
        client = await self._client()
        deadline = time.monotonic() + _PATIENCE_S
        while (await client.count_workflows(_RUNNING)).count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"Pods are bound, but their workflows have not ended after {_PATIENCE_S} s")
            await asyncio.sleep(0.2)

    async def _histories(self, workflow_ids: list[str]) -> dict[str, History]:
        return await histories(await self._client(), workflow_ids)

    async def _client(self) -> Client:
        return await Client.connect(self._stack.temporal_address, namespace=self._stack.temporal_namespace)

    def _tell(
        self, title: str, uids: list[str], key: str, spent: dict[str, float], asked: Mapping[str, float]
    ) -> dict[str, object]:
        """Where the time went, and who worked."""
        read = asyncio.run(self._histories([self._workflows[uid] for uid in uids]))
        times = [(self._clock.times[uid], read[self._workflows[uid]]) for uid in uids]
        lags = sorted(1e3 * (history.milestones["started"] - each.exists) for each, history in times)
        p50, p99 = (lags[min(len(lags) - 1, int(len(lags) * part))] for part in (0.5, 0.99))
        found = stages([merge(*each) for each in times])
        self._console.print(_stage_table(title, found))
        self._console.print(_cpu_table(spent))
        events = sum(each.events for _, each in times) / len(times)
        tasks = sum(each.workflow_tasks for _, each in times) / len(times)
        parts = sum((each.parts for _, each in times), Counter[str]())
        by_part = ", ".join(f"{part} {count / len(times):.1f}" for part, count in parts.most_common())
        self._console.print(f"a workflow: {events:.1f} events, {tasks:.1f} workflow tasks; {by_part}")
        kinds = ", ".join(f"{kind} {count:.1f}" for kind, count in asked.items())
        self._console.print(f"event to start of the workflow: p50 {p50:.0f} ms, p99 {p99:.0f} ms")
        self._console.print(f"API requests a Pod, of everybody: {sum(asked.values()):.1f}: {kinds}")
        return {
            f"{key}_stages_ms": {stage.name: round(stage.p50_ms, 2) for stage in found},
            f"{key}_cpu_ms_per_pod": {name: round(value, 2) for name, value in spent.items()},
            f"{key}_lag_p50_ms": round(p50, 1),
            f"{key}_lag_p99_ms": round(p99, 1),
            f"{key}_events_per_workflow": events,
            f"{key}_tasks_per_workflow": tasks,
            f"{key}_parts_per_workflow": {part: round(count / len(times), 2) for part, count in parts.items()},
            f"{key}_api_requests_per_pod": {kind: round(count, 2) for kind, count in asked.items()},
        }


def _stage_table(title: str, found: list[Stage]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=f"{title}: where the time goes, ms", title_justify="left")
    table.add_column("stage")
    for name in ("p50", "p90", "mean", "share"):
        table.add_column(name, justify="right")
    whole = sum(stage.mean_ms for stage in found if stage.counted)
    for stage in found:
        share = f"{100 * stage.mean_ms / whole:.0f} %" if stage.counted else ""
        table.add_row(stage.name, f"{stage.p50_ms:.1f}", f"{stage.p90_ms:.1f}", f"{stage.mean_ms:.1f}", share)
    table.add_section()
    table.add_row("sent to bound", "", "", f"{whole:.1f}", "100 %")
    return table


def _cpu_table(spent: dict[str, float]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="CPU a Pod, ms", title_justify="left")
    ours = {name: value for name, value in spent.items() if name != cpu.OTHERS}
    for name in (*ours, "all", "(others here)"):
        table.add_column(name.removeprefix("kube-"), justify="right")
    table.add_row(*(f"{value:.1f}" for value in (*ours.values(), sum(ours.values()), spent[cpu.OTHERS])))
    return table


def _machine() -> dict[str, object]:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "",
    )
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "core_speed": round(cpu.core_speed(), 1),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.release", description=__doc__)
    parser.add_argument("--pods", type=int, default=50, help="hits one after another (default 50)")
    parser.add_argument(
        "--pause", type=float, default=0.25, help="seconds between one's end and the next (default 0.25)"
    )
    parser.add_argument("--burst", type=int, default=200, help="hits at once (default 200)")
    parser.add_argument("--nodes", type=int, default=4, help="fake nodes (default 4)")
    return parser.parse_args()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Temporal's SDK core crashes at interpreter exit now and then.
    os._exit(code)
