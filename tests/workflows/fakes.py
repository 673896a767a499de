"""Scripted activities under the real names: what the workflows call, without a cluster, a disk or a network.

Each records its calls; a test changes an answer by setting an attribute. The watcher's part (seat_bound, pod_bound) is
played as well: the event is given to the activity that waits for it (`sees`), else it comes by signal.
"""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from activities.cluster.join_dataset import JoinDataset
from kube_cache import names
from kube_cache.contracts.common import Consumer, Snapshot
from kube_cache.contracts.node import (
    AwaitDiskInput,
    CheckDiskInput,
    CheckDiskResult,
    DiskSnapshot,
    EvictInput,
    EvictResult,
    JoinInput,
    StreamInput,
    StreamProgress,
    StreamResult,
    UnpinInput,
)
from kube_cache.contracts.reconcile import (
    ClusterState,
    FindBoundPodsInput,
    FindBoundPodsResult,
    ReconcileDiskInput,
    ReconcileDiskResult,
)
from kube_cache.contracts.warm_pod import (
    CreateSeatInput,
    CreateSeatResult,
    DeleteSeatInput,
    PatchGateInput,
    PatchGateResult,
    PodBound,
    PublishProgressInput,
    ReportInput,
    ResolveInput,
    ResolveResult,
    SeatBound,
    SeatUnschedulable,
)

DIGEST = "d" * 64


