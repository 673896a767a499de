"""`stream_dataset`: download one snapshot to this node's disk, verify and publish it. Node queue.

The activity blocks a thread. The engine's own threads do the I/O, and one thread sends a heartbeat each second, also
while the activity waits for its turn, so that a busy node does not look dead. Resuming relies on the journals on the
disk, never on heartbeats.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.node import StreamInput, StreamProgress, StreamResult
from kube_cache.dataset.transfer import FetchProgress, TransferEngine
from kube_cache.dataset.uri import DatasetUri
from kube_cache.errors import Cancelled, DiskFault, NodeUnsuitable, PersistentDiskFault, SourceChanged
from kube_cache.origin.listing import list_dataset
from kube_cache.origin.s3 import Origins
from kube_cache.store.node_store import NodeStore

_log = structlog.get_logger("kube_cache.stream")
# Seconds between two heartbeats.
_BEAT_S = 1.0
# Attempts on a faulty disk before the Pod goes to another node: three seconds with their pauses, so a hiccup passes.
_MAX_DISK_ATTEMPTS = 3


class StreamDataset:
    def __init__(
        self, store: NodeStore, engine: TransferEngine, origins: Origins, *, concurrent_downloads: int
    ) -> None:
        self._store = store
        self._engine = engine
        self._origins = origins
        # Limits downloads, which the worker's slots do not: a queued activity holds a slot, so that it can send
        # heartbeats.
        self._turns = threading.Semaphore(concurrent_downloads)

    @activity.defn(name=names.STREAM_DATASET, no_thread_cancel_exception=True)
    @as_application_errors
    def stream_dataset(self, arg: StreamInput) -> StreamResult:
        """Download the snapshot if the source still is what was resolved.

        Running twice fetches nothing twice: objects in the store are kept, and parts that the journals prove are
        resumed. Two runs at once never write one file; the second waits for the first.

        Raises NodeUnsuitable (another disk), SourceChanged, InsufficientDisk, ChecksumMismatch, AccessDenied,
        DatasetNotFound, SourceUnavailable, DiskFault, and PersistentDiskFault from the third attempt on.
        """
        if arg.cache_id != self._store.cache_id:
            raise NodeUnsuitable(
                f"this node's disk is {self._store.cache_id}, the download was meant for {arg.cache_id}: the disk was replaced",
                cache_id=self._store.cache_id,
            )
        started = time.monotonic()
        beats = _Heartbeats(arg.snapshot.bytes)
        with beats.running(), self._turn(), _persistent_after_max_attempts():
            beats.state = "listing"
            uri = DatasetUri.parse(arg.snapshot.uri)
            manifest = list_dataset(self._origins.of(uri.scheme), uri, on_page=beats.listed)
            if manifest.digest != arg.snapshot.digest:
                raise SourceChanged(f"{arg.snapshot.uri} changed since it was resolved", uri=arg.snapshot.uri)
            beats.state = "fetching"
            download = self._store.download(
                manifest, self._engine, progress=beats.fetched, cancelled=_should_stop, priority=arg.priority
            )
        _log.info(
            "snapshot is ready",
            uri=arg.snapshot.uri,
            digest=arg.snapshot.digest,
            fetched_bytes=download.fetched_bytes,
            resumed_bytes=download.resumed_bytes,
        )
        return StreamResult(
            arg.snapshot.digest,
            arg.snapshot.bytes,
            download.fetched_bytes,
            time.monotonic() - started,
            str(download.verified),
        )

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for one of the concurrent downloads. Raises Cancelled, or an ApplicationError when the agent drains."""
        while not self._turns.acquire(timeout=_BEAT_S / 4):
            if _should_stop():
                raise Cancelled("cancelled while queued")
        try:
            yield
        except Cancelled:
            if activity.is_worker_shutdown():
                # Retryable, unlike Cancelled: the restarted agent resumes the same activity from the journals.
                raise ApplicationError("the agent is shutting down", type="WorkerDraining") from None
            raise
        finally:
            self._turns.release()


@contextmanager
def _persistent_after_max_attempts() -> Iterator[None]:
    """Raise PersistentDiskFault for the DiskFault of a late attempt."""
    try:
        yield
    except DiskFault as fault:
        if activity.info().attempt < _MAX_DISK_ATTEMPTS:
            raise
        raise PersistentDiskFault(fault.message, **fault.details) from fault


def _should_stop() -> bool:
    return activity.is_cancelled() or activity.is_worker_shutdown()


class _Heartbeats:
    """Sends the latest progress each second in the activity's context, whatever the engine does."""

    def __init__(self, total: int) -> None:
        self.state = "queued"
        self._latest = FetchProgress(0, total, 0.0)

    def listed(self, _objects: int) -> None:
        """Callback of the list. Raises Cancelled."""
        if _should_stop():
            raise Cancelled("cancelled while listing")

    def fetched(self, progress: FetchProgress) -> None:
        """Callback of the download."""
        self._latest = progress

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
            latest = self._latest
            activity.heartbeat(StreamProgress(self.state, latest.done_bytes, latest.total_bytes, latest.bytes_per_s))
            if stop.wait(_BEAT_S):
                return
