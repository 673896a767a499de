"""`kube-cache agent`: the process of one node, which serves the node's two queues and owns the node's disk.

It puts the store, the engine and the node activities together, scrubs the disk in the background and answers probes.
It runs no workflows, has no Kubernetes credentials and asks for none.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import structlog
from temporalio.client import Client
from temporalio.runtime import Runtime
from temporalio.worker import Worker

from activities.log_context import LogContext
from activities.metering import Metering
from activities.node.disk import DiskActivities
from activities.node.ping import ping
from activities.node.prefetched import PrefetchedActivities
from activities.node.recent_work import RecentWork
from activities.node.store_command import RunStoreCommand
from activities.node.stream_dataset import StreamDataset, alone
from activities.tracing import Tracing
from kube_cache import names
from kube_cache.engine.engine import Engine
from kube_cache.engine.metering import EngineMeter
from kube_cache.errors import DiskFault, InvalidRequest
from kube_cache.origin.s3 import Origins
from kube_cache.peers.node import PeerNode
from kube_cache.peers.settings import PeerSettings
from kube_cache.settings import AgentSettings, Settings
from kube_cache.store.layout import object_id
from kube_cache.store.node_store import NodeStore
from kube_cache.telemetry import spans
from kube_cache.telemetry.declarations import Process
from kube_cache.telemetry.exposition import Exposition
from kube_cache.telemetry.logs import configure_logging
from kube_cache.telemetry.probes import Health, ProbeServer
from kube_cache.telemetry.tracing import tracing
from kube_cache.temporal import reconcile_schedule
from kube_cache.temporal.client import connect
from kube_cache.temporal.runtime import new_runtime

if TYPE_CHECKING:
    from kube_cache.peers.enrolled_node import EnrolledNode

_log = structlog.get_logger("kube_cache.agent")
_BEAT_S = 1.0


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Return the exit code. Raises InvalidRequest, NodeUnsuitable, DiskFault."""
    configure_logging(settings.telemetry.log_level, settings.telemetry.log_format, node=settings.agent.node)
    if not settings.agent.node:
        raise InvalidRequest(
            "KUBE_CACHE_AGENT__NODE is empty; set it to the node's name (spec.nodeName by the downward API)"
        )
    with tracing("kube-cache-agent", **{"k8s.node.name": settings.agent.node}):
        return asyncio.run(_run(settings))


async def _run(settings: Settings) -> int:
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    health, exposition = Health(), Exposition(Process.AGENT)
    runtime = new_runtime(settings.telemetry.temporal_metrics_address)
    with ProbeServer(settings.telemetry.http_address, health, exposition):
        beating = asyncio.create_task(_beat(health))
        try:
            await _serve(settings, stop, health, exposition, runtime)
        finally:
            beating.cancel()
    return 0


