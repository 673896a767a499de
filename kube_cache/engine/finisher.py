"""The last steps of each object of a call: verdict, durability, `on_object`. And the journals, while ranges still come.

A thread of its own, because fdatasync takes as long as the disk likes: workers go on receiving, and the thread that called
`fetch` goes on reporting progress. Small objects are synced by one syncfs for as many as are waiting.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from kube_cache.dataset.transfer import FetchedObject
from kube_cache.engine.control import Control
from kube_cache.engine.object_state import ObjectState
from kube_cache.engine.part_file import sync_filesystem
from kube_cache.engine.work_queue import WorkQueue
from kube_cache.errors import DiskFault

_TICK_S: Final = 0.25
_MAX_BATCH: Final = 256
_MIN_SYNCFS: Final = 8
_GATHER_S: Final = 0.1
_MAX_GATHERED: Final = 128
_MAX_LEAVE_S: Final = 1.5
"""For workers to leave after the end of a call; who has not left by then waits for a disk, and closes the file itself."""


class Finisher:
    def __init__(
        self, control: Control, work: WorkQueue, on_object: Callable[[FetchedObject], None], *, hashes: bool
    ) -> None:
        self._control = control
        self._work = work
        self._on_object = on_object
        self._hashes = hashes
        self._wake = threading.Condition()
        self._queue: deque[ObjectState] = deque()
        self._thread = threading.Thread(target=self._run, name="engine-finisher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, state: ObjectState) -> None:
        with self._wake:
            self._queue.append(state)
            if len(self._queue) == 1:
                self._wake.notify()

    def wake(self) -> None:
        with self._wake:
            self._wake.notify()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        control = self._control
        try:
            while control.error is None:
                batch = self._next()
                if batch and self._land(batch):
                    break
                for state in self._work.states():
                    state.flush_due()
        except Exception as error:  # also what the caller's on_object raised; the call ends with it
            control.fail(error)
        finally:
            if control.error is not None:
                self._keep_journals()
            control.end()

    def _next(self) -> list[ObjectState]:
        with self._wake:
            if not self._queue and self._control.error is None:
                self._wake.wait(_TICK_S)
            # More small objects are on their way: one sync for many, not many syncs.
            gather = 0 < len(self._queue) < _MAX_GATHERED and self._work.has_more(len(self._queue))
            gather = gather and all(state.small for state in self._queue)
        if gather:
            self._control.sleep(_GATHER_S)
        with self._wake:
            return [self._queue.popleft() for _ in range(min(_MAX_BATCH, len(self._queue)))]

    def _land(self, batch: list[ObjectState]) -> bool:
        good: list[tuple[ObjectState, FetchedObject]] = []
        for state in batch:
            if state.small and state.full_declared is not None and state.full_declared.parts:
                self._control.meter.refetch(state.job.object.size)
                self._work.reopen(state)
                continue
            done, again = state.verify(hashes=self._hashes)
            if done is None:
                self._control.meter.refetch(sum(byte_range.length for byte_range in again))
                self._work.put_back(state, again)
            else:
                good.append((state, done))
        small = [state for state, _ in good if state.small]
        if len(small) >= _MIN_SYNCFS:
            sync_filesystem(small[0].job.part_path.parent)
        for state, _ in good:
            if not state.small:
                state.flush()
            if not state.small or len(small) < _MIN_SYNCFS:
                state.file.sync()
            state.close()
        last = False
        for state, done in good:
            self._on_object(done)
            last = self._work.finish(state)
        return last

    def _keep_journals(self) -> None:
        """What was noted becomes durable if the disk still lets it; files are closed once nobody writes to them."""
        left = _MAX_LEAVE_S
        while left > 0 and any(state.active for state in self._work.states()):
            with self._wake:
                self._wake.wait(_TICK_S / 5)
            left -= _TICK_S / 5
        for state in self._work.states():
            with contextlib.suppress(DiskFault):  # those ranges are fetched again
                state.flush()
            self._work.abandon(state)
