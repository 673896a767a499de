"""`stream_dataset`: download one snapshot to this node's disk, verify and publish it. Node queue.

The activity blocks a thread. The engine's own threads do the I/O, and one thread sends a heartbeat each second, also
while the activity waits for its turn, so that a busy node does not look dead. Resuming relies on the journals on the
disk, never on heartbeats.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import structlog
from temporalio import activity

from activities.failures import as_application_errors
from activities.node.lanes import Lanes, yielded
from activities.node.recent_work import RecentWork
from activities.node.stopping import retried_when_draining, should_stop
from kube_cache import names
from kube_cache.contracts.common import BannedNeighbour
from kube_cache.contracts.node import StreamInput, StreamProgress, StreamResult
from kube_cache.dataset.exchange import Exchange, Join
from kube_cache.dataset.remote import Manifest
from kube_cache.dataset.transfer import FetchProgress, TransferEngine
from kube_cache.dataset.uri import DatasetUri
from kube_cache.errors import Cancelled, DiskFault, NodeUnsuitable, PersistentDiskFault, SourceChanged
from kube_cache.origin.listing import list_dataset
from kube_cache.origin.s3 import Origins
from kube_cache.store.download import DownloadResult
from kube_cache.store.node_store import NodeStore
from kube_cache.telemetry import prefetch_metrics, spans, store_metrics
from kube_cache.telemetry.stages import Stage
from kube_cache.telemetry.steps import timed

_log = structlog.get_logger("kube_cache.stream")
# Seconds between two heartbeats.
_BEAT_S = 1.0
# Banned neighbours that a result names; the log has all of them. Arbitrary: a Pod shows three.
_MAX_BANNED = 16
# Attempts on a faulty disk before the Pod goes to another node: three seconds with their pauses, so a hiccup passes.
_MAX_DISK_ATTEMPTS = 3


@contextmanager
def alone(manifest: Manifest, token: str, *, expects_others: bool) -> Iterator[Exchange | None]:  # noqa: ARG001
    """Take nothing from other nodes, and give them nothing."""
    yield None


class StreamDataset:
    def __init__(
        self,
        store: NodeStore,
        engine: TransferEngine,
        origins: Origins,
        *,
        concurrent_downloads: int,
        recent_work: RecentWork | None = None,
        join: Join = alone,
    ) -> None:
        """recent_work: of the engine, to be told with the progress; None = tell nothing of it.

        join: begins the exchange with other nodes.
        """
        self._store = store
        self._engine = engine
        self._origins = origins
        # Limits downloads, which the worker's slots do not: a queued activity holds a slot, so that it can send
        # heartbeats.
        self._turns = threading.Semaphore(concurrent_downloads)
        self._lanes = Lanes()
        self._recent_work = recent_work
        self._join = join

    @activity.defn(name=names.STREAM_DATASET, no_thread_cancel_exception=True)
    @as_application_errors
    def stream_dataset(self, arg: StreamInput) -> StreamResult:
        """Download the snapshot if the source still is what was resolved.

        Running twice fetches nothing twice: objects in the store are kept, and parts that the journals prove are
        resumed. Two runs at once never write one file; the second waits for the first.

        Raises NodeUnsuitable (another disk), SourceChanged, InsufficientDisk, ChecksumMismatch, AccessDenied,
        DatasetNotFound, SourceUnavailable, DiskFault, PersistentDiskFault from the third attempt on, and of a prefetch
        PrefetchYielded.
        """
        if arg.cache_id != self._store.cache_id:
            raise NodeUnsuitable(
                f"this node's disk is {self._store.cache_id}, the download was meant for {arg.cache_id}: the disk was replaced",
                cache_id=self._store.cache_id,
            )
        started = time.monotonic()
        beats = _Heartbeats(arg, self._store, self._recent_work)
        should_end = self._should_end if arg.spare else should_stop
        with (
            beats.running(),
            self._lane(spare=arg.spare),
            self._turn(spare=arg.spare),
            _counted(),
            _persistent_after_max_attempts(),
        ):
            beats.state = "listing"
            uri = DatasetUri.parse(arg.snapshot.uri)
            with timed(Stage.RESOLVE):
                manifest = list_dataset(self._origins.of(uri.scheme), uri, on_page=lambda _: _heed(should_end))
            if manifest.digest != arg.snapshot.digest:
                raise SourceChanged(f"{arg.snapshot.uri} changed since it was resolved", uri=arg.snapshot.uri)
            if not arg.spare:
                self._lanes.wait_for_prefetches(should_stop)
            beats.state = "fetching"
            _log.info("download begins", digest=arg.snapshot.digest, bytes=arg.snapshot.bytes)
            # A download without a token fetches from the origin alone. A repair has none: no Pod asks for it with the
            # rights of today.
            token = arg.consumer.peer_token if arg.consumer is not None else ""
            # What was true when the Pod joined may not be when an attempt follows another.
            expects = arg.consumer is None or arg.consumer.expects_others or activity.info().attempt > 1
            with (self._join if token else alone)(manifest, token, expects_others=expects) as exchange:
                beats.follow(exchange)
                download = self._store.download(
                    manifest,
                    self._engine,
                    progress=beats.fetched,
                    cancelled=should_end,
                    priority=arg.priority,
                    resolved_at=arg.snapshot.resolved_at,
                    exchange=exchange,
                    spare=arg.spare,
                    max_bytes_per_s=arg.max_bytes_per_s,
                )
                banned = [BannedNeighbour(*lie) for lie in exchange.take_lies()] if exchange is not None else []
        if download.fetched_bytes:
            store_metrics.SPEED.observe(download.fetched_bytes / max(download.seconds, 0.001))
        _log.info(
            "snapshot is ready",
            digest=arg.snapshot.digest,
            verified=str(download.verified),
            fetched_bytes=download.fetched_bytes,
            resumed_bytes=download.resumed_bytes,
            neighbour_bytes=download.from_neighbours,
            neighbours=len(download.neighbour_bytes),
            seconds=round(time.monotonic() - started, 3),
        )
        return StreamResult(
            arg.snapshot.digest,
            arg.snapshot.bytes,
            download.fetched_bytes,
            time.monotonic() - started,
            str(download.verified),
            _note(arg, download),
            download.from_neighbours,
            len(download.neighbour_bytes),
            banned[:_MAX_BANNED],
        )

    def _should_end(self) -> bool:
        """Whether a prefetch is to end its attempt."""
        return should_stop() or self._lanes.must_yield()

    @contextmanager
    def _lane(self, *, spare: bool) -> Iterator[None]:
        """Let a prefetch run only while no Pod's download does. Raises PrefetchYielded."""
        if not spare:
            with self._lanes.for_pod():
                yield
            return
        with self._lanes.for_prefetch():
            try:
                yield
            except Cancelled:
                if should_stop() or not self._lanes.must_yield():
                    raise
                prefetch_metrics.YIELDS.labels("running").inc()
                raise yielded("a Pod waits for other data on this node") from None

    @contextmanager
    def _turn(self, *, spare: bool) -> Iterator[None]:
        """Wait for one of the concurrent downloads, which a prefetch is none of.

        Raises Cancelled, or an ApplicationError when the agent drains.
        """
        if spare:
            with retried_when_draining():
                yield
            return
        with timed(Stage.WAIT), store_metrics.DOWNLOADS_NOW.labels("queued").track_inprogress():
            while not self._turns.acquire(timeout=_BEAT_S / 4):
                if should_stop():
                    raise Cancelled("cancelled while queued")
        try:
            with retried_when_draining():
                yield
        finally:
            self._turns.release()