async def _serve(
    settings: Settings, stop: asyncio.Event, health: Health, exposition: Exposition, runtime: Runtime
) -> None:
    """Put the parts together and serve until `stop`. Raises NodeUnsuitable, DiskFault, InvalidRequest."""
    health.waits_for = "the recovery of the disk"
    store = await asyncio.to_thread(NodeStore.open, settings.store)
    origins = Origins(settings.origin, process="agent")
    engine = Engine(settings.engine, origins)
    exposition.before_scrape.append(EngineMeter(engine).update)
    disk = DiskActivities(store)
    prefetched = PrefetchedActivities(store)
    peers = _begin_peers(settings, store) if settings.peers.enabled else None
    stream = StreamDataset(
        store,
        engine,
        origins,
        concurrent_downloads=settings.agent.concurrent_downloads,
        recent_work=RecentWork(engine.totals),
        join=peers.join if peers is not None else alone,
    )
    health.waits_for = "Temporal"
    client = await connect(runtime)
    loop = asyncio.get_running_loop()

    def found_damage() -> None:
        """A reconcile has damaged data that a Pod uses fetched again. Called from any thread."""
        asyncio.run_coroutine_threadsafe(_reconcile(client, settings.agent.node, "damage was found on the disk"), loop)

    short = _worker(
        client,
        settings.agent,
        names.node_queue(settings.agent.node),
        settings.agent.slots,
        [
            ping,
            disk.check_disk,
            disk.await_disk,
            disk.unpin,
            disk.evict,
            disk.reconcile_disk,
            prefetched.hold_prefetched,
            prefetched.release_prefetched,
            RunStoreCommand(store, found_damage).run_store_command,
            # Operators from before the queue of downloads schedule them here.
            stream.stream_dataset,
        ],
    )
    downloads = _worker(
        client,
        settings.agent,
        names.node_stream_queue(settings.agent.node),
        settings.agent.download_slots,
        [stream.stream_dataset],
    )
    async with short, downloads:
        watching = asyncio.create_task(watch_disk(store.probe, health))
        _log.info("agent ready", root=str(settings.store.root), cache_id=store.cache_id)
        if store.recovery.rebuilt:
            reason = "the index was rebuilt or the disk is new: links of Pods may be missing"
            await _reconcile(client, settings.agent.node, reason)
        with store.background(on_damage=found_damage):
            await stop.wait()
        _log.info("agent stopping")
        watching.cancel()
        health.waits_for = "nothing: it is stopping"
        # Side by side: one after the other they would take twice the drain time.
        await asyncio.gather(short.shutdown(), downloads.shutdown())
    if peers is not None:
        await asyncio.to_thread(peers.close)
    engine.close()
    origins.close()


def _begin_peers(settings: Settings, store: NodeStore) -> PeerNode | EnrolledNode:
    """Begin to feed other nodes: now, or with the first certificate of the issuer. Raises InvalidRequest."""

    def begin(peers: PeerSettings) -> PeerNode:
        return PeerNode(settings.agent.node, peers, object_id, store.objects)

    if not settings.peers.issuer:
        return begin(settings.peers)
    from kube_cache.peers.enrolled_node import EnrolledNode  # noqa: PLC0415 -- for those who want it

    return EnrolledNode(settings.peers, begin)


async def _beat(health: Health) -> None:
    while True:
        health.beat()
        await asyncio.sleep(_BEAT_S)


async def watch_disk(probe: Callable[[], None], health: Health, *, every_s: float = 30, patience_s: float = 10) -> None:
    """Keep `health.waits_for`: whether the disk can be written. A disk that hangs keeps a thread until it answers."""
    while True:
        try:
            await asyncio.wait_for(asyncio.to_thread(probe), patience_s)
            health.waits_for = ""
        except (TimeoutError, DiskFault) as error:
            _log.warning("the disk does not take a probe", error=repr(error))
            health.waits_for = f"the disk, which does not take a small write: {error!r}"
        await asyncio.sleep(every_s)


def _worker(
    client: Client, agent: AgentSettings, queue: str, slots: int, activities: Sequence[Callable[..., Any]]
) -> Worker:
    return Worker(
        client,
        task_queue=queue,
        activities=activities,
        activity_executor=ThreadPoolExecutor(slots, thread_name_prefix="activity"),
        interceptors=[LogContext(), Metering(), Tracing()] if spans.is_on() else [LogContext(), Metering()],
        max_concurrent_activities=slots,
        # A Temporal frontend allows some 1,200 polls at once per namespace (frontend.namespaceCount): two a node.
        max_concurrent_activity_task_polls=1,
        # By default the SDK holds a heartbeat, whose answer carries a cancel, back for up to 60 s.
        max_heartbeat_throttle_interval=timedelta(seconds=1),
        default_heartbeat_throttle_interval=timedelta(seconds=1),
        graceful_shutdown_timeout=timedelta(seconds=agent.drain_s),
    )


async def _reconcile(client: Client, node: str, reason: str) -> None:
    """Have the operator reconcile this node now instead of at its next turn."""
    _log.info("asking for a reconcile", reason=reason)
    await reconcile_schedule.request(client, node, reason)
