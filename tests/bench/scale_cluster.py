"""The large cluster around `tests.bench.scale`: nodes, Pods that run, datasets and their holders.

What a cluster has before the measured Pods come is put there by hand, in a few minutes: nodes through the API server
and kwok, Pods that are bound from the start, half of them with the receipt of an earlier release, and one entity on
each node, as a warm leaves it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from temporalio.client import Client
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from kube_cache import names
from kube_cache.contracts.common import Snapshot
from kube_cache.contracts.node import DatasetOnNodeInput, DatasetState
from kube_cache.dataset.uri import parse_datasets
from kube_cache.kube.pods import receipt_annotations
from kube_cache.origin.listing import list_dataset
from kube_cache.origin.s3 import Origins
from kube_cache.origin.settings import OriginSettings
from kube_cache.temporal.search_attributes import initial
from tests.bench.stub_agents import CACHE_ID, node_name
from tools.stack import Stack, nodes, waiting
from tools.stack.api import ApiError, Document
from tools.stack.buckets import Bucket
from tools.stack.pods import CONTAINER

BACKGROUND = "background"
"""Namespace of the Pods that run from the start."""
_THREADS = 24
_STARTS_AT_ONCE = 64
_PAGE = 500

T = TypeVar("T")


class Cluster:
    """Grows a stack that was started without nodes."""

    def __init__(self, stack: Stack, nodes_wanted: int, gpus: int) -> None:
        self._stack = stack
        self._gpus = gpus
        self.nodes = [node_name(number) for number in range(nodes_wanted)]
        self.held: dict[str, list[str]] = {node: [] for node in self.nodes}
        """Node -> digests that its disk holds."""

    def create_nodes(self) -> None:
        _in_threads(lambda node: self._stack.api.create(nodes.document(node, self._gpus)), self.nodes)
        waiting.true(self._are_ready, f"{len(self.nodes)} nodes are Ready", 600, poll_s=2)

    def _are_ready(self) -> bool:
        ready, more = 0, ""
        while True:
            page = self._stack.api.get("/api/v1/nodes", limit=_PAGE, **({"continue": more} if more else {}))
            ready += sum(map(nodes.is_ready, page["items"]))
            more = page["metadata"].get("continue", "")
            if not more:
                return ready == len(self.nodes)

    def create_running(self, pods: int, digest: str) -> None:
        """Create Pods that run from the start, evenly over the nodes; every second one was released by us."""
        self._stack.cluster.create_namespace(BACKGROUND, exempt=True)
        path = f"/api/v1/namespaces/{BACKGROUND}/pods"
        with _receipts_unguarded(self._stack):

            def create(number: int) -> None:
                node = self.nodes[number // 2 % len(self.nodes)]
                pod = _running(f"run-{number:05}", node, digest if number % 2 else "")
                # The policy stays in effect for a moment after its binding is gone.
                waiting.true(lambda: _taken(self._stack, path, pod), "a Pod is taken", 30)

            _in_threads(create, range(pods))
        waiting.true(self._all_run, f"{pods} Pods are Running", 600, poll_s=5)

    def _all_run(self) -> bool:
        page = self._stack.api.get(
            f"/api/v1/namespaces/{BACKGROUND}/pods", fieldSelector="status.phase!=Running", limit=1
        )
        return not page["items"]

    def create_datasets(self, number: int, holders: int) -> list[Snapshot]:
        """Upload so many datasets, and choose for each the nodes that hold it, no node for two of them."""
        os.environ.update(self._stack.user_environment())
        bucket = Bucket(self._stack.s3, "scale")
        origins = Origins(OriginSettings(), process="bench")
        found = []
        chosen = iter(random.Random(1).sample(self.nodes, number * holders))
        for each in range(number):
            bucket.put(f"set-{each:03}/data", f"dataset {each}".encode())
            (uri,) = parse_datasets(bucket.uri(f"set-{each:03}/"))
            manifest = list_dataset(origins.of(uri.scheme), uri)
            snapshot = Snapshot(str(manifest.uri), manifest.digest, len(manifest.objects), manifest.total_bytes)
            found.append(snapshot)
            for node in itertools.islice(chosen, holders):
                self.held[node].append(snapshot.digest)
        return found

    def write_held(self, path: Path) -> Path:
        path.write_text(json.dumps(self.held))
        return path

    async def start_entities(self, client: Client, snapshots: list[Snapshot]) -> int:
        """Start the entity of each snapshot that a node holds."""
        by_digest = {snapshot.digest: snapshot for snapshot in snapshots}
        wanted = [(node, by_digest[digest]) for node, digests in self.held.items() for digest in digests]
        slots = asyncio.Semaphore(_STARTS_AT_ONCE)

        async def start(node: str, snapshot: Snapshot) -> None:
            async with slots:
                await _insist(lambda: _start_entity(client, node, snapshot))

        await asyncio.gather(*(start(*each) for each in wanted))
        return len(wanted)


async def _start_entity(client: Client, node: str, snapshot: Snapshot) -> None:
    await client.start_workflow(
        names.DATASET_ON_NODE,
        DatasetOnNodeInput(node, CACHE_ID, snapshot, state=DatasetState(ready=True)),
        id=names.dataset_on_node_id(node, CACHE_ID, snapshot.digest),
        task_queue=names.OPERATOR_QUEUE,
        search_attributes=initial(phase="Ready", dataset=snapshot.uri, node=node),
    )


async def _insist(attempt: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await attempt()
            return
        except WorkflowAlreadyStartedError:  # by an attempt whose answer came too late
            return
        except RPCError:  # Temporal is busy
            await asyncio.sleep(1)


def _running(name: str, node: str, digest: str) -> Document:
    """digest: of the dataset that the Pod was released with; empty for a Pod without one."""
    meta: Document = {"name": name}
    if digest:
        meta["labels"] = {names.MANAGED_LABEL: "true"}
        meta["annotations"] = {
            names.DATASET_ANNOTATION: "s3://scale/base",
            **receipt_annotations(node, CACHE_ID, [digest]),
        }
    env = [{"name": f"VARIABLE_{number:02}", "value": "x" * 40} for number in range(20)]
    container = {**CONTAINER, "env": env, "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}
    spec = {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def _taken(stack: Stack, path: str, pod: Document) -> bool:
    try:
        stack.api.request("POST", path, pod)
    except ApiError as error:
        if error.status == 409:
            return True
        if "kube-cache-receipts" in str(error):
            return False
        raise
    return True


@contextmanager
def _receipts_unguarded(stack: Stack) -> Iterator[None]:
    """Without the policy that leaves receipts to the operator."""
    path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
    binding = stack.api.get(f"{path}/kube-cache-receipts")
    stack.api.delete(f"{path}/kube-cache-receipts")
    try:
        yield
    finally:
        binding["metadata"] = {"name": "kube-cache-receipts", "labels": binding["metadata"].get("labels") or {}}
        stack.api.request("POST", path, binding)


def _in_threads(work: Callable[[T], object], things: Iterable[T]) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(work, things):
            pass
