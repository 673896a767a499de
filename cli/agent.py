"""`kube-cache agent`: the process of one node, which serves the node's queue and owns the node's disk.

It puts the store, the engine and the node activities together and scrubs the disk in the background. It runs no
workflows, has no Kubernetes credentials and asks for none.
"""

from __future__ import annotations

import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import timedelta

import structlog
from temporalio.client import Client, ScheduleOverlapPolicy
from temporalio.service import RPCError
from temporalio.worker import Worker

from activities.node.disk import DiskActivities
from activities.node.store_command import RunStoreCommand
from activities.node.stream_dataset import StreamDataset
from kube_cache import names
from kube_cache.engine.engine import Engine
from kube_cache.errors import InvalidRequest
from kube_cache.origin.s3 import Origins
from kube_cache.settings import Settings
from kube_cache.store.node_store import NodeStore
from kube_cache.telemetry.logs import configure_logging
from kube_cache.temporal.client import connect

_log = structlog.get_logger("kube_cache.agent")


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Return the exit code. Raises InvalidRequest, NodeUnsuitable, DiskFault."""
    configure_logging(settings.telemetry.log_level, settings.telemetry.log_format)
    if not settings.agent.node:
        raise InvalidRequest(
            "KUBE_CACHE_AGENT__NODE is empty; set it to the node's name (spec.nodeName by the downward API)"
        )
    return asyncio.run(_run(settings))


async def _run(settings: Settings) -> int:
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    store = await asyncio.to_thread(NodeStore.open, settings.store)
    origins = Origins(settings.origin)
    engine = Engine(settings.engine, origins)
    disk = DiskActivities(store)
    stream = StreamDataset(store, engine, origins, concurrent_downloads=settings.agent.concurrent_downloads)
    client = await connect()
    slots = settings.agent.slots
    worker = Worker(
        client,
        task_queue=names.node_queue(settings.agent.node),
        activities=[
            disk.check_disk,
            disk.await_disk,
            disk.unpin,
            disk.evict,
            disk.reconcile_disk,
            stream.stream_dataset,
            RunStoreCommand(store).run_store_command,
        ],
        activity_executor=ThreadPoolExecutor(slots, thread_name_prefix="activity"),
        max_concurrent_activities=slots,
        # One poll per node: a Temporal frontend allows some 1,200 at once per namespace (frontend.namespaceCount).
        max_concurrent_activity_task_polls=1,
        # By default the SDK holds a heartbeat, whose answer carries a cancel, back for up to 60 s.
        max_heartbeat_throttle_interval=timedelta(seconds=1),
        default_heartbeat_throttle_interval=timedelta(seconds=1),
        graceful_shutdown_timeout=timedelta(seconds=settings.agent.drain_s),
    )
    async with worker:
        _log.info("agent ready", node=settings.agent.node, root=str(settings.store.root), cache_id=store.cache_id)
        if store.recovery.rebuilt:
            await _reconcile(client, "the index was lost or the disk is new, and with it the pins of what Pods run on")
        with _scrub(store, client):
            await stop.wait()
        _log.info("agent stopping", node=settings.agent.node)
    engine.close()
    origins.close()
    return 0


def _scrub(store: NodeStore, client: Client) -> AbstractContextManager[None]:
    """Scrub in the background. A reconcile has damaged data fetched again, so the scrub asks for one at once."""
    loop = asyncio.get_running_loop()
    return store.background_scrub(
        on_damage=lambda: asyncio.run_coroutine_threadsafe(_reconcile(client, "the scrub found damage"), loop),
    )


async def _reconcile(client: Client, reason: str) -> None:
    """Have the operator reconcile now instead of at the schedule's next turn."""
    _log.info("asking for a reconcile", reason=reason)
    try:
        await client.get_schedule_handle(names.RECONCILE_SCHEDULE).trigger(overlap=ScheduleOverlapPolicy.BUFFER_ONE)
    except RPCError as error:  # no operator has made the schedule yet; the first one reconciles at once
        _log.warning("no reconcile could be asked for", error=error.message)