def _note(arg: StreamInput, download: DownloadResult) -> str:
    """Say on the span of this download what was fetched; return its place, empty without a span."""
    span = spans.current()
    if span is None:
        return ""
    span.attributes |= {
        "kube_cache.dataset": arg.snapshot.uri,
        "kube_cache.snapshot": arg.snapshot.digest,
        "kube_cache.bytes": arg.snapshot.bytes,
        "kube_cache.fetched_bytes": download.fetched_bytes,
        "kube_cache.resumed_bytes": download.resumed_bytes,
        "kube_cache.origin_bytes": download.origin_bytes,
        "kube_cache.neighbour_bytes": download.from_neighbours,
        "kube_cache.neighbours": len(download.neighbour_bytes),
        "kube_cache.verified": str(download.verified),
    }
    return str(span.place)


def _heed(should_end: Callable[[], bool]) -> None:
    """Raises Cancelled."""
    if should_end():
        raise Cancelled("cancelled while listing")


@contextmanager
def _counted() -> Iterator[None]:
    """Count the download while it runs, and how it ended."""
    outcome = "failed"
    try:
        with store_metrics.DOWNLOADS_NOW.labels("running").track_inprogress():
            yield
        outcome = "done"
    except Cancelled:
        outcome = "cancelled"
        _log.info("download was cancelled")
        raise
    finally:
        store_metrics.DOWNLOADS.labels(outcome).inc()


