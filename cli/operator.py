"""`kube-cache operator`: the watches, the workflows and the cluster activities, around one Temporal client.

Any number of operators may run: starts are idempotent, and Temporal shares the workflows out. An operator holds no
state that a restart would lose: the watches list everything again, and a reconcile at once finds Pods that ended
meanwhile.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import structlog
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
)
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.cluster.cluster_state import ClusterStateActivities
from activities.cluster.join_dataset import JoinDataset
from activities.cluster.patch_gate import PatchGate
from activities.cluster.publish_progress import PublishProgress
from activities.cluster.report_phase import ReportPhase
from activities.cluster.resolve_dataset import ResolveDataset
from activities.cluster.seat import SeatActivities
from kube_cache import names
from kube_cache.contracts.common import Policy
from kube_cache.kube.client import Json, KubeClient
from kube_cache.kube.expectations import Expectations
from kube_cache.origin.s3 import Origins
from kube_cache.settings import OperatorSettings, Settings
from kube_cache.telemetry.logs import configure_logging
from kube_cache.temporal.client import connect
from watcher.pods import PodWatcher
from watcher.starter import Starter
from watcher.watches import Watches
from workflows.dataset_on_node import DatasetOnNode
from workflows.reconcile import Reconcile
from workflows.store_command import StoreCommand
from workflows.warm_pod.workflow import WarmPod

_log = structlog.get_logger("kube_cache.operator")
# Threads for calls of the Kubernetes API, a few milliseconds each. More threads would only wait for the GIL.
_MAX_KUBE_CALLS = 16
# Local activities at once. Most are a coroutine that waits for one of those threads, or for the scheduler.
_MAX_LOCAL_ACTIVITIES = 200
# Normal activities at once. A resolve holds a thread (many do, while the origin is away), a progress holds none.
_MAX_NORMAL_ACTIVITIES = 1000
# Seconds that an activity waits for the watch. The scheduler binds within milliseconds, in a burst of hundreds within a
# few seconds. Any other message for the workflow ends the wait.
_WATCH_WAIT_S = 4.0


def policy(settings: OperatorSettings) -> Policy:
    """Compose the part of the settings that travels in the input of a workflow."""
    return Policy(
        operator_namespace=settings.namespace,
        linger_s=settings.linger_s,
        bind_grace_s=settings.bind_grace_s,
        max_gate_time_s=settings.max_gate_time_s,
        node_exclusion_s=settings.node_exclusion_s,
        watch_wait_s=_WATCH_WAIT_S,
    )


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Return the exit code. Raises KubeCacheError if Kubernetes is not configured."""
    configure_logging(settings.telemetry.log_level, settings.telemetry.log_format)
    return asyncio.run(_run(settings))


async def _run(settings: Settings) -> int:
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    kube = KubeClient.from_environment()
    client = await connect()
    expectations = Expectations()
    watcher = PodWatcher(kube, Starter(client, policy(settings.operator), expectations))
    watches = Watches(kube, watcher, seat_namespace=settings.operator.namespace)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_MAX_KUBE_CALLS, thread_name_prefix="kube"))
    worker = _worker(client, kube, settings, expectations, watches.get_gated_pod)
    stopping = threading.Event()
    # Imported modules stay for good; the collector's repeated passes over them were a measurable part of a burst.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)
    async with worker:
        watches.start(stopping)
        await _schedule_reconcile(client, settings.operator)
        _log.info("operator ready", namespace=settings.operator.namespace)
        await stop.wait()
        _log.info("operator stopping")
        stopping.set()
    return 0


def _worker(
    client: Client,
    kube: KubeClient,
    settings: Settings,
    expectations: Expectations,
    get_gated_pod: Callable[[str], Json | None],
) -> Worker:
    seat = SeatActivities(kube, client, expectations, get_gated_pod, image=settings.operator.seat_image)
    cluster_state = ClusterStateActivities(kube, client, seat_namespace=settings.operator.namespace)
    return Worker(
        client,
        task_queue=names.OPERATOR_QUEUE,
        workflows=[WarmPod, DatasetOnNode, Reconcile, StoreCommand],
        activities=[
            ResolveDataset(Origins(settings.origin), kube).resolve_dataset,
            seat.create_seat,
            seat.delete_seat,
            JoinDataset(client).join_dataset,
            PatchGate(kube, expectations, get_gated_pod).patch_gate,
            ReportPhase(kube).report_phase,
            cluster_state.collect_cluster_state,
            cluster_state.find_bound_pods,
            PublishProgress(kube, client, interval_s=settings.operator.progress_interval_s).publish_progress,
        ],
        activity_executor=ThreadPoolExecutor(
            _MAX_LOCAL_ACTIVITIES + _MAX_NORMAL_ACTIVITIES, thread_name_prefix="activity"
        ),
        # The sandbox adds half as much CPU again to a workflow. The replay tests run inside it, so its checks are made
        # there.
        workflow_runner=UnsandboxedWorkflowRunner(),
        # With the default of 5, the tasks of a burst wait for a poll instead of a core.
        max_concurrent_workflow_task_polls=20,
        max_cached_workflows=settings.operator.workflow_slots,
        max_concurrent_activities=_MAX_NORMAL_ACTIVITIES,
        max_concurrent_local_activities=_MAX_LOCAL_ACTIVITIES,
        # A workflow of a dead operator waits this long for another operator; 10 s by default.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=2),
        max_heartbeat_throttle_interval=timedelta(seconds=1),
        default_heartbeat_throttle_interval=timedelta(seconds=1),
        graceful_shutdown_timeout=timedelta(seconds=5),
    )


async def _schedule_reconcile(client: Client, settings: OperatorSettings) -> None:
    """Create or update the schedule that all operators share, and run it now: events may have been missed."""
    schedule = Schedule(
        action=ScheduleActionStartWorkflow(Reconcile.run, id=names.RECONCILE_ID, task_queue=names.OPERATOR_QUEUE),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(seconds=settings.reconcile_interval_s))]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
    )
    handle = client.get_schedule_handle(names.RECONCILE_SCHEDULE)
    try:
        await client.create_schedule(names.RECONCILE_SCHEDULE, schedule)
    except ScheduleAlreadyRunningError:
        await handle.update(lambda _: ScheduleUpdate(schedule=schedule))
    await handle.trigger()
