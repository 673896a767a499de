"""One test's workers and Pods around a real Temporal server."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError
from temporalio.worker import Worker

from kube_cache import names
from kube_cache.contracts.common import PodRef, PodView, Policy
from kube_cache.contracts.node import DatasetOnNodeStatus
from kube_cache.contracts.reconcile import ClusterState, ReconcileResult
from kube_cache.contracts.warm_pod import WarmPodInput, WarmPodResult
from tests.workflows.fakes import DIGEST, World
from workflows.dataset_on_node import DatasetOnNode
from workflows.reconcile import Reconcile
from workflows.warm_pod.workflow import WarmPod

WATCH_WAIT_S = 4.0
"""As in production: activities wait for what the operator's watch is about to see. 0: everything comes by signal."""


def policy(**changes: float) -> Policy:
    """Short limits, so that a test of a limit is short."""
    return Policy(
        **{
            "check_schedule_to_start_s": 2.0,
            "stream_schedule_to_start_s": 2.0,
            "stream_heartbeat_s": 2.0,
            "linger_s": 0.3,
            "bind_grace_s": 1.0,
            "slow_phase_after_s": 2.0,
            "watch_wait_s": WATCH_WAIT_S,
            **changes,
        }  # type: ignore[arg-type]
    )


class Workbench:
    """One test's workers and Pods. The node names are the test's own, so that tests share no queue and no entity."""

    def __init__(self, client: Client, **limits: float) -> None:
        self.client = client
        self.world = World(client)
        self.policy = policy(**limits)
        tag = uuid.uuid4().hex[:8]
        self.world.nodes = [f"{tag}-1", f"{tag}-2"]
        self._tag = tag
        self._pods: list[WorkflowHandle[WarmPod, WarmPodResult]] = []

    async def start(self, **view: object) -> WorkflowHandle[WarmPod, WarmPodResult]:
        pod = PodRef("ml", f"pod-{self._tag}-{len(self._pods) + 1}", uuid.uuid4().hex)
        handle = await self.client.start_workflow(
            WarmPod.run,
            WarmPodInput(pod, self.view(**view), self.policy),
            id=names.warm_pod_id(pod.namespace, pod.name, pod.uid),
            task_queue=names.OPERATOR_QUEUE,
        )
        self._pods.append(handle)
        return handle

    async def reconcile(self, cluster: ClusterState) -> WorkflowHandle[Reconcile, ReconcileResult]:
        """Start a run whose `collect_cluster_state` answers this."""
        self.world.cluster = cluster
        return await self.client.start_workflow(
            Reconcile.run, id=f"reconcile-{uuid.uuid4()}", task_queue=names.OPERATOR_QUEUE
        )

    async def end_pods(self) -> None:
        """Terminate the Pods' workflows: all tests share the operator's queue, and one left behind would use it."""
        for handle in self._pods:
            with contextlib.suppress(RPCError):  # it has ended
                await handle.terminate("its test is over")

    def view(self, **changes: object) -> PodView:
        return PodView(**{"dataset": f"s3://bucket/{self._tag}", **changes})  # type: ignore[arg-type]

    def entity(self, node: int = 0, disk: str = "disk-1") -> WorkflowHandle[DatasetOnNode, DatasetOnNodeStatus]:
        return self.client.get_workflow_handle_for(
            DatasetOnNode.run, names.dataset_on_node_id(self.world.nodes[node], disk, DIGEST)
        )


@asynccontextmanager
async def workbench(
    address: str, *, living_nodes: tuple[int, ...] = (0, 1), **limits: float
) -> AsyncIterator[Workbench]:
    """Workers around a real server, in Temporal's sandbox, unlike in production, to find non-determinism."""
    bench = Workbench(await Client.connect(address, namespace=names.TEMPORAL_NAMESPACE), **limits)
    brisk = {
        "max_heartbeat_throttle_interval": timedelta(seconds=0.2),
        "default_heartbeat_throttle_interval": timedelta(seconds=0.2),
    }
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(
            Worker(
                bench.client,
                task_queue=names.OPERATOR_QUEUE,
                workflows=[WarmPod, DatasetOnNode, Reconcile],
                activities=bench.world.operator_activities(),
                **brisk,
            )  # type: ignore[arg-type]
        )
        for number in living_nodes:
            queue = names.node_queue(bench.world.nodes[number])
            await stack.enter_async_context(
                Worker(bench.client, task_queue=queue, activities=bench.world.node_activities(), **brisk)
            )  # type: ignore[arg-type]
        try:
            yield bench
        finally:
            await bench.end_pods()


async def until(condition: Callable[[], object], *, seconds: float = 20) -> None:
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
