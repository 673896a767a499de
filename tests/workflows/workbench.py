"""One test's workers and Pods around a real Temporal server."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any
from unittest.mock import patch

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.testing import ActivityEnvironment
from temporalio.worker import Worker

from activities.cluster.group import GroupActivities
from activities.cluster.join_dataset import JoinDataset
from activities.cluster.survey import Survey
from kube_cache import names
from kube_cache.contracts.common import Phase, PodRef, PodView, Policy
from kube_cache.contracts.forecast import ForecastInput, ForecastRecord
from kube_cache.contracts.group import JoinGroupInput, PodGroupStatus
from kube_cache.contracts.node import DatasetOnNodeStatus, JoinInput
from kube_cache.contracts.prefetch import PrefetchSpec, PrefetchStatus, ScheduledPrefetchInput, ScheduledPrefetchResult
from kube_cache.contracts.reconcile import Entity, ReconcileInput, ReconcileRequestInput, ReconcileResult
from kube_cache.contracts.warm_pod import WarmPodInput, WarmPodResult
from kube_cache.temporal.prefetches import start_prefetch
from kube_cache.temporal.search_attributes import initial
from tests.workflows.fakes import DIGEST, World
from workflows.dataset_on_node import DatasetOnNode
from workflows.forecast import Forecast
from workflows.pod_group import PodGroup
from workflows.prefetch import Prefetch
from workflows.reconcile import Reconcile
from workflows.reconcile_request import ReconcileRequest
from workflows.reconcile_shard import ReconcileShard
from workflows.scheduled_prefetch import ScheduledPrefetch
from workflows.warm_pod.workflow import WarmPod

WORKFLOWS = [
    WarmPod,
    DatasetOnNode,
    PodGroup,
    Reconcile,
    ReconcileShard,
    ReconcileRequest,
    Prefetch,
    ScheduledPrefetch,
    Forecast,
]

_BRISK = {
    "graceful_shutdown_timeout": timedelta(seconds=1),
    "max_heartbeat_throttle_interval": timedelta(seconds=0.2),
    "default_heartbeat_throttle_interval": timedelta(seconds=0.2),
}

ALL_NODES = (0, 1)
_PATIENT = {"check_schedule_to_start_s": 90.0, "stream_schedule_to_start_s": 90.0, "stream_heartbeat_s": 60.0}
"""Where every agent lives, none is taken for dead, however slow the machine is."""
WATCH_WAIT_S = 4.0
"""As in production: activities wait for what the operator's watch is about to see. 0: everything comes by signal."""


def policy(**changes: float) -> Policy:
    """Short limits, so that a test of a limit is short."""
    return Policy(
        **{
            "check_schedule_to_start_s": 4.0,
            "node_exclusion_s": 20.0,
            "stream_schedule_to_start_s": 2.0,
            "stream_heartbeat_s": 2.0,
            "linger_s": 0.3,
            "bind_grace_s": 1.0,
            "slow_phase_after_s": 2.0,
            "watch_wait_s": WATCH_WAIT_S,
            "prefetch_look_s": 0.5,
            **changes,
        }  # type: ignore[arg-type]
    )


