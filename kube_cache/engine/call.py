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
from kube_cache.engine.planned import Planned
from kube_cache.engine.throttle import BandwidthLimiter
from kube_cache.engine.tracing import CallTrace, ObjectTrace
from kube_cache.engine.work_queue import Attempt, Opening, Outcome, Question, WorkQueue
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
        trace: CallTrace | None = None,
        max_bytes_per_s: int = 0,
    ) -> None:
        """lock: the engine's one lock. hashes: read files again whose only checksum is a SHA or an MD5.

        max_bytes_per_s: 0 = only the engine's own limit.
        """
        self.priority = priority
        self.since = time.monotonic()
        self.holding: set[Worker] = set()
        """Workers that run a task of this call; guarded by the lock."""
        self.control = Control(
            lock, sum(job.object.size for job in jobs), self._wake_all, BandwidthLimiter(max_bytes_per_s)
        )
        self._lookup = lookup
        self._hashes = hashes
        self._trace = trace
        self._queue = WorkQueue(self.control, jobs)
        self._finisher = Finisher(self.control, self._queue, on_object, hashes=hashes)

    def start(self) -> None:
        self._finisher.start()

    def join(self) -> None:
        self._finisher.join()
        if self._trace is not None:
            self._trace.finish()

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
        if isinstance(work, Question):
            return partial(self._ask, work)
        return partial(self._fetch_small if work.small else self._open, work)

    def ask_plans(self) -> None:
        """Have workers ask the plans that are due. For the thread that waits for the end of the call."""
        self._queue.ask_woken()

    def release(self, worker: Worker) -> None:
        """Note that `worker` has ended its task."""
        with self.control.lock:
            self.holding.discard(worker)

    def _open(self, opening: Opening, _worker: Worker) -> None:
        """Look an object up and offer its ranges to all workers."""
        job, began_ns = opening.job, time.time_ns()
        head, parts = self._lookup.look_up(job.object, self.control)
        state = ObjectState(job, head, parts, journaled=job.object.size > 0)
        if self._trace is not None:
            state.trace = self._trace.open(job, began_ns)
        missing = self._queue.add(state)
        if missing is None:
            state.close()
        elif not missing:
            self._finisher.put(state)

    def _fetch_small(self, opening: Opening, worker: Worker) -> None:
        """Fetch a whole object by one request, which brings the checksum as well."""
        state = ObjectState(opening.job, None, [], journaled=False)
        if self._trace is not None:
            state.trace = self._trace.open(opening.job, time.time_ns())
        attempt = self._queue.add_small(state)
        if attempt is None:
            state.close()
        else:
            self._fetch(attempt, worker)

    def _fetch(self, attempt: Attempt, worker: Worker) -> None:
        outcome = Outcome.LOST
        try:
            trace = attempt.state.trace
            if trace is None:
                outcome = worker.fetch(self.control, attempt)
            else:
                outcome = self._fetch_traced(trace, attempt, worker)
            if outcome is Outcome.COMPLETE and attempt.state.lacks_parts(hashes=self._hashes):
                self._split_by_parts(attempt.state, worker)
            if attempt.state.planned is not None:
                _tell(attempt.state.planned, attempt, outcome, worker)
        finally:
            if self._queue.end(attempt, outcome):
                self._finisher.put(attempt.state)
            elif self.control.error is not None:
                self._finisher.wake()

    def _ask(self, question: Question, worker: Worker) -> None:
        """Ask a plan where to fetch a range from, and fetch it."""
        state, planned, wanted = question
        planned.open(state.ranges, self.control.wake, provable=state.combinable is not None)
        attempt = self._queue.answer(question, planned.plan.next(wanted))
        if attempt is not None:
            self._fetch(attempt, worker)

    def _fetch_traced(self, trace: ObjectTrace, attempt: Attempt, worker: Worker) -> Outcome:
        byte_range = attempt.byte_range
        with trace.range(byte_range.number, byte_range.offset, byte_range.length) as noted:
            retries_before = sum(worker.totals.retries.values())
            worker.range_timings = noted.timings
            try:
                outcome = worker.fetch(self.control, attempt)
                noted.outcome = outcome.name.lower()
                return outcome
            finally:
                worker.range_timings = None
                noted.retries = sum(worker.totals.retries.values()) - retries_before

    def _split_by_parts(self, state: ObjectState, worker: Worker) -> None:
        """Ask for the stored parts of a complete small object, and read their CRCs from the disk."""
        for byte_range in state.split_by_parts(self._lookup.parts(state.remote, state.declared, self.control)):
            worker.read_crcs(self.control, state, byte_range)
            byte_range.done = byte_range.length

    def _wake_all(self) -> None:
        """After the first error: wake workers that wait for bytes, and the finisher."""
        with self.control.lock:
            holding = list(self.holding)
        for worker in holding:
            worker.client.abort()
        self._finisher.wake()


def _tell(planned: Planned, attempt: Attempt, outcome: Outcome, worker: Worker) -> None:
    """Tell the plan how an attempt ended, before its range is wanted again."""
    if outcome is Outcome.COMPLETE:
        planned.done(attempt.byte_range, attempt.source)
    elif outcome is Outcome.LEFT_TO_PLAN and attempt.choice is not None and worker.failure is not None:
        planned.failed(attempt.byte_range, attempt.source, worker.failure)
