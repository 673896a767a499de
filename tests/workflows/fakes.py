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

from activities.cluster import shards
from activities.cluster.group import GroupActivities
from activities.cluster.join_dataset import JoinDataset
from activities.cluster.plan_prefetch import PlanPrefetch
from activities.cluster.start_prefetch import StartPrefetch
from activities.cluster.survey import Survey
from kube_cache import names
from kube_cache.contracts.common import BannedNeighbour, PodView, Snapshot
from kube_cache.contracts.forecast import (
    CarryOutInput,
    ForecastRecord,
    MadeForecast,
    MakeForecastInput,
    PlacePlaceholdersInput,
)
from kube_cache.contracts.group import FindGroupInput, FindGroupResult, JoinGroupInput
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
from kube_cache.contracts.prefetch import (
    HoldPrefetchedInput,
    HoldPrefetchedResult,
    PlanPrefetchInput,
    PrefetchPlan,
    ReleasePrefetchedInput,
    ScheduledPrefetchResult,
    StartPrefetchInput,
)
from kube_cache.contracts.reconcile import (
    ReconcileDiskInput,
    ReconcileDiskResult,
    SettleInput,
    SettleResult,
    ShardInput,
    ShardPlan,
    SurveyRef,
    SurveyResult,
    TellResult,
)
from kube_cache.contracts.warm_pod import (
    CreateSeatInput,
    CreateSeatResult,
    DeleteSeatInput,
    PatchGateInput,
    PatchGateResult,
    PodBound,
    PodState,
    ReadPodInput,
    ReportInput,
    ResolveInput,
    ResolveResult,
    SeatBound,
    SeatUnschedulable,
)
from kube_cache.kube.nodes import NodeFacts
from kube_cache.telemetry import spans

DIGEST = "d" * 64