class Workbench:
    """One test's workers and Pods. Queues and node names are the test's own, so that no test sees another's."""

    def __init__(self, client: Client, **limits: float) -> None:
        self.client = client
        self.world = World(client)
        self.policy = policy(**limits)
        tag = uuid.uuid4().hex[:8]
        self.world.nodes = [f"{tag}-1", f"{tag}-2"]
        self.world.dataset = f"s3://bucket/{tag}"
        self.tag = tag
        self.seen_at = 0.0
        """When an operator saw the Pods that start from now on; 0 = it did not tell."""
        self._started = 0

    async def start(self, **view: object) -> WorkflowHandle[WarmPod, WarmPodResult]:
        self._started += 1
        pod = PodRef("ml", f"pod-{self.tag}-{self._started}", uuid.uuid4().hex)
        return await self.client.start_workflow(
            WarmPod.run,
            WarmPodInput(pod, self.view(**view), self.policy, seen_at=self.seen_at),
            id=names.warm_pod_id(pod.namespace, pod.name, pod.uid),
            task_queue=names.OPERATOR_QUEUE,
            memo={names.GENERATION_MEMO: names.WARM_POD_GENERATION},
            search_attributes=initial(
                phase=Phase.RESOLVING, dataset=self.world.dataset, namespace=pod.namespace, pod=pod.name
            ),
        )

    def survey(
        self,
        *,
        nodes: Sequence[str] | None = None,
        entities: Mapping[str, Sequence[Entity]] | None = None,
        released: Mapping[str, Sequence[PodRef]] | None = None,
        gated: Collection[str] = (),
        asked: Collection[str] = (),
    ) -> None:
        """Let the cluster be this for the reconcile.

        nodes: all by default. entities: by node. released: Pods by node, with the snapshot. gated: UIDs. asked: nodes.
        """
        survey = self.world.survey = Survey(nodes=frozenset(self.world.nodes if nodes is None else nodes))
        survey.asked.update(asked)
        for node, its in (entities or {}).items():
            survey.entities[node] = list(its)
        for uid in gated:
            survey.pods.nodes[uid] = ""
        for node, pods in (released or {}).items():
            for pod in pods:
                survey.pods.nodes[pod.uid] = node
                survey.pods.receipts.setdefault(node, {})[pod.uid] = (DIGEST,)
                survey.pods.released[pod.uid] = pod

    async def ask(self, node: int = 0) -> WorkflowHandle[ReconcileRequest, bool]:
        """Do what a node's agent does that asks for a reconcile."""
        return await self.client.start_workflow(
            ReconcileRequest.run,
            ReconcileRequestInput(self.world.nodes[node]),
            id=names.reconcile_request_id(self.world.nodes[node]),
            task_queue=names.OPERATOR_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            start_signal="ask",
            start_signal_args=["a test"],
        )

    async def reconcile(self) -> WorkflowHandle[Reconcile, ReconcileResult]:
        """Start a run."""
        return await self.client.start_workflow(
            Reconcile.run, ReconcileInput(), id=f"reconcile-{uuid.uuid4()}", task_queue=names.OPERATOR_QUEUE
        )

    async def join(self, arg: JoinInput, policy: Policy | None = None, token: str = "") -> None:
        """Do what `join_dataset` does, without a Pod's workflow. policy: of the operator. token: that it grants."""
        join = JoinDataset(self.client, policy, lambda _snapshot, _node: token)
        await ActivityEnvironment().run(join.join_dataset, arg)

    async def join_group(self, arg: JoinGroupInput) -> None:
        """Do what `join_group` does, without a Pod's workflow."""
        await ActivityEnvironment().run(GroupActivities(self.client, lambda *_: None).join_group, arg)

    @asynccontextmanager
    async def agent(self, node: int = 0, *, download_slots: int = 64, old: bool = False) -> AsyncIterator[None]:
        """Run a node's agent on its two queues. old: one from before the second queue and the ping."""
        name, activities = self.world.nodes[node], self.world.node_activities(old=old, node=self.world.nodes[node])
        async with AsyncExitStack() as workers:
            await workers.enter_async_context(
                Worker(self.client, task_queue=names.node_queue(name), activities=activities, **_BRISK)
            )  # type: ignore[arg-type]
            if not old:
                await workers.enter_async_context(
                    Worker(
                        self.client,
                        task_queue=names.node_stream_queue(name),
                        activities=activities,
                        max_concurrent_activities=download_slots,
                        **_BRISK,
                    )  # type: ignore[arg-type]
                )
            yield

    async def prefetch(self, **spec: object) -> WorkflowHandle[Prefetch, PrefetchStatus]:
        """Start one of the test's dataset on the test's nodes, or apply the specification to one that runs."""
        named = {"namespace": "ml", "name": self.tag, "datasets": [self.world.dataset], **spec}
        given = PrefetchSpec(**named)  # type: ignore[arg-type]
        return await start_prefetch(self.client, given, self.policy)

    async def forecast(self, record: ForecastRecord | None = None) -> WorkflowHandle[Forecast, ForecastRecord]:
        """Start a run as the schedule does. record: of the run before."""
        return await self.client.start_workflow(
            Forecast.run,
            ForecastInput(record=record),
            id=f"{names.FORECAST_ID}-{uuid.uuid4()}",
            task_queue=names.OPERATOR_QUEUE,
        )

    async def scheduled_prefetch(self, window_s: float) -> WorkflowHandle[ScheduledPrefetch, ScheduledPrefetchResult]:
        """Start what a schedule starts at one of its times."""
        spec = PrefetchSpec("ml", self.tag, [self.world.dataset])
        return await self.client.start_workflow(
            ScheduledPrefetch.run,
            ScheduledPrefetchInput(spec, window_s, self.policy),
            id=names.scheduled_prefetch_id("ml", self.tag),
            task_queue=names.OPERATOR_QUEUE,
        )

    @property
    def group_name(self) -> str:
        return f"group-{self.tag}"

    async def start_member(self, size: int = 3, **view: object) -> WorkflowHandle[WarmPod, WarmPodResult]:
        return await self.start(group=self.group_name, group_size=str(size), **view)

    def group(self) -> WorkflowHandle[PodGroup, PodGroupStatus]:
        return self.client.get_workflow_handle_for(PodGroup.run, names.pod_group_id("ml", self.group_name))

    def view(self, **changes: object) -> PodView:
        return PodView(**{"dataset": f"s3://bucket/{self.tag}", **changes})  # type: ignore[arg-type]

    def entity(
        self, node: int = 0, disk: str = "disk-1", digest: str = DIGEST
    ) -> WorkflowHandle[DatasetOnNode, DatasetOnNodeStatus]:
        return self.client.get_workflow_handle_for(
            DatasetOnNode.run, names.dataset_on_node_id(self.world.nodes[node], disk, digest)
        )