@contextmanager
def _persistent_after_max_attempts() -> Iterator[None]:
    """Raise PersistentDiskFault for the DiskFault of a late attempt."""
    try:
        yield
    except DiskFault as fault:
        if activity.info().attempt < _MAX_DISK_ATTEMPTS:
            raise
        raise PersistentDiskFault(fault.message, **fault.details) from fault


def _last_done_bytes() -> int:
    """Bytes on the disk by the last heartbeat of an earlier attempt."""
    details = activity.info().heartbeat_details
    return int(details[0].get("done_bytes", 0)) if details and isinstance(details[0], dict) else 0


class _Heartbeats:
    """Sends the latest progress each second in the activity's context, whatever the engine does."""

    def __init__(self, arg: StreamInput, store: NodeStore, recent_work: RecentWork | None) -> None:
        self._store = store
        self.state = "queued"
        self._recent_work = recent_work
        # Until this attempt has looked at the disk the last one knows best: if this agent goes away, too, it is waited
        # for as long as what its disk holds is worth.
        self._latest = FetchProgress(max(arg.done_bytes, _last_done_bytes()), arg.snapshot.bytes, 0.0)
        self._exchange: Exchange | None = None
        self._taken_before: Mapping[str, int] = {}

    def fetched(self, progress: FetchProgress) -> None:
        """Callback of the download."""
        self._latest = progress

    def follow(self, exchange: Exchange | None) -> None:
        """Tell from now on what other nodes have sent since."""
        if exchange is not None:
            self._taken_before = dict(exchange.taken())
            self._exchange = exchange

    @contextmanager
    def running(self) -> Iterator[None]:
        stop = threading.Event()
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(self._beat, stop), name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _beat(self, stop: threading.Event) -> None:
        while True:
            latest, disk = self._latest, self._store.last_capacity
            work = self._recent_work.sample() if self._recent_work and self.state == "fetching" else ({}, {})
            progress = StreamProgress(self.state, latest.done_bytes, latest.total_bytes, latest.bytes_per_s, *work)
            if disk is not None:
                progress = replace(progress, free_bytes=disk.free_bytes, reserved_bytes=disk.reserved_bytes)
            if self._exchange is not None:
                sent = self._sent(self._exchange)
                progress = replace(progress, neighbour_bytes=sum(sent), neighbours=len(sent))
            activity.heartbeat(progress)
            if stop.wait(_BEAT_S):
                return

    def _sent(self, exchange: Exchange) -> list[int]:
        """Return the bytes of each node that has sent any."""
        before = self._taken_before
        taken = (count - before.get(node, 0) for node, count in exchange.taken().items() if node)
        return [count for count in taken if count > 0]
