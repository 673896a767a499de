"""Memory of an operator's watch of Pods in a large cluster: `python -m tests.bench.watch_memory`.

20,000 Pods of 8 KiB, of which our gate holds 2,000 with 26 KiB each, go through the reflector and the watcher, as a
server that streams its lists sends them. The Pods are made one by one, so that the process holds what the watch keeps
and nothing else. A program, not a test: prints the figures, and tests/watcher/test_memory.py asks them of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kube_cache import names
from kube_cache.kube.client import KubeClient
from tests.watcher.fakes import FakeKube, FakeStarter
from watcher.pods import PodWatcher
from watcher.watches import Watches

_VARIABLES = {True: 200, False: 50}
"""Environment variables of a gated Pod's container, and of another's: its JSON has some 26 or 8 KiB."""


_MARK = 10_000_000


def pod(number: int, *, gated: bool) -> dict[str, Any]:
    name = f"train-{number}"
    env = [{"name": f"VARIABLE_{n:03}", "value": f"value-{number}-{n}"} for n in range(_VARIABLES[gated])]
    managed = [
        {
            "manager": "kubectl",
            "operation": "Update",
            "fieldsV1": {
                "f:spec": {"f:containers": {f'k:{{"name":"VARIABLE_{n:03}"}}': {".": {}, "f:value": {}, "f:name": {}}}}
            },
        }
        for n in range(_VARIABLES[gated] // 2)
    ]
    meta: dict[str, Any] = {
        "name": name,
        "namespace": "ml",
        "uid": f"00000000-0000-0000-0000-{number:012}",
        "resourceVersion": str(number + 1),
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "managedFields": managed,
    }
    if gated:
        meta["annotations"] = {names.DATASET_ANNOTATION: f"s3://models/gpt-{number % 50}"}
    return {
        "metadata": meta,
        "spec": {
            "schedulingGates": [{"name": names.GATE}] if gated else [],
            "containers": [{"name": "train", "image": "registry.example/train:1", "env": env}],
        },
        "status": {"phase": "Pending"},
    }


class Streaming:
    """The Kubernetes API of a cluster of such Pods; the other watches see nothing."""

    def __init__(self, pods: int, gated: int) -> None:
        self._pods, self._gated = pods, gated
        self.sent_bytes = 0

    def watch_lines(self, path: str, query: dict[str, str], *, silence_s: float) -> Iterator[bytes]:
        if "sendInitialEvents" not in query:
            threading.Event().wait()  # a watch without events, until the process ends
        if query.get("fieldSelector") == "status.phase=Pending":
            # One text of each kind, in which the number is replaced: to make them takes longer than to read them.
            texts = [json.dumps({"type": "ADDED", "object": pod(_MARK, gated=gated)}) for gated in (False, True)]
            for number in range(self._pods):
                text = texts[number % (self._pods // self._gated) == 0].replace(str(_MARK), str(number + _MARK))
                self.sent_bytes += len(text)
                yield text.encode()
        meta = {"resourceVersion": "99999999", "annotations": {"k8s.io/initial-events-end": "true"}}
        yield json.dumps({"type": "BOOKMARK", "object": {"metadata": meta}}).encode()


def rss_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


async def measure(pods: int, gated: int) -> dict[str, float]:
    server: Any = Streaming(pods, gated)
    client: KubeClient = server
    kube: Any = FakeKube()
    starter: Any = FakeStarter()
    watcher = PodWatcher(kube, starter)
    before = rss_mib()
    watches = Watches(client, watcher, seat_namespace="seats")
    watches.start(threading.Event())
    while not (not watches.unsynced() and len(watcher.gated_pods()) == gated):  # noqa: ASYNC110 -- a bench may poll
        await asyncio.sleep(0.05)
    raw = watches.get_gated_pod(pod(_MARK, gated=True)["metadata"]["uid"])
    return {
        "pods": pods,
        "gated": gated,
        "KiB_per_pod": round(server.sent_bytes / pods / 1024, 1),
        "rss_before_mib": round(before, 1),
        "rss_mib": round(rss_mib(), 1),
        "readable": float(raw is not None and len(raw["spec"]["containers"][0]["env"]) == _VARIABLES[True]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=20_000)
    parser.add_argument("--gated", type=int, default=2_000)
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(measure(arguments.pods, arguments.gated))))


if __name__ == "__main__":
    main()
