"""`kube-cache operator`: the watches, the workflows and the cluster activities, around one Temporal client.

Any number of operators may run: Temporal shares the workflows out, and a Lease says whose watches are delivered. An
operator holds no state that a restart would lose: the watches list everything again, and a reconcile at once finds Pods
that ended meanwhile. A part that dies ends the process, since Kubernetes starts another in seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog
from temporalio.client import Client
from temporalio.runtime import Runtime
from temporalio.service import RPCError

from cli import garbage, operator_forecast
from cli.operator_issuer import serving_certificates
from cli.operator_page import serving_page
from cli.operator_worker import new_worker, policy
from kube_cache import names
from kube_cache.backoff import Backoff
from kube_cache.errors import KubeCacheError
from kube_cache.kube.client import KubeClient
from kube_cache.kube.expectations import Expectations
from kube_cache.kube.lease import Lease
from kube_cache.settings import OperatorSettings, Settings
from kube_cache.telemetry.declarations import Process
from kube_cache.telemetry.exposition import Exposition
from kube_cache.telemetry.logs import configure_logging
from kube_cache.telemetry.probes import Health, ProbeServer
from kube_cache.telemetry.tracing import tracing
from kube_cache.temporal import reconcile_schedule
from kube_cache.temporal.client import connect
from kube_cache.temporal.cluster import bind_cluster
from kube_cache.temporal.runtime import new_runtime
from watcher.demand import DemandIndex
from watcher.leader import Leader
from watcher.nodes import NodeWatcher
from watcher.page.timeline import Timeline
from watcher.pods import Observer, PodWatcher
from watcher.prefetches import Prefetches
from watcher.progress.publisher import ProgressPublisher
from watcher.reconcile_health import ReconcileHealth
from watcher.reporter import PodReporter
from watcher.starter import Starter
from watcher.sweep import Sweep
from watcher.wanted import Wanted
from watcher.warm_pods import WarmPods
from watcher.watches import Watches

_log = structlog.get_logger("kube_cache.operator")
# Threads for calls of the Kubernetes API, a few milliseconds each. More threads would only wait for the GIL.
_MAX_KUBE_CALLS = 16
# Seconds that an activity of another operator gets to take a fact from its own watch before the leader signals the
# fact. A hit takes a tenth of that; a signal that comes in time costs a workflow task.
_OTHER_OPERATOR_S = 1.0
_SUPERVISE_EVERY_S = 1.0
_MIN_BACKOFF_S, _MAX_BACKOFF_S = 0.2, 10.0

T = TypeVar("T")


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Return the exit code. Raises KubeCacheError if Kubernetes is not configured."""
    configure_logging(settings.telemetry.log_level, settings.telemetry.log_format)
    garbage.share_heaps()
    identity = settings.operator.identity or socket.gethostname()
    with tracing("kube-cache-operator", **{"service.instance.id": identity}):
        return asyncio.run(_run(settings))