@asynccontextmanager
async def workbench(
    address: str, *, living_nodes: tuple[int, ...] = ALL_NODES, **limits: float
) -> AsyncIterator[Workbench]:
    """Workers around a real server, in Temporal's sandbox, unlike in production, to find non-determinism."""
    if living_nodes == ALL_NODES:
        limits = {**_PATIENT, **limits}
    bench = Workbench(await Client.connect(address, namespace=names.TEMPORAL_NAMESPACE), **limits)
    async with AsyncExitStack() as stack:
        # A workflow that an earlier test left open would go on here, on the queue of all operators.
        stack.enter_context(patch.object(names, "OPERATOR_QUEUE", f"operator-{bench.tag}"))
        await stack.enter_async_context(
            Worker(
                bench.client,
                task_queue=names.OPERATOR_QUEUE,
                workflows=WORKFLOWS,
                activities=bench.world.operator_activities(),
                **_BRISK,
            )  # type: ignore[arg-type]
        )
        for number in living_nodes:
            await stack.enter_async_context(bench.agent(number))
        yield bench


async def has_begun(handle: WorkflowHandle[Any, Any]) -> bool:
    """Whether the workflow's first task is over."""
    events = [event.event_type async for event in handle.fetch_history_events()]
    return EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED in events


async def until(condition: Callable[[], object], *, seconds: float = 60) -> None:
    """Wait for a condition that may be a coroutine function; fails with its source line when time is up."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return
        assert asyncio.get_running_loop().time() < deadline, (
            f"not within {seconds} s: {inspect.getsource(condition).strip()}"
        )
        await asyncio.sleep(0.05)