class World:
    """The outside as a workflow sees it. Seats are bound to the first of `nodes` that is not excluded."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.calls: list[tuple[str, Any]] = []
        self.nodes = ["node-1", "node-2"]
        self.complete: set[str] = set()
        self.error: dict[str, list[Exception]] = {}
        self.cache_id = "disk-1"
        self.cluster: ClusterState | None = None
        self.bound: list[Consumer] = []
        self.bind_pod = True
        self.holders: dict[str, list[str]] = {}
        self.seat_binds = True
        self.sees = True
        self.streaming = asyncio.Event()
        self.finish_stream = asyncio.Event()
        self.finish_stream.set()
        self.disk_takes_it = asyncio.Event()
        self.disk_takes_it.set()

    def count(self, name: str) -> int:
        return sum(called == name for called, _ in self.calls)

    def args(self, name: str) -> list[Any]:
        return [arg for called, arg in self.calls if called == name]

    def phases(self) -> list[str]:
        return [arg.phase for arg in self.args(names.REPORT_PHASE)]

    def _enter(self, name: str, arg: Any) -> None:
        self.calls.append((name, arg))
        failures = self.error.get(name)
        if failures:
            raise failures.pop(0)

    def operator_activities(self) -> list[Any]:
        join = JoinDataset(self.client)

        @activity.defn(name=names.RESOLVE_DATASET)
        async def resolve(arg: ResolveInput) -> ResolveResult:
            self._enter(names.RESOLVE_DATASET, arg)
            return ResolveResult([Snapshot(arg.dataset, DIGEST, 3, 3000)])

        @activity.defn(name=names.CREATE_SEAT)
        async def create_seat(arg: CreateSeatInput) -> CreateSeatResult:
            self._enter(names.CREATE_SEAT, arg)
            name = names.seat_name(arg.pod.uid, arg.number)
            seen = ""
            node = next((node for node in self.nodes if self.seat_binds and node not in arg.exclude_nodes), "")
            told = self.client.get_workflow_handle(arg.workflow_id)
            if node and arg.wait_s and self.sees:
                seen = node
            elif node:
                await told.signal("seat_bound", SeatBound(name, node))
            elif self.seat_binds:
                await told.signal("seat_unschedulable", SeatUnschedulable(name, "0/2 nodes are available"))
            return CreateSeatResult(name, gpus=8, node=seen, holders=self.holders)

        @activity.defn(name=names.DELETE_SEAT)
        async def delete_seat(arg: DeleteSeatInput) -> None:
            self._enter(names.DELETE_SEAT, arg)

        @activity.defn(name=names.PATCH_GATE)
        async def patch_gate(arg: PatchGateInput) -> PatchGateResult:
            self._enter(names.PATCH_GATE, arg)
            if arg.seat is not None:
                self._enter(names.DELETE_SEAT, arg.seat)
            if self.bind_pod and self.sees and arg.wait_s:
                return PatchGateResult("released", arg.node or "node-9")
            if self.bind_pod:
                workflow_id = names.warm_pod_id(arg.pod.namespace, arg.pod.name, arg.pod.uid)
                await self.client.get_workflow_handle(workflow_id).signal("pod_bound", PodBound(arg.node or "node-9"))
            return PatchGateResult("released")

        @activity.defn(name=names.REPORT_PHASE)
        async def report_phase(arg: ReportInput) -> None:
            self._enter(names.REPORT_PHASE, arg)

        @activity.defn(name=names.PUBLISH_PROGRESS)
        async def publish_progress(arg: PublishProgressInput) -> None:
            self._enter(names.PUBLISH_PROGRESS, arg)
            while True:
                activity.heartbeat()
                await asyncio.sleep(0.1)

        @activity.defn(name=names.JOIN_DATASET)
        async def join_dataset(arg: JoinInput) -> None:
            self._enter(names.JOIN_DATASET, arg)
            await join.join_dataset(arg)

        @activity.defn(name=names.COLLECT_CLUSTER_STATE)
        async def collect_cluster_state() -> ClusterState:
            self._enter(names.COLLECT_CLUSTER_STATE, None)
            assert self.cluster is not None
            return self.cluster

        @activity.defn(name=names.FIND_BOUND_PODS)
        async def find_bound_pods(arg: FindBoundPodsInput) -> FindBoundPodsResult:
            self._enter(names.FIND_BOUND_PODS, arg)
            return FindBoundPodsResult({digest: self.bound for digest in arg.digests if self.bound})

        return [
            collect_cluster_state,
            find_bound_pods,
            resolve,
            create_seat,
            delete_seat,
            patch_gate,
            report_phase,
            publish_progress,
            join_dataset,
        ]

    def node_activities(self) -> list[Any]:
        @activity.defn(name=names.CHECK_DISK)
        async def check_disk(arg: CheckDiskInput) -> CheckDiskResult:
            self._enter(names.CHECK_DISK, arg)
            snapshots = [DiskSnapshot(s.digest, s.digest in self.complete, 0) for s in arg.snapshots]
            return CheckDiskResult("disk-1", snapshots)

        @activity.defn(name=names.STREAM_DATASET)
        async def stream_dataset(arg: StreamInput) -> StreamResult:
            self._enter(names.STREAM_DATASET, arg)
            self.streaming.set()
            while not self.finish_stream.is_set():
                activity.heartbeat(StreamProgress("fetching", 10, 3000))
                await asyncio.sleep(0.05)
            self.complete.add(arg.snapshot.digest)
            return StreamResult(arg.snapshot.digest, arg.snapshot.bytes, arg.snapshot.bytes, 0.5, "full-object")

        @activity.defn(name=names.UNPIN)
        async def unpin(arg: UnpinInput) -> None:
            self._enter(names.UNPIN, arg)

        @activity.defn(name=names.EVICT)
        async def evict(arg: EvictInput) -> EvictResult:
            self._enter(names.EVICT, arg)
            self.complete.discard(arg.digest)
            return EvictResult(3000)

        @activity.defn(name=names.RECONCILE_DISK)
        async def reconcile_disk(arg: ReconcileDiskInput) -> ReconcileDiskResult:
            self._enter(names.RECONCILE_DISK, arg)
            return ReconcileDiskResult(self.cache_id, sorted(self.complete), unpinned=1)

        @activity.defn(name=names.AWAIT_DISK)
        async def await_disk(arg: AwaitDiskInput) -> None:
            self._enter(names.AWAIT_DISK, arg)
            if arg.needed_bytes and not self.disk_takes_it.is_set():
                raise ApplicationError("no room yet", type="NoRoomYet")

        return [check_disk, stream_dataset, unpin, evict, reconcile_disk, await_disk]


def refused(kind: str, message: str = "scripted", **details: int) -> ApplicationError:
    return ApplicationError(message, details, type=kind, non_retryable=True)


def failed(kind: str, message: str = "scripted") -> ApplicationError:
    """A retryable failure."""
    return ApplicationError(message, type=kind)
