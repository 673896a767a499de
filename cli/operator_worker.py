"""The operator's Temporal worker: which workflows and activities it serves, with which limits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from temporalio.client import Client
from temporalio.worker import Worker

from activities.cluster.company import Company, Wanted
from activities.cluster.evict_pod import EvictPod
from activities.cluster.forecast.make_forecast import ForecastActivities
from activities.cluster.forecast.place_placeholders import PlacePlaceholders
from activities.cluster.group import GroupActivities
from activities.cluster.join_dataset import JoinDataset
from activities.cluster.move_receipt import MoveReceipt
from activities.cluster.patch_gate import PatchGate
from activities.cluster.peer_grants import granter
from activities.cluster.plan_prefetch import PlanPrefetch
from activities.cluster.read_pod import ReadPod
from activities.cluster.reconcile import ReconcileActivities
from activities.cluster.report_phase import ReportPhase
from activities.cluster.resolve_dataset import ResolveDataset
from activities.cluster.seat import SeatActivities
from activities.cluster.start_prefetch import StartPrefetch
from activities.cluster.survey import Surveys
from activities.cluster.tell_workflows import TellWorkflows
from activities.log_context import LogContext
from activities.metering import Metering
from activities.starts_first import StartsFirst
from activities.tracing import Tracing
from cli import operator_forecast
from cli.workflow_runner import WorkflowRunner
from kube_cache import names
from kube_cache.contracts.common import Policy
from kube_cache.kube import placeholders
from kube_cache.kube.cache_nodes import parse_selector
from kube_cache.kube.client import Json, KubeClient
from kube_cache.kube.expectations import Expectations
from kube_cache.kube.nodes import NodeFacts
from kube_cache.kube.pods import PodFacts
from kube_cache.origin.s3 import Origins
from kube_cache.settings import OperatorSettings, Settings
from kube_cache.telemetry import spans
from workflows.dataset_on_node import DatasetOnNode
from workflows.forecast import Forecast
from workflows.pod_group import PodGroup
from workflows.prefetch import Prefetch
from workflows.reconcile import Reconcile
from workflows.reconcile_request import ReconcileRequest
from workflows.reconcile_shard import ReconcileShard
from workflows.scheduled_prefetch import ScheduledPrefetch
from workflows.store_command import StoreCommand
from workflows.tracing import WorkflowTracing
from workflows.warm_pod.workflow import WarmPod

# Local activities at once. Most are a coroutine that waits for a thread of the Kubernetes calls, or for the scheduler.
_MAX_LOCAL_ACTIVITIES = 200
# Normal activities at once. A resolve holds a thread (many do, while the origin is away).
_MAX_NORMAL_ACTIVITIES = 1000
# Workflow tasks at once, each with the local activities that it runs. A hit takes some 0.2 s of them, so these suffice
# for a hundred hits a second. More (100 by default) bring no more Pods out on the same cores: they take turns, so that
# each call becomes slow and runs into its timeout, the first Pod of a burst is bound with the last, and the start of a
# workflow waits in line behind all of them (docs/design/local-activities.md).
_MAX_WORKFLOW_TASKS = 24
# Seconds that an activity waits for the watch. The scheduler binds within milliseconds, in a burst of hundreds within a
# few seconds. Any other message for the workflow ends the wait.
_WATCH_WAIT_S = 4.0


def policy(settings: OperatorSettings) -> Policy:
    """Compose the part of the settings that travels in the input of a workflow."""
    return Policy(
        operator_namespace=settings.namespace,
        linger_s=settings.linger_s,
        refetch_bytes_per_s=settings.refetch_bytes_per_s,
        bind_grace_s=settings.bind_grace_s,
        max_gate_time_s=settings.max_gate_time_s,
        group_hold_s=settings.group_hold_s,
        node_exclusion_s=settings.node_exclusion_s,
        new_node_s=settings.new_node_s,
        watch_wait_s=_WATCH_WAIT_S,
    )


def new_worker(
    client: Client,
    kube: KubeClient,
    settings: Settings,
    expectations: Expectations,
    get_gated_pod: Callable[[str], Json | None],
    get_seat_owner: Callable[[], Json | None],
    get_nodes: Callable[[], Sequence[NodeFacts]],
    check_node: Callable[[str, Json], None],
    get_group: Callable[[str, str], list[PodFacts] | None],
    is_wanted: Wanted,
    yield_to_starts: Callable[[], Awaitable[None]],
    get_used: Callable[[], Mapping[str, Collection[str]]],
    is_synced: Callable[[], bool],
) -> Worker:
    makes_room = operator_forecast.places(settings.forecast)
    seats_namespace = settings.operator.namespace
    seat = SeatActivities(
        kube,
        client,
        expectations,
        get_gated_pod,
        image=settings.operator.seat_image,
        deadline_s=settings.operator.seat_deadline_s,
        node_selector=parse_selector(settings.operator.node_selector),
        get_owner=get_seat_owner,
        get_nodes=get_nodes,
        check_node=check_node,
        make_room=(lambda nodes: placeholders.make_room(kube, seats_namespace, nodes)) if makes_room else None,
    )
    join = JoinDataset(
        client,
        policy(settings.operator),
        granter(settings.operator.peer_key_file, comes_later=bool(settings.operator.peer_authority)),
        Company(seat.inventory, is_wanted).expected,
    )
    group = GroupActivities(client, get_group)
    surveys = Surveys(kube, client, seat_namespace=settings.operator.namespace)
    reconcile = ReconcileActivities(client, surveys)
    forecast = ForecastActivities(client, settings.forecast, policy(settings.operator))
    return Worker(
        client,
        task_queue=names.OPERATOR_QUEUE,
        workflows=[
            WarmPod,
            DatasetOnNode,
            PodGroup,
            Reconcile,
            ReconcileShard,
            ReconcileRequest,
            StoreCommand,
            Prefetch,
            Forecast,
            ScheduledPrefetch,
        ],
        activities=[
            ResolveDataset(Origins(settings.origin, process="operator"), kube).resolve_dataset,
            seat.create_seat,
            seat.delete_seat,
            join.join_dataset,
            PatchGate(
                kube,
                expectations,
                get_gated_pod,
                cache_root=settings.operator.cache_root,
                get_nodes=get_nodes,
                check_node=check_node,
                gpu_dollars_per_hour=settings.operator.gpu_dollars_per_hour,
            ).patch_gate,
            EvictPod(kube).evict_pod,
            MoveReceipt(kube).move_receipt,
            group.join_group,
            group.find_group,
            ReportPhase(kube, get_gated_pod).report_phase,
            ReadPod(kube, cache_root=settings.operator.cache_root).read_pod,
            reconcile.survey_cluster,
            reconcile.plan_shard,
            reconcile.settle_node,
            PlanPrefetch(
                client,
                get_nodes,
                parse_selector(settings.operator.node_selector),
                settings.operator.prefetch_look_s,
                get_used,
            ).plan_prefetch,
            forecast.make_forecast,
            forecast.carry_out_forecast,
            PlacePlaceholders(
                kube,
                operator_forecast.asked(settings),
                get_nodes,
                get_used,
                is_synced,
                get_seat_owner,
                namespace=seats_namespace,
                max_placeholders=settings.forecast.max_placeholders,
            ).place_placeholders,
            StartPrefetch(client).start_prefetch,
            TellWorkflows(kube, client, surveys, seat_namespace=settings.operator.namespace).tell_workflows,
        ],
        activity_executor=ThreadPoolExecutor(
            _MAX_LOCAL_ACTIVITIES + _MAX_NORMAL_ACTIVITIES, thread_name_prefix="activity"
        ),
        interceptors=[
            StartsFirst(yield_to_starts),
            LogContext(),
            Metering(),
            *([Tracing(), WorkflowTracing()] if spans.is_on() else []),
        ],
        workflow_runner=WorkflowRunner(),
        # With the default of 5, the tasks of a burst wait for a poll instead of a core.
        max_concurrent_workflow_task_polls=20,
        max_concurrent_workflow_tasks=_MAX_WORKFLOW_TASKS,
        max_cached_workflows=settings.operator.workflow_slots,
        max_concurrent_activities=_MAX_NORMAL_ACTIVITIES,
        max_concurrent_local_activities=_MAX_LOCAL_ACTIVITIES,
        # A workflow of a dead operator waits this long for another operator; 10 s by default.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=2),
        max_heartbeat_throttle_interval=timedelta(seconds=1),
        default_heartbeat_throttle_interval=timedelta(seconds=1),
        graceful_shutdown_timeout=timedelta(seconds=5),
    )
