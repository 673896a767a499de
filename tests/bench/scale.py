"""`make scale`: 5,000 nodes, 20,000 Pods, bursts of up to 2,000 hits, and 10,000 Pods that wait for GPUs.

A program, not a test: it measures and never fails on wall time. API server, scheduler, controller manager, kwok,
Temporal, S3 and operator are real; the agents are stubs (tests.bench.stub_agents), since there are no disks. Prints
tables and writes build/bench/scale.json. Sizes by variables:

SCALE_NODES (5000), SCALE_PODS (20000, with those of the bursts), SCALE_GATED (2000, the greatest burst), SCALE_USED
(5000, nodes with an entity from the start), SCALE_DATASETS (50) of SCALE_HOLDERS (16) nodes each, SCALE_WAITING (10000
Pods that ask for more GPUs than a node has; 0 = none) and SCALE_RECONCILES (12, an hour's,
one after another, while they wait: no hour, but the work of one). SCALE_OUT is the folder of the file, which is
written anew with each figure, so that a run that is cut short leaves what it found.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from temporalio.client import Client

from kube_cache import names
from kube_cache.contracts.common import Snapshot
from tests.bench import cpu, scale_measures, stub_agents
from tests.bench.release_clock import Clock
from tests.bench.scale_cluster import Cluster
from tests.bench.scale_measures import Memory, Requests, percentile
from tools.stack import Stack, control_plane
from tools.stack.pods import Pods, gated

_OUT = Path(os.environ.get("SCALE_OUT") or Path(__file__).parents[2] / "build" / "bench")
_NAMESPACE = control_plane.USER_NAMESPACE
_BASE = Snapshot("s3://scale/base", "b" * 64, 1, 1000)
"""On each node that is used from the start, so that the reconcile visits it."""
_GPUS = 8
_CREATORS = 16
_PATIENCE_S = 900
_GONE = 200
"""Waiting Pods that are deleted to see how fast their workflows hear of that."""


@dataclass(frozen=True)
class Sizes:
    nodes: int = 5000
    pods: int = 20000
    gated: int = 2000
    datasets: int = 50
    holders: int = 16
    used: int = 5000
    waiting: int = 10000
    reconciles: int = 12

    @classmethod
    def from_environment(cls) -> Sizes:
        return cls(**{key: int(os.environ.get(f"SCALE_{key.upper()}", value)) for key, value in asdict(cls()).items()})

    def refusal(self) -> str:
        """Return why these sizes are no cluster, and what to set; "" if they are one."""
        if self.datasets * self.holders > self.nodes:
            return (
                f"SCALE_DATASETS x SCALE_HOLDERS is {self.datasets} x {self.holders}, but no node holds two datasets and"
                f" there are {self.nodes}: set SCALE_HOLDERS to at most {self.nodes // self.datasets}, or SCALE_NODES to"
                f" at least {self.datasets * self.holders}"
            )
        if sum(self.bursts) > self.pods:
            return (
                f"the bursts of SCALE_GATED={self.gated} have {sum(self.bursts)} Pods, which SCALE_PODS={self.pods} counts"
                f" too: set SCALE_PODS to at least {sum(self.bursts)}"
            )
        return ""

    @property
    def bursts(self) -> list[int]:
        return [max(1, self.gated // 20), max(1, self.gated // 4), self.gated]


class Bench:
    def __init__(self, stack: Stack, sizes: Sizes, console: Console) -> None:
        self._stack = stack
        self._sizes = sizes
        self._console = console
        self._cluster = Cluster(stack, sizes.nodes, _GPUS)
        self._requests = Requests(stack.audit)
        self._pods = Pods(stack.api, _NAMESPACE)
        self._datasets: list[Snapshot] = []
        self._began = time.monotonic()
        self.found: dict[str, Any] = {
            "command": "python -m tests.bench.scale",
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start",
            "sizes": asdict(sizes),
        }

    def grow(self) -> None:
        """Make the cluster and start the operator in it."""
        sizes = self._sizes
        with self._timed("nodes_s", f"{sizes.nodes} nodes"):
            self._cluster.create_nodes()
        running = sizes.pods - sum(sizes.bursts)
        with self._timed("pods_s", f"{running} running Pods"):
            self._cluster.create_running(running, _BASE.digest)
        self._datasets = self._cluster.create_datasets(sizes.datasets, sizes.holders)
        for node in self._cluster.nodes[: sizes.used]:
            self._cluster.held[node].append(_BASE.digest)
        held = self._cluster.write_held(self._stack.state / "held.json")
        self._stack.audit.record_only(control_plane.OPERATOR_USER)
        self._stack.cluster.control_plane.stop_apiserver()
        self._stack.cluster.control_plane.start_apiserver()
        for first in range(0, sizes.nodes, stub_agents.AGENT_NODES):
            last = min(sizes.nodes, first + stub_agents.AGENT_NODES)
            command = stub_agents.command(self._stack.temporal_address, first, last, held)
            self._stack.processes.spawn(f"agent-{first}", command, dict(os.environ))
        with self._timed("sync_s", "operator"):
            self._stack.start_product()
        self._memory = Memory(self._stack.operator.pid)
        self._clock = Clock(self._stack.kubeconfig, _NAMESPACE, control_plane.SEATS_NAMESPACE)

    async def measure(self) -> None:
        client = await Client.connect(self._stack.temporal_address, namespace=names.TEMPORAL_NAMESPACE)
        await self._reconcile(client, "first")  # after the one that the operator begins with
        self.found["watching_mib"] = self._memory.now()
        with self._timed("entities_s", "entities"):
            started = await self._cluster.start_entities(client, [_BASE, *self._datasets])
            some = names.dataset_on_node_id(self._cluster.nodes[0], stub_agents.CACHE_ID, _BASE.digest)
            await scale_measures.answers(client, some)
            await scale_measures.until_count(client, started, _PATIENCE_S, names.DATASET_ON_NODE)
        self.found["entities"] = started
        await self._reconcile(client, "at rest")
        self.found["bursts"] = []
        for number, size in enumerate(self._sizes.bursts):
            burst = await self._burst(client, number, size)
            self.found["bursts"].append(burst)
            self._say(f"burst: {burst}")
        await self._reconcile(client, "after the bursts")
        if self._sizes.waiting:
            await self._wait_for_gpus(client)

    async def _burst(self, client: Client, number: int, size: int) -> dict[str, Any]:
        """Hits at once; a reconcile runs through the greatest of them."""
        before, requests = cpu.seconds(self._stack.processes), self._requests.count()
        self._memory.forget_peak()
        began = time.time()
        uris = [snapshot.uri for snapshot in self._datasets]
        made = await asyncio.to_thread(self._create, f"burst-{number}", size, uris, 1)
        created = time.time() - began
        if size == self._sizes.gated:
            await self._reconcile(client, "through the greatest burst", forget=False)
        await asyncio.to_thread(self._clock.wait, list(made), "bound", _PATIENCE_S)
        peak = self._memory.peak()
        await scale_measures.until_count(client, 0, _PATIENCE_S, names.WARM_POD)
        times = {uid: self._clock.times[uid] for uid in made}
        seconds = max(each.bound for each in times.values()) - began
        started = await scale_measures.starts(client, set(made.values()))
        since_sent = [started[workflow] - times[uid].sent for uid, workflow in made.items()]
        lags = [started[workflow] - times[uid].exists for uid, workflow in made.items()]
        uri_of = {uid: uris[index % len(uris)] for index, uid in enumerate(made)}
        warm = sum(self._holds(times[uid].node, uri_of[uid]) for uid in made)
        spent = self._requests.count() - requests
        return {
            "pods": size,
            "created_s": round(created, 1),
            "bound_s": round(seconds, 1),
            "pods_per_s": round(size / seconds, 1),
            "bound_p50_s": percentile([each.bound - each.sent for each in times.values()], 0.5),
            "bound_p99_s": percentile([each.bound - each.sent for each in times.values()], 0.99),
            "sent_to_start_p99_s": percentile(since_sent, 0.99),
            "lag_p50_s": percentile(lags, 0.5),
            "lag_p99_s": percentile(lags, 0.99),
            "requests_per_pod": round(sum(spent.values()) / size, 2),
            "requests": {name: round(times / size, 2) for name, times in spent.most_common(8)},
            "warm": warm,
            "warm_share": round(warm / size, 4),
            "operator_mib": self._memory.now(),
            "operator_peak_mib": peak,
            "cpu_ms_per_pod": self._cpu(before, size),
        }

    async def _wait_for_gpus(self, client: Client) -> None:
        """Pods that no node can take: what it costs that they wait, and that a Pod of them is deleted."""
        size, found = self._sizes.waiting, {}
        self.found["waiting"] = found
        before = self._memory.now()
        began = time.time()
        uris = [snapshot.uri for snapshot in self._datasets]
        made = await asyncio.to_thread(self._create, "waits", size, uris, _GPUS * 2)
        await scale_measures.until_count(client, size, 3 * _PATIENCE_S, names.WARM_POD, "WaitingForCapacity")
        found |= {"pods": size, "until_all_wait_s": round(time.time() - began, 1)}
        found |= {"operator_mib_before": before, "operator_mib": self._memory.now()}
        self._say(f"waiting: {found}")
        requests, spent, began = self._requests.count(), cpu.seconds(self._stack.processes), time.time()
        found["reconciles"] = [
            await self._reconcile(client, f"while {size} Pods wait") for _ in range(self._sizes.reconciles)
        ]
        found["wait_s"] = round(time.time() - began, 1)
        found["requests"] = dict((self._requests.count() - requests).most_common(8))
        found["cpu_s"] = {name: round(value * size / 1e3, 1) for name, value in self._cpu(spent, size).items()}
        found["operator_mib_after"] = self._memory.now()
        found["history_events_p99"] = percentile(
            [await scale_measures.history_length(client, each) for each in list(made.values())[:_GONE]],
            0.99,
        )
        lags = await self._delete(client, dict(list(made.items())[:_GONE]))
        found |= {"gone_lag_p50_s": percentile(lags, 0.5), "gone_lag_p99_s": percentile(lags, 0.99)}
        self._say(f"waited: {found}")

    async def _delete(self, client: Client, made: dict[str, str]) -> list[float]:
        """Seconds from the deletion of each Pod to the signal that tells its workflow."""
        at = {}
        for workflow in made.values():
            at[workflow] = time.time()
            await asyncio.to_thread(self._pods.delete, names.parse_warm_pod_id(workflow).pod)
        await scale_measures.until_count(client, self._sizes.waiting - len(made), _PATIENCE_S, names.WARM_POD)
        told = {each: await scale_measures.signalled(client, each, "pod_gone") for each in made.values()}
        return [when - at[workflow] for workflow, when in told.items() if when is not None]

    def _create(self, prefix: str, size: int, uris: list[str], gpus: int) -> dict[str, str]:
        """Uid -> workflow id of new Pods, in turn for each dataset."""

        def create(number: int) -> tuple[str, str]:
            name = f"{prefix}-{number:05}"
            pod = gated(name, uris[number % len(uris)], gpus=gpus)
            sent = time.time()
            uid = str(self._pods.create(pod)["metadata"]["uid"])
            self._clock.sent(uid, sent, time.time())
            return uid, names.warm_pod_id(_NAMESPACE, name, uid)

        with ThreadPoolExecutor(_CREATORS) as pool:
            return dict(pool.map(create, range(size)))

    async def _reconcile(self, client: Client, when: str, *, forget: bool = True) -> dict[str, Any]:
        run = await scale_measures.reconcile(client, self._memory)
        found = {"when": when, **asdict(run), "load": round(os.getloadavg()[0], 1)}
        self.found.setdefault("reconciles", []).append(found)
        self._say(f"reconcile: {found}")
        return found

    def _holds(self, node: str, uri: str) -> bool:
        digest = next(snapshot.digest for snapshot in self._datasets if snapshot.uri == uri)
        return digest in self._cluster.held[node]

    def _cpu(self, before: dict[str, float], size: int) -> dict[str, float]:
        spent = cpu.between(before, cpu.seconds(self._stack.processes), size)
        return {name: round(value, 1) for name, value in spent.items()}

    @contextmanager
    def _timed(self, key: str, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.found[key] = round(time.monotonic() - began, 1)
        self._say(f"{what}: {self.found[key]} s")

    def _say(self, line: str) -> None:
        self._console.print(f"{datetime.now(UTC):%H:%M:%S} load {os.getloadavg()[0]:.1f}  {line}")
        self.write()

    def write(self) -> None:
        self.found["seconds"] = round(time.monotonic() - self._began)
        _OUT.mkdir(parents=True, exist_ok=True)
        (_OUT / "scale.json").write_text(json.dumps(self.found, indent=1) + "\n")


def main() -> int:
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    sizes = Sizes.from_environment()
    if refusal := sizes.refusal():
        console.print(f"error: {refusal}")
        return 2
    with (
        tempfile.TemporaryDirectory() as folder,
        # Without Leases: 5,000 nodes renew 500 of them a second, which is more work than all that is measured.
        Stack(
            node_count=0, with_product=False, node_lease_s=0, state=Path(folder) / "stack", report=console.print
        ) as stack,
    ):
        bench = Bench(stack, sizes, console)
        try:
            bench.grow()
            asyncio.run(bench.measure())
        finally:
            bench.write()
    console.print(_burst_table(bench.found))
    console.print(_reconcile_table(bench.found))
    return 0


def _burst_table(found: dict[str, Any]) -> Table:
    table = Table(title="bursts of hits", title_justify="left")
    keys = ("pods", "pods_per_s", "bound_p50_s", "bound_p99_s", "lag_p99_s", "requests_per_pod", "warm_share")
    keys += ("operator_mib", "operator_peak_mib")
    for key in keys:
        table.add_column(key, justify="right")
    for burst in found["bursts"]:
        table.add_row(*(str(burst[key]) for key in keys))
    return table


def _reconcile_table(found: dict[str, Any]) -> Table:
    table = Table("when", "seconds", "peak MiB", "load", "result", title="reconciles", title_justify="left")
    for run in found["reconciles"]:
        table.add_row(
            run["when"], str(run["seconds"]), str(run["peak_mib"]), str(run["load"]), json.dumps(run["result"])
        )
    return table


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Temporal's SDK core crashes at interpreter exit now and then.
    os._exit(code)
