"""The engine's scheduler: transfers in, parts dealt to workers, progress and verdicts out."""

from __future__ import annotations

import os
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

import structlog

from kube_cache.errors import Cancelled, KubeCacheError, SourceChanged
from kube_cache.settings import EngineSettings
from kube_cache.storage.engine.objects import ObjectState, Range
from kube_cache.storage.engine.rates import Bucket, Meter
from kube_cache.storage.engine.workers import Worker
from kube_cache.storage.s3 import ObjectStore, ObjectStores
from kube_cache.storage.transfer import FetchedObject, FetchJob, FetchProgress, RemoteObject

_log = structlog.get_logger("kube_cache.engine")
# 16 MiB and more in flight is what matters, whatever the number of connections (docs/design/engine.md).
_BUFFER_BELOW_16 = 4 << 20
_BUFFER = 2 << 20
_POLL_S = 0.25
_REPORT_S = 1.0
# Objects whose files are open at once in one transfer: enough to keep the workers busy with small ones.
_OPEN_OBJECTS_PER_WORKER = 2


class Engine:
    def __init__(self, settings: EngineSettings, stores: ObjectStores | None = None) -> None:
        self._settings = settings
        self._stores = stores or ObjectStores(settings)
        self._condition = threading.Condition()
        self._transfers: list[Transfer] = []
        self._threads: list[threading.Thread] = []
        self._workers: list[Worker] = []
        self._closing = False
        self.bucket = Bucket(settings.max_bytes_per_s)
        self._context = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE") or None)

    def fetch(
        self,
        jobs: Iterable[FetchJob],
        *,
        on_object: Callable[[FetchedObject], None],
        progress: Callable[[FetchProgress], None] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        priority: int = 0,
    ) -> None:
        """See `TransferEngine.fetch`."""
        jobs = list(jobs)
        if not jobs:
            return
        self._start_workers()
        transfer = Transfer(self, self._stores, jobs, on_object, priority)
        with self._condition:
            self._transfers.append(transfer)
            self._condition.notify_all()
        reported = 0.0
        try:
            while not transfer.wait(_POLL_S):
                if cancelled():
                    transfer.fail(Cancelled("cancelled; what was verified is kept"))
                now = time.monotonic()
                if progress is not None and now - reported >= _REPORT_S:
                    reported = now
                    progress(transfer.progress())
            if progress is not None and transfer.error is None:
                progress(transfer.progress())
        finally:
            with self._condition:
                self._transfers.remove(transfer)
            transfer.close()
        if transfer.error is not None:
            raise transfer.error

    def close(self) -> None:
        """Ends the workers; transfers under way end as cancelled."""
        with self._condition:
            self._closing = True
            for transfer in self._transfers:
                transfer.fail(Cancelled("the engine is closing"))
            self._condition.notify_all()
        for thread in self._threads:
            thread.join(timeout=5)

    def _start_workers(self) -> None:
        with self._condition:
            if self._threads:
                return
            count = self._settings.connections
            size = _BUFFER_BELOW_16 if count < 16 else _BUFFER
            for number in range(count):
                worker = Worker(size, self._context, self._settings.stall_timeout_s)
                thread = threading.Thread(target=self._work, args=(worker,), name=f"engine-{number}", daemon=True)
                self._workers.append(worker)
                self._threads.append(thread)
                thread.start()

    def _work(self, worker: Worker) -> None:
        while True:
            taken = self._take(worker)
            if taken is None:
                worker.close()
                return
            transfer, task = taken
            try:
                task(worker)
            except KubeCacheError as error:
                transfer.fail(error)
            except Exception as error:  # the thread must live on for other transfers; this one ends with what happened
                _log.exception("engine worker failed")
                transfer.fail(error)
            finally:
                transfer.done_with(worker)

    def _take(self, worker: Worker) -> tuple[Transfer, Callable[[Worker], None]] | None:
        """The next task: of the highest priority, and among those of the transfer that holds the fewest workers."""
        with self._condition:
            while True:
                if self._closing:
                    return None
                for transfer in sorted(self._transfers, key=lambda one: (-one.priority, one.holding)):
                    task = transfer.next_task(worker)
                    if task is not None:
                        return transfer, task
                self._condition.wait()

    def wake(self) -> None:
        with self._condition:
            self._condition.notify_all()


