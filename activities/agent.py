"""The agent process: one per node, it serves the node's queue and owns the node's disk.

Activities only; it has no Kubernetes credentials and asks for none.
"""

from __future__ import annotations

import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import structlog
from temporalio.client import Client, ScheduleOverlapPolicy
from temporalio.service import RPCError
from temporalio.worker import Worker

from activities.await_disk import AwaitDisk
from activities.check_disk import CheckDisk
from activities.evict import Evict
from activities.reconcile_disk import ReconcileDisk
from activities.store_command import StoreCommand
from activities.stream_dataset import StreamDataset
from activities.unpin import Unpin
from kube_cache import names
from kube_cache.errors import InvalidRequest
from kube_cache.settings import Settings, StoreSettings
from kube_cache.storage.engine import Engine
from kube_cache.storage.store import BackgroundScrub, NodeStore
from kube_cache.temporal import connect

_log = structlog.get_logger("kube_cache.agent")
_SCRUB_ASKS_S = 60.0


def run(settings: Settings) -> int:
    if not settings.agent.node:
        raise InvalidRequest(
            "KUBE_CACHE_AGENT__NODE is empty; set it to the node's name (spec.nodeName by the downward API)"
        )
    return asyncio.run(_run(settings))


async def _run(settings: Settings) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    store = await asyncio.to_thread(NodeStore.open, settings.store)
    engine = Engine(settings.engine)
    client = await connect()
    slots = settings.agent.slots
    worker = Worker(
        client,
        task_queue=names.node_queue(settings.agent.node),
        activities=[
            CheckDisk(store).check_disk,
            AwaitDisk(store).await_disk,
            StreamDataset(settings, store, engine).stream_dataset,
            Unpin(store).unpin,
            Evict(store).evict,
            ReconcileDisk(store).reconcile_disk,
            StoreCommand(store).store_command,
        ],
        activity_executor=ThreadPoolExecutor(slots, thread_name_prefix="activity"),
        max_concurrent_activities=slots,
        # A server allows some 1,200 polls per namespace and frontend: one a node.
        max_concurrent_activity_task_polls=1,
        # By default a heartbeat, and with it a cancel, waits up to 60 s.
        max_heartbeat_throttle_interval=timedelta(seconds=1),
        default_heartbeat_throttle_interval=timedelta(seconds=1),
        graceful_shutdown_timeout=timedelta(seconds=settings.agent.drain_s),
    )
    async with worker:
        _log.info("agent ready", node=settings.agent.node, root=str(settings.store.root), cache_id=store.cache_id)
        if store.found.rebuilt:
            await _reconcile(client, "the index was lost or the disk is new, and with it the pins of what Pods run on")
        with _scrub(store, settings.store, client):
            await stop.wait()
        _log.info("agent stopping", node=settings.agent.node)
    engine.close()
    return 0


def _scrub(store: NodeStore, settings: StoreSettings, client: Client) -> BackgroundScrub:
    """In the background. What it finds is fetched again after the next reconcile, so one is asked for."""
    loop = asyncio.get_running_loop()
    return BackgroundScrub(
        store,
        ask_s=min(_SCRUB_ASKS_S, settings.scrub_every_s),
        on_damage=lambda: asyncio.run_coroutine_threadsafe(_reconcile(client, "the scrub found damage"), loop),
    )


async def _reconcile(client: Client, why: str) -> None:
    """Now, instead of at the schedule's next turn."""
    _log.info("asking for a reconcile", reason=why)
    try:
        await client.get_schedule_handle(names.RECONCILE_SCHEDULE).trigger(overlap=ScheduleOverlapPolicy.BUFFER_ONE)
    except RPCError as error:  # no operator was ever here; its next turn finds it as well
        _log.warning("no reconcile could be asked for", error=error.message)
