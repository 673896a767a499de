"""`Engine`: calls in, tasks dealt to workers. One lock for all bookkeeping, never held during I/O.

Who gets the next task: first a call that holds no connection at all (a small pull beside a huge one, or a low priority
beside a high one, always moves), then the higher priority, then whoever holds the fewest.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from kube_cache.dataset.transfer import FetchedObject, FetchJob, FetchProgress
from kube_cache.engine.buffers import Buffers, buffer_size
from kube_cache.engine.call import Call, Task
from kube_cache.engine.governor import Governor
from kube_cache.engine.lookup import ObjectLookup
from kube_cache.engine.ranges import MAX_SMALL_BYTES
from kube_cache.engine.settings import EngineSettings
from kube_cache.engine.source import Source
from kube_cache.engine.throttle import BandwidthLimiter, RequestLimiter
from kube_cache.engine.worker import Worker
from kube_cache.errors import Cancelled, KubeCacheError
from kube_cache.origin.s3 import Origins

_log = logging.getLogger("kube_cache.engine")
_POLL_S: Final = 0.1
_REPORT_S: Final = 1.0
_MIN_MANY_SMALL: Final = 64
"""Small objects that are worth more connections from the beginning; fewer are over before that matters."""
_IDLE_S: Final = 20.0
"""After which an idle worker hangs up; stores close kept connections after some 20 s themselves."""


class Engine:
    """Implements `kube_cache.dataset.transfer.TransferEngine`."""

    def __init__(self, settings: EngineSettings, origins: Origins) -> None:
        self._settings = settings
        self.source = Source(origins, settings.stall_timeout_s)
        self.lock = threading.Condition()
        self.request_limiter = RequestLimiter()
        self.idle = 0
        self._received_before = 0
        """Bytes that workers received that are gone."""
        self._max_connections = max(settings.connections, settings.max_connections)
        self._lookup = ObjectLookup(origins, self.request_limiter, settings.give_up_s)
        self._bandwidth_limiter = BandwidthLimiter(settings.max_bytes_per_s)
        self.capped = settings.max_bytes_per_s > 0
        self._buffers = Buffers(self._max_connections)
        self._governor = Governor(self, settings.connections, self._max_connections)
        self._calls: list[Call] = []
        self._workers: dict[int, tuple[Worker, threading.Thread]] = {}
        self._closing = False

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
        call = Call(self.lock, self._lookup, jobs, on_object, priority, hashes=self._settings.verify_hashes)
        many_small = sum(job.object.size <= MAX_SMALL_BYTES for job in jobs) >= _MIN_MANY_SMALL
        with self.lock:
            if self._closing:
                raise Cancelled("the engine is closed")
            self._calls.append(call)
            self._governor.work_begins(many_small=many_small)
            self._start_workers()
            self.lock.notify_all()
        call.start()
        try:
            self._watch(call, progress, cancelled)
        except BaseException as error:
            call.control.fail(error)
            raise
        finally:
            call.join()
            with self.lock:
                self._calls.remove(call)
                if not self._calls:
                    self._governor.work_ends()
        if call.control.error is not None:
            raise call.control.error
        if progress is not None:
            progress(call.progress())

    @staticmethod
    def _watch(call: Call, progress: Callable[[FetchProgress], None] | None, cancelled: Callable[[], bool]) -> None:
        reported = 0.0
        while not call.control.wait(_POLL_S):
            if cancelled():
                call.control.fail(Cancelled("cancelled; what was verified is kept"))
            now = time.monotonic()
            if progress is not None and now - reported >= _REPORT_S:
                reported = now
                progress(call.progress())

    def close(self) -> None:
        """Ends workers, connections and memory; calls under way end as cancelled."""
        with self.lock:
            self._closing = True
            calls = list(self._calls)
            threads = [thread for _, thread in self._workers.values()]
            self.lock.notify_all()
        for call in calls:
            call.control.fail(Cancelled("the engine is closing; what was verified is kept"))
        self._governor.close()
        for thread in threads:
            thread.join()
        self._buffers.close()

    # For the governor.

    def workers(self) -> list[Worker]:
        with self.lock:
            return [worker for worker, _ in self._workers.values()]

    def received_bytes(self) -> int:
        """Bytes that all workers ever received."""
        with self.lock:
            return self._received_before + sum(worker.received for worker, _ in self._workers.values())

    def resize(self) -> None:
        with self.lock:
            self._start_workers()
            self.lock.notify_all()

    # The workers' threads.

    def _start_workers(self) -> None:
        """As many workers as there should be connections. Under the lock; too many leave by themselves."""
        while not self._closing and len(self._workers) < self._governor.connections:
            slot, view = self._buffers.acquire()
            worker = Worker(
                slot,
                self.source,
                self.request_limiter,
                self._bandwidth_limiter,
                view,
                self._settings.give_up_s,
                self.workers,
            )
            thread = threading.Thread(target=self._work, args=(worker,), name=f"engine-{slot}", daemon=True)
            self._workers[slot] = (worker, thread)
            thread.start()

    def _work(self, worker: Worker) -> None:
        while (taken := self._take(worker)) is not None:
            call, task = taken
            try:
                task(worker)
            except KubeCacheError as error:
                call.control.fail(error)
            except BaseException as error:  # the thread lives on for other calls; this one ends with what happened
                _log.exception("engine worker failed")
                call.control.fail(error)
            finally:
                call.release(worker)
        worker.client.close()
        worker.view.release()
        self._buffers.release(worker.number)

    def _take(self, worker: Worker) -> tuple[Call, Task] | None:
        with self.lock:
            while True:
                if self._closing or len(self._workers) > self._governor.connections:
                    del self._workers[worker.number]  # here, or all who see too many would leave
                    self._received_before += worker.received
                    return None
                for call in sorted(self._calls, key=_turn_key):
                    task = call.next_task(worker)
                    if task is not None:
                        self._fit_buffer(worker)
                        return call, task
                self.idle += 1
                try:
                    woken = self.lock.wait(_IDLE_S)
                finally:
                    self.idle -= 1
                if not woken:
                    worker.client.close()

    def _fit_buffer(self, worker: Worker) -> None:
        """The buffer that each worker may use depends on how many there are."""
        size = buffer_size(len(self._workers))
        if size < worker.buffer_bytes:
            self._buffers.shrink(worker.number)
        worker.buffer_bytes = size


def _turn_key(call: Call) -> tuple[bool, int, int, float]:
    return (bool(call.holding), -call.priority, len(call.holding), call.since)