async def _run(settings: Settings) -> int:
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_MAX_KUBE_CALLS, thread_name_prefix="kube"))
    health, started = Health(), asyncio.Event()
    runtime = new_runtime(settings.telemetry.temporal_metrics_address)
    with ProbeServer(settings.telemetry.http_address, health, Exposition(Process.OPERATOR)):
        serving = asyncio.create_task(_serve(settings, stop, started, health, runtime))
        stopped = asyncio.create_task(stop.wait())
        while not serving.done():
            # Kubernetes or Temporal may not answer yet, and is waited for. That is no reason to end, but a stop is.
            health.beat()
            await asyncio.wait((serving, stopped), timeout=_SUPERVISE_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
            if stopped.done() and not started.is_set():
                serving.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await serving
                return 0
            if stopped.done():
                break
        failure = await serving
    if failure:
        _log.error("operator ends, to be started again", reason=failure)
        return 1
    return 0


async def _serve(
    settings: Settings, stop: asyncio.Event, started: asyncio.Event, health: Health, runtime: Runtime
) -> str:
    """Put the parts together, set `started`, and serve until `stop`. Return what died; empty if nothing has."""
    options = settings.operator
    kube = KubeClient.from_environment()
    health.waits_for = "Temporal"
    client = await connect(runtime)
    health.waits_for = "Temporal or the Kubernetes API; the log says which"
    await _insist("bind the Temporal namespace to this cluster", lambda: _bind_cluster(kube, client))
    lease = Lease(
        kube,
        options.namespace,
        names.LEASE,
        identity=options.identity or socket.gethostname(),
        duration_s=options.lease_duration_s,
    )
    await _insist("create the lease", lambda: asyncio.to_thread(lease.ensure))
    expectations = Expectations()
    reporter = PodReporter(kube)
    warm_pods = WarmPods(client, policy(options), reporter)
    starter = Starter(client, warm_pods, expectations, patience_s=_OTHER_OPERATOR_S)
    timeline = Timeline() if options.page_address else None
    wanted = Wanted(lambda: not watches.unsynced())
    demand = DemandIndex()
    observers: list[Observer] = [wanted, demand] if timeline is None else [wanted, demand, timeline]
    watcher = PodWatcher(kube, starter, cache_root=options.cache_root, observers=observers)
    nodes = NodeWatcher(kube, starter, grace_s=options.node_grace_s)
    watches = Watches(kube, watcher, seat_namespace=options.namespace, nodes=nodes)
    leader = Leader(lease, renew_s=options.lease_renew_s, on_change=_on_leading(starter, watcher, nodes, client))
    sweep = Sweep(
        client,
        kube,
        watcher,
        starter,
        warm_pods,
        reporter,
        seat_namespace=options.namespace,
        interval_s=options.sweep_interval_s,
    )
    progress = ProgressPublisher(
        client,
        KubeClient.from_environment(),
        warming_pods=watcher.warming_pods,
        is_leading=lambda: starter.leading,
        interval_s=options.progress_interval_s,
    )
    reconcile = ReconcileHealth(
        client,
        kube,
        lambda: starter.leading,
        lease.owner_reference,
        namespace=options.namespace,
        interval_s=options.reconcile_interval_s,
    )
    prefetches = Prefetches(
        client,
        kube,
        policy(options),
        lambda: starter.leading,
        sweep_interval_s=options.sweep_interval_s,
    )
    worker = new_worker(
        client,
        kube,
        settings,
        expectations,
        watches.get_gated_pod,
        lease.owner_reference,
        watches.nodes,
        nodes.check_node,
        watches.get_group,
        wanted.is_elsewhere,
        starter.yield_to_starts,
        demand.used,
        lambda: not watches.unsynced(),
    )
    stopping = threading.Event()
    garbage.tune()
    async with worker, contextlib.AsyncExitStack() as serving:
        serving.enter_context(serving_certificates(options, kube, nodes.labels_of))
        serving.enter_context(
            serving_page(
                options,
                timeline,
                client=client,
                watcher=watcher,
                watches=watches,
                progress=progress,
                lease=lease,
                health=health,
                is_leading=lambda: starter.leading,
            )
        )
        watches.start(stopping)
        await _insist("create the reconcile's schedule", lambda: _schedule_reconcile(client, options))
        await _insist("keep the forecast's schedule", lambda: operator_forecast.schedule(client, kube, settings))
        forecast = operator_forecast.parts(
            client, kube, settings, demand, lambda: starter.leading and not watches.unsynced()
        )
        running = (
            leader.run(),
            sweep.run(),
            progress.run(),
            reconcile.run(),
            prefetches.run(),
            garbage.keep_giving_back(),
            *forecast,
        )
        parts = [asyncio.create_task(part) for part in running]
        started.set()
        _log.info("operator ready", namespace=options.namespace)
        failure = await _supervise(stop, health, watches, parts)
        health.waits_for = "nothing: it is stopping"
        _log.info("operator stopping", reason=failure or "asked to")
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
        await leader.resign()
        stopping.set()
    return failure


async def _supervise(
    stop: asyncio.Event, health: Health, watches: Watches, parts: Collection[asyncio.Task[None]]
) -> str:
    """Wait for `stop`, or for the end of a part that should never end; return which."""
    while not stop.is_set():
        lists = watches.unsynced()
        health.waits_for = f"the first list of {', '.join(lists)}" if lists else ""
        if dead := watches.find_dead():
            return dead
        for part in parts:
            if part.done():
                error = None if part.cancelled() else part.exception()
                return f"{part.get_coro()} has ended: {error!r}"
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _SUPERVISE_EVERY_S)
    return ""


def _on_leading(starter: Starter, watcher: PodWatcher, nodes: NodeWatcher, client: Client) -> Callable[[bool], None]:
    running: set[asyncio.Task[None]] = set()

    def changed(leading: bool) -> None:
        starter.leading = leading
        if leading:
            watcher.tell_all()
            nodes.tell_all()
            # What ended while nobody led, or before the first operator came, is known to the reconcile only.
            task = asyncio.create_task(reconcile_schedule.trigger(client))
            running.add(task)
            task.add_done_callback(running.discard)

    return changed


async def _bind_cluster(kube: KubeClient, client: Client) -> None:
    await bind_cluster(client, await asyncio.to_thread(kube.cluster_uid))


async def _schedule_reconcile(client: Client, settings: OperatorSettings) -> None:
    await reconcile_schedule.ensure(client, interval_s=settings.reconcile_interval_s)


async def _insist(what: str, attempt: Callable[[], Awaitable[T]]) -> T:
    """Try until it succeeds: without it an operator can do nothing, and a crash loop less. Raises a final error."""
    backoff = Backoff(_MIN_BACKOFF_S, _MAX_BACKOFF_S)
    while True:
        try:
            return await attempt()
        except (KubeCacheError, RPCError) as error:
            if isinstance(error, KubeCacheError) and not error.retryable:
                raise
            wait_s = backoff.next_s()
            _log.warning(f"cannot {what}; trying again", error=error.message, wait_s=round(wait_s, 1))
            await asyncio.sleep(wait_s)
