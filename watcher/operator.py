"""The operator process: the watches, the workflows and the cluster activities, around one Temporal client.

Any number of operators may run: starts are idempotent and Temporal shares the workflows out. It holds no state that a
restart would miss: the watches list everything again, and the reconcile runs at once and finds
what ended meanwhile.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

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

from activities.bound_pods import FindBoundPods
from activities.create_seat import CreateSeat
from activities.delete_seat import DeleteSeat
from activities.join_dataset import JoinDataset
from activities.patch_gate import PatchGate
from activities.publish_progress import PublishProgress
from activities.report_phase import ReportPhase
from activities.resolve_dataset import ResolveDataset
from activities.survey import TakeSurvey
from kube_cache import names
from kube_cache.contracts import Policy
from kube_cache.kube.client import KubeClient
from kube_cache.kube.reflector import Reflector
from kube_cache.kube.sightings import Sightings
from kube_cache.settings import OperatorSettings, Settings
from kube_cache.temporal import connect
from watcher.facts import pod_facts, seat_facts
from watcher.pods import PodWatcher
from watcher.starter import Starter
from workflows.dataset_on_node import DatasetOnNode
from workflows.reconcile import Reconcile
from workflows.store_command import StoreCommand
from workflows.warm_pod import WarmPod

_log = structlog.get_logger("kube_cache.operator")
# Calls of the Kubernetes API at once, a few milliseconds each: more of them only wait for the GIL.
_KUBE_CALLS = 16
# Local activities at once. Most of them are a coroutine that waits for one of those threads, or for the scheduler.
_LOCAL = 200
# Seconds that an activity waits for the watch. The scheduler answers in milliseconds, in a burst of hundreds in a few
# seconds; whoever has something else to say to the workflow ends the wait.
_SIGHT_S = 4.0
# Normal activities at once: a resolve holds a thread (many, while the object store is away), a progress costs none.
_NORMAL = 1000


def policy(settings: OperatorSettings) -> Policy:
    return Policy(
        operator_namespace=settings.namespace,
        linger_s=settings.linger_s,
        bind_grace_s=settings.bind_grace_s,
        max_gate_time_s=settings.max_gate_time_s,
        sight_s=_SIGHT_S,
    )


def run(settings: Settings) -> int:
    return asyncio.run(_run(settings))


async def _run(settings: Settings) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    kube = KubeClient.from_environment()
    client = await connect()
    starter = Starter(client, policy(settings.operator))
    sightings = Sightings()
    pods = PodWatcher(kube, starter, sightings)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_KUBE_CALLS, thread_name_prefix="kube"))
    worker = _worker(client, kube, settings, sightings)
    stopping = threading.Event()
    # What was imported stays for good; collecting over it again and again was a measurable part of a burst.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)
    async with worker:
        _watch(kube, pods, settings.operator, stopping)
        await _schedule_reconcile(client, settings.operator)
        _log.info("operator ready", namespace=settings.operator.namespace)
        await stop.wait()
        _log.info("operator stopping")
        stopping.set()
    return 0


def _worker(client: Client, kube: KubeClient, settings: Settings, sightings: Sightings) -> Worker:
    return Worker(
        client,
        task_queue=names.OPERATOR_QUEUE,
        workflows=[WarmPod, DatasetOnNode, Reconcile, StoreCommand],
        activities=[
            ResolveDataset(settings.engine, kube).resolve_dataset,
            CreateSeat(kube, client, settings.operator, sightings).create_seat,
            DeleteSeat(kube).delete_seat,
            JoinDataset(client).join_dataset,
            PatchGate(kube, sightings).patch_gate,
            ReportPhase(kube).report_phase,
            FindBoundPods(kube).bound_pods,
            TakeSurvey(kube, client, settings.operator).survey,
            PublishProgress(kube, client, settings.operator).publish_progress,
        ],
        activity_executor=ThreadPoolExecutor(_LOCAL + _NORMAL, thread_name_prefix="activity"),
        # The sandbox costs half as much CPU again per workflow; the replay tests run inside it and keep the code honest.
        workflow_runner=UnsandboxedWorkflowRunner(),
        # With the default of 5, tasks of a burst wait for a poll, not for a core.
        max_concurrent_workflow_task_polls=20,
        max_cached_workflows=settings.operator.workflow_slots,
        max_concurrent_activities=_NORMAL,
        max_concurrent_local_activities=_LOCAL,
        # 10 s by default, and that long does a workflow of a dead operator wait for another one.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=2),
        max_heartbeat_throttle_interval=timedelta(seconds=1),
        default_heartbeat_throttle_interval=timedelta(seconds=1),
        graceful_shutdown_timeout=timedelta(seconds=5),
    )


def _watch(kube: KubeClient, pods: PodWatcher, settings: OperatorSettings, stopping: threading.Event) -> None:
    loop = asyncio.get_running_loop()

    def on_loop(handle: Any) -> Any:
        return lambda event, item: loop.call_soon_threadsafe(handle, event, item)

    reflectors: list[Reflector[Any]] = [
        Reflector(
            kube,
            "pods",
            project=pod_facts,
            handler=on_loop(pods.on_pod),
            label_selector=f"{names.MANAGED_LABEL}!=true",
            field_selector="status.phase=Pending",
        ),
        Reflector(
            kube, "pods", project=pod_facts, handler=on_loop(pods.on_pod), label_selector=f"{names.MANAGED_LABEL}=true"
        ),
        Reflector(
            kube,
            "pods",
            project=seat_facts,
            handler=on_loop(pods.on_seat),
            namespace=settings.namespace,
            label_selector=names.SEAT_LABEL,
        ),
    ]
    for reflector in reflectors:
        threading.Thread(target=reflector.run, args=(stopping,), name="reflector", daemon=True).start()


async def _schedule_reconcile(client: Client, settings: OperatorSettings) -> None:
    """One schedule for all operators; running it now finds what happened while none was up."""
    schedule = Schedule(
        action=ScheduleActionStartWorkflow(Reconcile.run, id="reconcile", task_queue=names.OPERATOR_QUEUE),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(seconds=settings.reconcile_interval_s))]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
    )
    handle = client.get_schedule_handle(names.RECONCILE_SCHEDULE)
    try:
        await client.create_schedule(names.RECONCILE_SCHEDULE, schedule)
    except ScheduleAlreadyRunningError:
        await handle.update(lambda _: ScheduleUpdate(schedule=schedule))
    await handle.trigger()
