"""One call of `fetch`: turns its work into tasks for workers, and owns the parts of the call.

The queue holds the work, the control says whether the call goes on, the finisher verifies and syncs. A task runs in the
thread of the worker that it is given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from threading import Condition

from kube_cache.dataset.transfer import FetchedObject, FetchJob, FetchProgress
from kube_cache.engine.control import Control
from kube_cache.engine.finisher import Finisher
from kube_cache.engine.lookup import ObjectLookup
from kube_cache.engine.object_state import ObjectState
from kube_cache.engine.work_queue import Attempt, Opening, Outcome, WorkQueue
from kube_cache.engine.worker import Worker

Task = Callable[[Worker], None]


class Call:
    def __init__(
        self,
        lock: Condition,
        lookup: ObjectLookup,
        jobs: Sequence[FetchJob],
        on_object: Callable[[FetchedObject], None],
        priority: int,
        *,
        hashes: bool,
    ) -> None:
        """lock: the engine's one lock. hashes: read files again whose only checksum is a SHA or an MD5."""
        self.priority = priority
        self.since = time.monotonic()
        self.holding: set[Worker] = set()
        """Workers that run a task of this call; guarded by the lock."""
        self.control = Control(lock, sum(job.object.size for job in jobs), self._wake_all)
        self._lookup = lookup
        self._queue = WorkQueue(self.control, jobs)
        self._finisher = Finisher(self.control, self._queue, on_object, hashes=hashes)

    def start(self) -> None:
        self._finisher.start()

    def join(self) -> None:
        self._finisher.join()

    def progress(self) -> FetchProgress:
        return self.control.progress(sum(state.preallocated_bytes() for state in self._queue.states()))

    def next_task(self, worker: Worker) -> Task | None:
        """Take a task for `worker`; None if there is none now. Call under the lock."""
        work = self._queue.next()
        if work is None:
            return None
        self.holding.add(worker)
        if isinstance(work, Attempt):
            return partial(self._fetch, work)
        return partial(self._fetch_small if work.small else self._open, work)

    def release(self, worker: Worker) -> None:
        """Note that `worker` has ended its task."""
        with self.control.lock:
            self.holding.discard(worker)

    def _open(self, opening: Opening, _worker: Worker) -> None:
        """Look an object up and offer its ranges to all workers."""
        job = opening.job
        head, parts = self._lookup.look_up(job.object, self.control)
        state = ObjectState(job, head, parts, journaled=job.object.size > 0)
        self.control.meter.resume(state.resumed_bytes)
        missing = self._queue.add(state)
        if missing is None:
            state.close()
        elif not missing:
            self._finisher.put(state)

    def _fetch_small(self, opening: Opening, worker: Worker) -> None:
        """Fetch a whole object by one request, which brings the checksum as well."""
        state = ObjectState(opening.job, None, [], journaled=False)
        attempt = self._queue.add_small(state)
        if attempt is None:
            state.close()
        else:
            self._fetch(attempt, worker)

    def _fetch(self, attempt: Attempt, worker: Worker) -> None:
        outcome = Outcome.LOST
        try:
            outcome = worker.fetch(self.control, attempt)
        finally:
            if self._queue.end(attempt, outcome):
                self._finisher.put(attempt.state)
            elif self.control.error is not None:
                self._finisher.wake()

    def _wake_all(self) -> None:
        """After the first error: wake workers that wait for bytes, and the finisher."""
        with self.control.lock:
            holding = list(self.holding)
        for worker in holding:
            worker.client.abort()
        self._finisher.wake()
