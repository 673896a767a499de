"""One call of `fetch`: its objects, the tasks that it has for workers, and how it ended.

Guarded by the engine's one lock where a comment says so; that lock is never held during I/O.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from kube_cache.dataset.transfer import FetchedObject, FetchJob, FetchProgress
from kube_cache.engine.finisher import Finisher
from kube_cache.engine.meter import Meter
from kube_cache.engine.object_state import ObjectState
from kube_cache.engine.ranges import SMALL, Range
from kube_cache.errors import Cancelled, DatasetNotFound, SourceChanged
from kube_cache.origin.object_head import ObjectHead
from kube_cache.origin.stored_parts import StoredPart

if TYPE_CHECKING:
    from kube_cache.engine.engine import Engine
    from kube_cache.engine.worker import Worker

Task = Callable[["Worker"], None]
_MOST_OPEN: Final = 512
"""Objects that are fetched but not yet durable keep their files open; small ones are synced in batches below this."""
_HEDGED_SHARE: Final = 0.05


class Call:
    def __init__(
        self,
        engine: Engine,
        jobs: list[FetchJob],
        on_object: Callable[[FetchedObject], None],
        priority: int,
        *,
        hashes: bool,
    ) -> None:
        self.engine = engine
        self.priority = priority
        self.since = time.monotonic()
        self.error: BaseException | None = None
        self.holding: set[Worker] = set()
        self.last_byte_at = time.monotonic()
        # Smallest first: their owners wait least, and what is cut into ranges fills every connection to the end.
        self._jobs = deque(sorted(jobs, key=lambda job: job.object.size))
        self._ready: deque[tuple[ObjectState, Range]] = deque()
        self._states: set[ObjectState] = set()
        self._left = len(jobs)
        self._total = sum(job.object.size for job in jobs)
        self._resumed = 0
        self._shown = 0
        self._dealt = self._hedges = 0
        self._meter = Meter()
        self._stop = threading.Event()
        self._over = threading.Event()
        self._finisher = Finisher(self, on_object, hashes=hashes)

    # Under the engine's lock.

    def next_task(self, worker: Worker) -> Task | None:
        if self.error is not None:
            return None
        task: Task
        if self._ready:
            state, wanted = self._ready.popleft()
            task = self._deal(state, wanted)
        elif self._jobs and len(self._states) < _MOST_OPEN:
            job = self._jobs.popleft()
            task = partial(self._small if 0 < job.object.size <= SMALL else self._open, job)
        else:
            return None
        self.holding.add(worker)
        return task

    def _deal(self, state: ObjectState, wanted: Range) -> Task:
        state.active += 1
        wanted.attempts += 1
        self._dealt += 1
        return partial(self._fetch, state, wanted)

    def hedge(self, state: ObjectState, wanted: Range) -> bool:
        """Put the range before all others, for a second connection; False when that is not worth or not allowed."""
        if self.error is not None or wanted.hedged or wanted.attempts != 1 or wanted.done == wanted.length:
            return False
        if self._hedges >= max(1, int(self._dealt * _HEDGED_SHARE)):
            return False
        wanted.hedged = True
        self._hedges += 1
        self._ready.appendleft((state, wanted))
        return True

    # By workers.

    def _open(self, job: FetchJob, _worker: Worker) -> None:
        """HEAD tells checksum and version; then the ranges are there for everybody."""
        head, parts = self._ask(job)
        state = ObjectState(job, head, parts, journaled=job.object.size > 0)
        missing = state.missing()
        with self.engine.lock:
            if self.error is not None:
                state.close()
                return
            self._states.add(state)
            self._resumed += state.resumed_bytes
            self._ready.extend((state, each) for each in missing)
            self.engine.lock.notify(len(missing))
        if not missing:
            self._finisher.put(state)

    def _ask(self, job: FetchJob) -> tuple[ObjectHead | None, list[StoredPart]]:
        found = job.object
        if found.size == 0:
            return None, []
        store = self.engine.source.stores.of(found.scheme)
        name = found.uri
        try:
            head = self.engine.patiently(self, partial(store.head, found))
        except DatasetNotFound as error:
            raise SourceChanged(f"{name} was removed since it was listed; it is resolved again") from error
        if (found.etag and head.etag != found.etag) or head.size != found.size:
            raise SourceChanged(
                f"{name} was replaced since it was listed (ETag {head.etag}, {head.size} bytes; it was {found.etag},"
                f" {found.size} bytes); it is resolved again",
                bucket=found.bucket,
                key=found.key,
            )
        count = head.checksum.parts if head.checksum else 0
        return head, self.engine.patiently(self, partial(store.stored_parts, found, count)) if count else []

    def _small(self, job: FetchJob, worker: Worker) -> None:
        """One request brings bytes and checksum; no HEAD, no journal."""
        state = ObjectState(job, None, [], journaled=False)
        with self.engine.lock:
            self._states.add(state)
            task = self._deal(state, state.ranges[0])
        task(worker)

    def _fetch(self, state: ObjectState, wanted: Range, worker: Worker) -> None:
        worker.at, worker.since = (self, state, wanted), time.monotonic()
        won = False
        try:
            won = worker.fetch(self, state, wanted)
        finally:
            worker.at = None
            with self.engine.lock:
                if worker.has_left:
                    worker.has_left = False
                else:
                    wanted.attempts -= 1
                state.active -= 1
                if won:
                    state.left -= 1
                    state.note(wanted)
                elif wanted.attempts == 0 and wanted.done < wanted.length and self.error is None:
                    wanted.hedged = False
                    self._ready.appendleft((state, wanted))  # both gave it up for the other
                    self.engine.lock.notify()
                whole = state.left == 0 and state.active == 0
                late = self.error is not None and state.active == 0
            if late:
                self._finisher.wake()
            elif whole:
                self._finisher.put(state)

    def leave(self, worker: Worker, wanted: Range) -> bool:
        """True when somebody else is at the range, who then must not leave it to this one in turn."""
        with self.engine.lock:
            if wanted.attempts < 2:
                return False
            wanted.attempts -= 1
            wanted.hedged = False  # the one that is left may need a race, too
            worker.has_left = True
            return True

    def moved(self, state: ObjectState, count: int) -> None:
        state.fetched_bytes += count
        self.last_byte_at = time.monotonic()
        self._meter.add(count)

    def check(self) -> None:
        if self.error is not None:
            raise Cancelled("the transfer has ended")

    def pause(self, seconds: float) -> None:
        """Raises Cancelled as soon as the call has ended."""
        if self._stop.wait(seconds):
            raise Cancelled("the transfer has ended")

    def sleep(self, seconds: float) -> None:
        """Shorter if the call ends."""
        self._stop.wait(seconds)

    def done_with(self, worker: Worker) -> None:
        with self.engine.lock:
            self.holding.discard(worker)

    # By the finisher.

    def again(self, state: ObjectState, wanted: list[Range]) -> None:
        """Fetch these once more."""
        self._meter.take_back(sum(each.length for each in wanted))
        with self.engine.lock:
            self._ready.extendleft((state, each) for each in reversed(wanted))
            self.engine.lock.notify(len(wanted))

    def reopen(self, state: ObjectState) -> None:
        """A small object turned out to need the list of its parts: fetch it as a large one."""
        self._meter.take_back(state.job.object.size)
        head, parts = self._ask(state.job)
        state.close()
        fresh = ObjectState(state.job, head, parts, journaled=True)
        missing = fresh.missing()
        with self.engine.lock:
            self._states.discard(state)
            self._states.add(fresh)
            self._ready.extend((fresh, each) for each in missing)
            self.engine.lock.notify(len(missing))

    def states(self) -> list[ObjectState]:
        with self.engine.lock:
            return list(self._states)

    def has_more(self, waiting: int) -> bool:
        """Objects that are neither landed nor among the `waiting` ones."""
        return self._left > waiting

    def landed(self, state: ObjectState) -> bool:
        """True when it was the last."""
        with self.engine.lock:
            self._states.discard(state)
            self._left -= 1
            self.engine.lock.notify()
            return self._left == 0

    def ended(self) -> None:
        self._over.set()

    # By the thread that called `fetch`.

    def start(self) -> None:
        self._finisher.start()

    def wait(self, seconds: float) -> bool:
        return self._over.wait(seconds)

    def fail(self, error: BaseException) -> None:
        """The first error counts. Workers stop at their next slice; those who wait for bytes or for time are woken."""
        with self.engine.lock:
            if self.error is not None or self._over.is_set():
                return
            self.error = error
            self._ready.clear()
            self._jobs.clear()
            self._stop.set()
            holding = list(self.holding)
        for worker in holding:
            worker.line.abort()
        self._finisher.wake()

    def join(self) -> None:
        self._finisher.join()

    def progress(self) -> FetchProgress:
        self._shown = max(self._shown, min(self._total, self._resumed + self._meter.total))
        ahead = sum(state.ahead_bytes() for state in self.states())
        return FetchProgress(self._shown, self._total, self._meter.rate(), ahead)
