"""`Engine`: takes calls of `fetch`, deals their tasks to workers. One lock for all bookkeeping, never held during I/O.

Order of the tasks: first that of a call that holds no worker, so that a small pull beside a huge one, or a low priority
beside a high one, always moves; then the higher priority; then the call that holds the fewest workers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from kube_cache.dataset import checksums
from kube_cache.dataset.source import Origins
from kube_cache.dataset.transfer import FetchedObject, FetchJob, FetchProgress
from kube_cache.engine import tls
from kube_cache.engine.buffers import Buffers, buffer_size
from kube_cache.engine.call import Call, Task
from kube_cache.engine.governor import Governor
from kube_cache.engine.lookup import ObjectLookup
from kube_cache.engine.ranges import MAX_SMALL_BYTES
from kube_cache.engine.settings import EngineSettings
from kube_cache.engine.throttle import BandwidthLimiter, RequestLimiter
from kube_cache.engine.totals import Totals
from kube_cache.engine.tracing import CallTrace
from kube_cache.engine.wire import Wire
from kube_cache.engine.worker import Worker
from kube_cache.errors import Cancelled, KubeCacheError

_log = logging.getLogger("kube_cache.engine")
_POLL_S: Final = 0.1
"""Interval of `cancelled`; a cancelled call must end within 2 s."""
_REPORT_S: Final = 1.0
_MIN_MANY_SMALL: Final = 64
"""From so many small objects on, more connections are worth their start; fewer are fetched before that matters."""
_IDLE_S: Final = 20.0
"""Seconds until an idle worker closes its connection; object stores close kept connections after about as long."""


class _RunningWorker(NamedTuple):
    worker: Worker
    thread: threading.Thread


class Engine:
    """Implements `kube_cache.dataset.transfer.TransferEngine`."""

    def __init__(self, settings: EngineSettings, origins: Origins) -> None:
        self._settings = settings
        self.origins = origins
        self._wire = Wire(settings.stall_timeout_s)
        self.lock = threading.Condition()
        self.request_limiter = RequestLimiter()
        self.idle = 0
        self.capped = settings.max_bytes_per_s > 0
        self._ended = Totals()
        """Of the workers and calls that have ended."""
        self._max_connections = max(settings.connections, settings.max_connections)
        self._lookup = ObjectLookup(origins, self.request_limiter, settings.give_up_s)
        self._bandwidth_limiter = BandwidthLimiter(settings.max_bytes_per_s)
        self._buffers = Buffers(self._max_connections)
        self._governor = Governor(self, settings.connections, self._max_connections)
        self._calls: list[Call] = []
        self._workers: dict[int, _RunningWorker] = {}
        """By number of the buffer's slot."""
        self._closing = False
        _log.info(
            "the engine receives TLS by %s, and computes checksums by %s",
            tls.implementation(),
            checksums.implementation(),
        )

    def fetch(
        self,
        jobs: Iterable[FetchJob],
        *,
        on_object: Callable[[FetchedObject], None],
        progress: Callable[[FetchProgress], None] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        priority: int = 0,
        max_bytes_per_s: int = 0,
    ) -> None:
        """See `TransferEngine.fetch`."""
        jobs = list(jobs)
        if not jobs:
            return
        call = Call(
            self.lock,
            self._lookup,
            jobs,
            on_object,
            priority,
            hashes=self._settings.verify_hashes,
            trace=CallTrace.begin(jobs),
            max_bytes_per_s=max_bytes_per_s,
        )
        many_small = sum(job.object.size <= MAX_SMALL_BYTES for job in jobs) >= _MIN_MANY_SMALL
        with self.lock:
            if self._closing:
                raise Cancelled("the engine is closed")
            self._calls.append(call)
        try:
            with self.lock:
                self._governor.work_begins(many_small=many_small)
                self._start_workers()
                self.lock.notify_all()
            call.start()
            self._await_end(call, progress, cancelled)
        except BaseException as error:
            call.control.fail(error)
            raise
        finally:
            call.join()
            with self.lock:
                self._calls.remove(call)
                self._ended.retries["checksum"] += call.control.refetched
                if not self._calls:
                    self._governor.work_ends()
        if call.control.error is not None:
            raise call.control.error
        if progress is not None:
            progress(call.progress())

    def close(self) -> None:
        """End workers, connections and memory. Calls under way fail with Cancelled."""
        with self.lock:
            self._closing = True
            calls = list(self._calls)
            threads = [running.thread for running in self._workers.values()]
            self.lock.notify_all()
        for call in calls:
            call.control.fail(Cancelled("the engine is closing; what was verified is kept"))
        self._governor.close()
        for thread in threads:
            thread.join()
        self._wire.parked.close()
        self._buffers.close()

    @staticmethod
    def _await_end(call: Call, progress: Callable[[FetchProgress], None] | None, cancelled: Callable[[], bool]) -> None:
        """Wait for the end of the call; poll `cancelled` and report progress meanwhile."""
        reported_at = 0.0
        while not call.control.wait(_POLL_S):
            call.ask_plans()
            if cancelled():
                call.control.fail(Cancelled("cancelled; what was verified is kept"))
            now = time.monotonic()
            if progress is not None and now - reported_at >= _REPORT_S:
                reported_at = now
                progress(call.progress())

    # For the governor.

    def workers(self) -> list[Worker]:
        with self.lock:
            return [running.worker for running in self._workers.values()]

    def received_bytes(self) -> int:
        """Return the bytes that all workers received since the start."""
        with self.lock:
            return self._ended.received_bytes + sum(running.worker.received for running in self._workers.values())

    # For the metrics.

    def totals(self) -> Totals:
        """Return what all workers and calls have done since the start."""
        sums = Totals()
        with self.lock:
            sums.add(self._ended)
            for running in self._workers.values():
                # First, so that no byte of a neighbour that comes meanwhile looks like one of the origin.
                sums.received_bytes += running.worker.received
                sums.add(running.worker.totals)
            sums.retries["checksum"] += sum(call.control.refetched for call in self._calls)
        sums.hedges += self._governor.hedges
        return sums

    def bytes_per_s(self) -> float:
        """Return the rate of all calls over the last seconds."""
        with self.lock:
            calls = list(self._calls)
        return sum(call.control.meter.rate() for call in calls)

    def resize(self) -> None:
        """Start missing workers, and wake idle ones so that those beyond the governor's number end."""
        with self.lock:
            self._start_workers()
            self.lock.notify_all()

    # For the workers' threads.

    def _start_workers(self) -> None:
        """Start workers until there are as many as the governor wants. Call under the lock."""
        while not self._closing and len(self._workers) < self._governor.connections:
            slot, view = self._buffers.acquire()
            worker = Worker(
                slot,
                self.origins,
                self._wire,
                self.request_limiter,
                self._bandwidth_limiter,
                view,
                self._settings.give_up_s,
                self.workers,
            )
            thread = threading.Thread(target=self._work, args=(worker,), name=f"engine-{slot}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the limit of threads; the ones that run do the work
                view.release()
                self._buffers.release(slot)
                if not self._workers:
                    raise
                _log.warning("no thread for connection %d", len(self._workers) + 1, exc_info=True)
                return
            self._workers[slot] = _RunningWorker(worker, thread)

    def _work(self, worker: Worker) -> None:
        while (taken := self._take(worker)) is not None:
            call, task = taken
            try:
                task(worker)
            except KubeCacheError as error:
                call.control.fail(error)
            except BaseException as error:  # ends this call only; the thread goes on for others
                _log.exception("engine worker failed")
                call.control.fail(error)
            finally:
                call.release(worker)
        worker.client.close()
        worker.view.release()
        self._buffers.release(worker.number)

    def _take(self, worker: Worker) -> tuple[Call, Task] | None:
        """Wait for a task; None when the worker is to end."""
        with self.lock:
            while True:
                if self._closing or len(self._workers) > self._governor.connections:
                    del self._workers[worker.number]  # under the same lock, or all workers would end that see too many
                    self._ended.add(worker.totals)
                    self._ended.received_bytes += worker.received
                    return None
                for call in sorted(self._calls, key=_turn):
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
                    self._wire.parked.close_old()

    def _fit_buffer(self, worker: Worker) -> None:
        """Set the part of the buffer that the worker may use, which depends on the number of workers."""
        size = buffer_size(len(self._workers))
        if size < worker.buffer_bytes:
            self._buffers.shrink(worker.number)
        worker.buffer_bytes = size


def _turn(call: Call) -> tuple[bool, int, int, float]:
    """Sort key of a call: the first in order is served first."""
    return (bool(call.holding), -call.priority, len(call.holding), call.since)