class World:
    """The outside as a workflow sees it. Seats are bound to the first of `nodes` that is not excluded."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.calls: list[tuple[str, Any]] = []
        self.nodes = ["node-1", "node-2"]
        self.complete: set[str] = set()
        self.released: list[PatchGateInput] = []
        """The patches that removed a gate."""
        self.fetched: list[str] = []
        """Digests of the snapshots whose download came to its end."""
        self.error: dict[str, list[Exception]] = {}
        self.cache_id = "disk-1"
        self.seats: dict[str, str] = {}
        """Nodes of the seats that are bound, by name."""
        self.pinned: set[str] = set()
        """UIDs of the Pods that have an old pin on each disk."""
        self.survey = Survey()
        """What the reconcile sees of the cluster."""
        self.bind_pod = True
        self.holders: dict[str, list[str]] = {}
        self.pods: dict[str, PodState] = {}
        """The Pods as the API server has them, by uid; a Pod that is not named is gated and wants `dataset`."""
        self.dataset = ""
        self.digest = DIGEST
        """What the source holds."""
        self.group = FindGroupResult(0)
        """What the operator's watches know of each group."""
        self.held: dict[str, asyncio.Event] = {}
        """Activities that are entered and go on when their event is set, by name."""
        self.verified = "full-object"
        self.neighbour_bytes, self.neighbours = 0, 0
        """Of each download: what other nodes sent, and how many did."""
        self.banned: list[BannedNeighbour] = []
        self.seat_binds = True
        self.sees = True
        self.done_bytes = 10
        self.resolves = 0
        self.streaming = asyncio.Event()
        self.finish_stream = asyncio.Event()
        self.finish_stream.set()
        self.kube_nodes: dict[str, NodeFacts] = {}
        """The cluster's nodes for a prefetch, beside `nodes`, which have no labels."""
        self.marks: dict[tuple[str, str], float] = {}
        """(Node, digest) -> end of what a prefetch keeps."""
        self.on_disk: dict[str, set[str]] = {}
        """Node -> digests; only prefetches tell nodes apart."""
        self.made = MadeForecast(ForecastRecord("ok"))
        """What the forecast says next."""
        self.disk_takes_it = asyncio.Event()
        self.disk_takes_it.set()

    def count(self, name: str) -> int:
        return sum(called == name for called, _ in self.calls)

    def args(self, name: str) -> list[Any]:
        return [arg for called, arg in self.calls if called == name]

    def patch(self) -> PatchGateInput:
        """The one release. It may be asked for again, when a workflow task is done again, even in another way."""
        assert len(self.released) == 1, f"released: {self.released}; asked for: {self.args(names.PATCH_GATE)}"
        return self.released[0]

    def phases(self) -> list[str]:
        return [arg.phase for arg in self.args(names.REPORT_PHASE)]

    async def _enter_and_stay(self, name: str, arg: Any) -> None:
        self._enter(name, arg)
        if name in self.held:
            await self.held[name].wait()

    def _enter(self, name: str, arg: Any) -> None:
        self.calls.append((name, arg))
        failures = self.error.get(name)
        if failures:
            raise failures.pop(0)

    def operator_activities(self) -> list[Any]:
        join = JoinDataset(self.client)

        @activity.defn(name=names.RESOLVE_DATASET)
        async def resolve(arg: ResolveInput) -> ResolveResult:
            await self._enter_and_stay(names.RESOLVE_DATASET, arg)
            self.resolves += 1
            return ResolveResult([Snapshot(arg.dataset, self.digest, 3, 3000, resolved_at=self.resolves)])

        @activity.defn(name=names.CREATE_SEAT)
        async def create_seat(arg: CreateSeatInput) -> CreateSeatResult:
            await self._enter_and_stay(names.CREATE_SEAT, arg)
            name = names.seat_name(arg.pod.uid, arg.number)
            if name in self.seats:  # it is bound already, and whoever looks again is told where
                return CreateSeatResult(name, gpus=8, node=self.seats[name])
            seen = ""
            node = next((node for node in self.nodes if self.seat_binds and node not in arg.exclude_nodes), "")
            told = self.client.get_workflow_handle(arg.workflow_id)
            if node:
                self.seats[name] = node
            if node and arg.wait_s and self.sees:
                seen = node
            elif node:
                await told.signal("seat_bound", SeatBound(name, node))
            elif self.seat_binds:
                await told.signal("seat_unschedulable", SeatUnschedulable(name, "0/2 nodes are available"))
            held = [digest for digest, nodes in self.holders.items() if seen in nodes]
            return CreateSeatResult(name, gpus=8, node=seen, held=held)

        @activity.defn(name=names.DELETE_SEAT)
        async def delete_seat(arg: DeleteSeatInput) -> None:
            await self._enter_and_stay(names.DELETE_SEAT, arg)
            self.seats.pop(arg.name, None)

        @activity.defn(name=names.PATCH_GATE)
        async def patch_gate(arg: PatchGateInput) -> PatchGateResult:
            await self._enter_and_stay(names.PATCH_GATE, arg)
            if arg.seat is not None:
                self._enter(names.DELETE_SEAT, arg.seat)
                self.seats.pop(arg.seat.name, None)
            found = self.pods.get(arg.pod.uid, PodState(gone=False))
            if not found.view.gated:
                return PatchGateResult("already", found.node)
            self.released.append(arg)
            receipt = arg.node if arg.pin else ""
            bound = (arg.node or "node-9") if self.bind_pod else ""
            self.pods[arg.pod.uid] = PodState(False, PodView(self.dataset, gated=False), bound, receipt)
            if self.bind_pod and self.sees and arg.wait_s:
                return PatchGateResult("released", arg.node or "node-9")
            if self.bind_pod:
                workflow_id = names.warm_pod_id(arg.pod.namespace, arg.pod.name, arg.pod.uid)
                await self.client.get_workflow_handle(workflow_id).signal("pod_bound", PodBound(arg.node or "node-9"))
            return PatchGateResult("released")

        @activity.defn(name=names.READ_POD)
        async def read_pod(arg: ReadPodInput) -> PodState:
            await self._enter_and_stay(names.READ_POD, arg)
            return self.pods.get(arg.pod.uid, PodState(gone=False, view=PodView(self.dataset)))

        @activity.defn(name=names.REPORT_PHASE)
        async def report_phase(arg: ReportInput) -> None:
            await self._enter_and_stay(names.REPORT_PHASE, arg)

        @activity.defn(name=names.JOIN_DATASET)
        async def join_dataset(arg: JoinInput) -> None:
            await self._enter_and_stay(names.JOIN_DATASET, arg)
            await join.join_dataset(arg)

        @activity.defn(name=names.PLAN_PREFETCH)
        async def plan_prefetch(arg: PlanPrefetchInput) -> PrefetchPlan:
            await self._enter_and_stay(names.PLAN_PREFETCH, arg)
            return await PlanPrefetch(self.client, lambda: list(self.kube_nodes.values())).plan_prefetch(arg)

        @activity.defn(name=names.START_PREFETCH)
        async def start_prefetch(arg: StartPrefetchInput) -> ScheduledPrefetchResult:
            await self._enter_and_stay(names.START_PREFETCH, arg)
            return await StartPrefetch(self.client).start_prefetch(arg)

        return [
            *self._reconcile_activities(),
            plan_prefetch,
            start_prefetch,
            resolve,
            create_seat,
            delete_seat,
            patch_gate,
            read_pod,
            report_phase,
            join_dataset,
            *self._group_activities(),
            *self._forecast_activities(),
        ]

    def _forecast_activities(self) -> list[Any]:
        @activity.defn(name=names.MAKE_FORECAST)
        async def make_forecast(arg: MakeForecastInput) -> MadeForecast:
            await self._enter_and_stay(names.MAKE_FORECAST, arg)
            return self.made

        @activity.defn(name=names.CARRY_OUT_FORECAST)
        async def carry_out_forecast(arg: CarryOutInput) -> None:
            self._enter(names.CARRY_OUT_FORECAST, arg)

        @activity.defn(name=names.PLACE_PLACEHOLDERS)
        async def place_placeholders(arg: PlacePlaceholdersInput) -> str:
            self._enter(names.PLACE_PLACEHOLDERS, arg)
            return ""

        return [make_forecast, carry_out_forecast, place_placeholders]

    def _group_activities(self) -> list[Any]:
        groups = GroupActivities(self.client, lambda *_: None)

        @activity.defn(name=names.JOIN_GROUP)
        async def join_group(arg: JoinGroupInput) -> None:
            await self._enter_and_stay(names.JOIN_GROUP, arg)
            await groups.join_group(arg)

        @activity.defn(name=names.FIND_GROUP)
        async def find_group(arg: FindGroupInput) -> FindGroupResult:
            self._enter(names.FIND_GROUP, arg)
            return self.group

        return [join_group, find_group]

    def _reconcile_activities(self) -> list[Any]:
        @activity.defn(name=names.SURVEY_CLUSTER)
        async def survey_cluster(arg: SurveyRef) -> SurveyResult:
            self._enter(names.SURVEY_CLUSTER, arg)
            return SurveyResult(shards.count_shards(self.survey, arg))

        @activity.defn(name=names.TELL_WORKFLOWS)
        async def tell_workflows(arg: SurveyRef) -> TellResult:
            self._enter(names.TELL_WORKFLOWS, arg)
            return TellResult()

        @activity.defn(name=names.PLAN_SHARD)
        async def plan_shard(arg: ShardInput) -> ShardPlan:
            self._enter(names.PLAN_SHARD, arg)
            return shards.plan(self.survey, arg)

        @activity.defn(name=names.SETTLE_NODE)
        async def settle_node(arg: SettleInput) -> SettleResult:
            self._enter(names.SETTLE_NODE, arg)
            return SettleResult(shards.judge(self.survey, arg), shards.users_of(self.survey, arg))

        return [survey_cluster, tell_workflows, plan_shard, settle_node]

    def node_activities(self, *, old: bool = False, node: str = "") -> list[Any]:
        """old: those of an agent from before the ping."""

        @activity.defn(name=names.HOLD_PREFETCHED)
        async def hold_prefetched(arg: HoldPrefetchedInput) -> HoldPrefetchedResult:
            await self._enter_and_stay(names.HOLD_PREFETCHED, arg)
            held = self.on_disk.setdefault(node, set())
            for snapshot in arg.snapshots:
                self.marks[node, snapshot.digest] = arg.until
            missing = [snapshot for snapshot in arg.snapshots if snapshot.digest not in held]
            return HoldPrefetchedResult("disk-1", [each.digest for each in missing], sum(s.bytes for s in missing))

        @activity.defn(name=names.RELEASE_PREFETCHED)
        async def release_prefetched(arg: ReleasePrefetchedInput) -> None:
            self._enter(names.RELEASE_PREFETCHED, arg)
            for digest in arg.digests:
                self.marks.pop((node, digest), None)

        @activity.defn(name=names.CHECK_DISK)
        async def check_disk(arg: CheckDiskInput) -> CheckDiskResult:
            await self._enter_and_stay(names.CHECK_DISK, arg)
            snapshots = [
                DiskSnapshot(s.digest, s.digest in self.complete, 0, self.verified if s.digest in self.complete else "")
                for s in arg.snapshots
            ]
            return CheckDiskResult("disk-1", snapshots)

        @activity.defn(name=names.STREAM_DATASET)
        async def stream_dataset(arg: StreamInput) -> StreamResult:
            self._enter(names.STREAM_DATASET, arg)
            self.streaming.set()
            while not self.finish_stream.is_set():
                activity.heartbeat(StreamProgress("fetching", self.done_bytes, 3000))
                if activity.is_worker_shutdown():
                    raise failed("WorkerDraining")
                await asyncio.sleep(0.05)
            self.complete.add(arg.snapshot.digest)
            self.on_disk.setdefault(node, set()).add(arg.snapshot.digest)
            self.fetched.append(arg.snapshot.digest)
            size, span = arg.snapshot.bytes, spans.current()
            place = "" if span is None else str(span.place)
            fed = self.neighbour_bytes, self.neighbours
            return StreamResult(arg.snapshot.digest, size, size, 0.5, "full-object", place, *fed, self.banned)

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
            doubtful = sorted(self.pinned - set(arg.living) - set(arg.ended))
            gone = self.pinned & set(arg.ended)
            self.pinned -= gone
            return ReconcileDiskResult(
                self.cache_id, sorted(self.complete), unpinned=len(gone), doubtful=doubtful if arg.ask else []
            )

        @activity.defn(name=names.AWAIT_DISK)
        async def await_disk(arg: AwaitDiskInput) -> None:
            self._enter(names.AWAIT_DISK, arg)
            if arg.needed_bytes and not self.disk_takes_it.is_set():
                raise ApplicationError("no room yet", type="NoRoomYet")

        @activity.defn(name=names.PING)
        async def ping() -> None:
            self._enter(names.PING, None)

        known_to_all = [check_disk, stream_dataset, unpin, evict, reconcile_disk, await_disk]
        return known_to_all if old else [*known_to_all, ping, hold_prefetched, release_prefetched]


def refused(kind: str, message: str = "scripted", **details: int) -> ApplicationError:
    return ApplicationError(message, details, type=kind, non_retryable=True)


def failed(kind: str, message: str = "scripted") -> ApplicationError:
    """A retryable failure."""
    return ApplicationError(message, type=kind)