class Transfer:
    """One call of `fetch`: objects to open, parts to fetch, and how it ended."""

    def __init__(
        self,
        engine: Engine,
        stores: ObjectStores,
        jobs: list[FetchJob],
        on_object: Callable[[FetchedObject], None],
        priority: int,
    ) -> None:
        self._engine = engine
        self._stores = stores
        self._on_object = on_object
        self.priority = priority
        # Largest first: the long ones must not be the last to begin.
        self._jobs = deque(sorted(jobs, key=lambda job: -job.object.size))
        self._parts: deque[tuple[ObjectState, Range]] = deque()
        self._states: set[ObjectState] = set()
        self._left = len(jobs)
        self._workers: set[Worker] = set()
        self._total = sum(job.object.size for job in jobs)
        self._meter = Meter()
        self._resumed = 0
        self._lock = threading.RLock()
        self._over = threading.Event()
        self.error: Exception | None = None

    @property
    def holding(self) -> int:
        return len(self._workers)

    def store_of(self, obj: RemoteObject) -> ObjectStore:
        return self._stores.of(obj.scheme)

    # Called by workers.

    def next_task(self, worker: Worker) -> Callable[[Worker], None] | None:
        with self._lock:
            if self.error is not None:
                return None
            task: Callable[[Worker], None]
            if self._parts:
                task = partial(self._fetch, *self._parts.popleft())
            elif self._jobs:
                task = partial(self._open, self._jobs.popleft())
            else:
                return None
            self._workers.add(worker)
            return task

    def done_with(self, worker: Worker) -> None:
        with self._lock:
            self._workers.discard(worker)
            if not self._workers and (self.error is not None or self._left == 0):
                self._over.set()
        self._engine.wake()

    def _open(self, job: FetchJob, _worker: Worker) -> None:
        obj = job.object
        store = self.store_of(obj)
        head = store.head(obj)
        if head.etag != obj.etag or head.size != obj.size:
            raise SourceChanged(
                f"{obj.scheme}://{obj.bucket}/{obj.key} was replaced since it was listed (ETag {head.etag}, {head.size} bytes)",
                bucket=obj.bucket,
                key=obj.key,
            )
        state = ObjectState(job, head.checksum)
        with self._lock:
            self._states.add(state)
            self._resumed += state.resumed
            ranges = state.ranges()
            self._parts.extend((state, one) for one in ranges)
        if not ranges:
            self._finish(state)

    def _fetch(self, state: ObjectState, one: Range, worker: Worker) -> None:
        crc64, other = worker.fetch(self, state, one)
        if state.finished(one, crc64, other):
            self._finish(state)

    def _finish(self, state: ObjectState) -> None:
        verdict = state.verdict()
        if isinstance(verdict, list):
            _log.warning("checksum does not match; fetching once more", key=state.job.object.key, parts=len(verdict))
            with self._lock:
                self._meter.take_back(sum(one.length for one in verdict))
                self._parts.extend((state, one) for one in verdict)
            return
        with self._lock:
            self._states.discard(state)
        state.close()
        self._on_object(verdict)
        with self._lock:
            self._left -= 1

    def moved(self, count: int) -> None:
        self._meter.add(count)
        self.pause(self._engine.bucket.take(count))

    def pause(self, seconds: float) -> None:
        """Sleep, but not past the end of this transfer. Raises what ended it."""
        if seconds > 0:
            deadline = time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0:
                self.check()
                time.sleep(min(left, _POLL_S))
        self.check()

    def check(self) -> None:
        if self.error is not None:
            raise Cancelled("another part ended the transfer")

    # Called by the thread of `fetch`.

    def fail(self, error: Exception) -> None:
        """The first error is the one that counts; workers stop at their next slice, those who wait for bytes are woken."""
        with self._lock:
            if self.error is not None:
                return
            self.error = error
            workers = list(self._workers)
            if not workers:
                self._over.set()
        for worker in workers:
            worker.abort()

    def wait(self, seconds: float) -> bool:
        return self._over.wait(seconds)

    def progress(self) -> FetchProgress:
        done = min(self._total, self._resumed + self._meter.total)
        return FetchProgress(done, self._total, self._meter.rate())

    def close(self) -> None:
        for state in self._states:
            state.close()
        self._states.clear()
