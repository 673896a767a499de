"""`python -m tests.bench.page`: what the operator's page costs with 5,000 nodes and 500 Pods that warm.

The page's own code over made-up sources: 500 Pods whose progress changes each second (an operator reads fifty of them
in a second), 5,000 nodes, 20,000 snapshots, a hundred releases, and 10,000 Pods that run. Viewers are a process of
their own. Beside them an event loop does short pieces of Python, as hits make an operator do, and says how long each
takes.
What real hits cost beside 50 viewers: `python -m tests.bench.hits viewers`.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console
from rich.table import Table

from kube_cache import names
from kube_cache.contracts.common import Warming
from kube_cache.kube.nodes import NodeFacts
from kube_cache.kube.pods import PodFacts, pod_facts
from kube_cache.kube.warming import warming_mark
from tests.watcher.page import made
from watcher.page import render
from watcher.page.facts import Sources
from watcher.page.hub import Hub
from watcher.page.model import Node
from watcher.page.server import PageServer
from watcher.page.view import Query

TOTAL = 140 << 30
PIECE = 20_000
"""Turns of a loop: about a millisecond of Python, as an operator's event loop does between two waits."""


def pod(number: int, *, running: bool) -> PodFacts:
    node = f"gpu-{number % 5000:04}"
    mark = warming_mark(Warming(node, "disk", ["aa"], TOTAL))
    digest = f"{number % 5000:08x}{1:056x}"
    annotations = {names.DATASET_ANNOTATION: "s3://models/gpt"}
    annotations |= (
        {names.NODE_ANNOTATION: node, names.CACHE_ID_ANNOTATION: "disk", names.SNAPSHOT_ANNOTATION: digest}
        if running
        else {names.WARMING_ANNOTATION: mark}
    )
    item: dict[str, Any] = {
        "metadata": {
            "namespace": "training", "name": f"worker-{number:05}", "uid": f"uid-{number}", "resourceVersion": "1",
            "creationTimestamp": "2027-01-15T08:00:00Z", "annotations": annotations,
            "labels": {names.MANAGED_LABEL: "true"} if running else {},
        },
        "spec": {"nodeName": node, "containers": []} if running else {"schedulingGates": [{"name": names.GATE}], "containers": []},
        "status": {"phase": "Running" if running else "Pending"},
    }  # fmt: skip
    found = pod_facts(item)
    assert found is not None
    return found


def sources(node_count: int, warm_count: int) -> Sources:
    pods = [pod(number, running=number >= warm_count) for number in range(warm_count + 2 * node_count)]
    nodes = [NodeFacts(f"gpu-{number:04}") for number in range(node_count)]
    known: list[Node] = made.nodes(node_count)
    held = SimpleNamespace(
        look=lambda: {node.name: list(node.holdings) for node in known}, at=time.time(), error="", is_cut=False
    )

    def progress() -> Any:
        now = time.time()
        return {
            one.ref.uid: SimpleNamespace(
                message="warms", done_bytes=int((now * 1e9 + at * 1e8) % TOTAL), bytes_per_s=1e9
            )
            for at, one in enumerate(pods[:warm_count])
        }

    shown = made.facts(node_count=1)
    timeline: Any = SimpleNamespace(releases=lambda: shown.releases, hours=lambda: shown.hours, since=shown.since)
    return Sources(
        pods=lambda: list(pods), nodes=lambda: list(nodes), progress=progress, disks=dict, holdings=held,  # type: ignore[arg-type]
        timeline=timeline, waits_for=str, is_leading=lambda: True, holder=str,
    )  # fmt: skip


@contextmanager
def viewers(port: int, count: int) -> Iterator[list[int]]:
    """Yield the bytes that they have read, told each second."""
    if not count:
        yield [0]
        return
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.page_viewers", str(port), str(count)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    read = [0]

    def listen() -> None:
        for line in process.stdout or ():
            read[0] = int(line)

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield read
    finally:
        process.kill()
        process.wait()
        thread.join()
        process.stdout.close()


async def pieces(seconds: float) -> list[float]:
    """Do short pieces of work with pauses, as hits make them; return how long each took, milliseconds."""
    took, ends = [], time.monotonic() + seconds
    while time.monotonic() < ends:
        began = time.perf_counter()
        for _ in range(PIECE):
            pass
        took.append(1e3 * (time.perf_counter() - began))
        await asyncio.sleep(0.004)
    return took


def others_cpu_s() -> float:
    """CPU seconds of all threads but this one, which does the work that the page must not delay."""
    return time.process_time() - time.thread_time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--warms", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    console = Console(width=120, highlight=False)
    console.print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {arguments.nodes} nodes, {arguments.warms} warms"
    )
    taken = sources(arguments.nodes, arguments.warms)
    table = Table("first paint", "ms", "bytes", "bytes, gzip")
    for name in ("of a process that has not made one yet", "the next, all rows new", "the next, rows known"):
        if name.endswith("new"):
            for each in (render._warm, render._node, render._dataset, render._release):  # type: ignore[attr-defined]
                each.cache_clear()
        began = time.perf_counter()
        html = render.page(render.frame(taken.take(), Query()), Query(), live=True).encode()
        table.add_row(
            name, f"{1e3 * (time.perf_counter() - began):.0f}", f"{len(html):,}", f"{len(gzip.compress(html, 3)):,}"
        )
    console.print(table)
    table = Table(
        "viewers", "CPU s a minute", "CPU ms a minute, each", "KiB a minute, each", "looks", "work, ms", "p95"
    )
    for count in (0, 1, 10, 50):
        hub = Hub(taken.take, max_viewers=100)
        with PageServer(":0", hub) as server, viewers(server.port, count) as read:
            time.sleep(2)
            cpu, bytes_before, looks = others_cpu_s(), read[0], hub.looks
            took = asyncio.run(pieces(arguments.seconds))
            spent = (others_cpu_s() - cpu) * 60 / arguments.seconds
            sent, looks = (read[0] - bytes_before) * 60 / arguments.seconds, hub.looks - looks
        table.add_row(
            str(count), f"{spent:.2f}", f"{1e3 * spent / count:.0f}" if count else "", f"{sent / 1024 / count:.0f}" if count else "",
            str(looks), f"{statistics.mean(took):.2f}", f"{statistics.quantiles(took, n=20)[-1]:.2f}",
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    main()
