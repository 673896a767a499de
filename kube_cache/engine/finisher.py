"""The last steps of each object of a call: verification, durability, `on_object`. Also flushes journals meanwhile.

Runs in a thread of its own, because an fdatasync takes as long as the disk likes: workers go on receiving, and the
thread that called `fetch` goes on reporting progress. One syncfs makes all small objects durable that are waiting.
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
"""Journals are looked at this often; a flush is due every 2 s."""
_MAX_BATCH: Final = 256
"""Objects that are finished together. `on_object` hears of all of them only after the sync."""
_MIN_SYNCFS: Final = 8
"""From so many small objects on, one syncfs is cheaper than an fdatasync for each."""
_GATHER_S: Final = 0.1
_MIN_GATHERED: Final = 128
"""Fewer small objects wait `_GATHER_S` for others, so that one sync serves many."""
_MAX_LEAVE_S: Final = 1.5
"""Time for workers to leave a failed call, which must end within 2 s. A worker that waits for the disk takes longer."""


class Finisher:
    def __init__(
        self, control: Control, work: WorkQueue, on_object: Callable[[FetchedObject], None], *, hashes: bool
    ) -> None:
        """hashes: read files again whose only checksum is a SHA or an MD5."""
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
        """Queue an object whose ranges are all complete."""
        with self._wake:
            self._queue.append(state)
            if len(self._queue) == 1:
                self._wake.notify()

    def wake(self) -> None:
        with self._wake:
            self._wake.notify()

    def join(self) -> None:
        """Wait for the end of the thread. A thread that could not be started has ended."""
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        control = self._control
        try:
            while control.error is None:
                batch = self._next_batch()
                if batch and self._finish(batch):
                    break
                for state in self._work.states():
                    state.flush_if_due()
        except Exception as error:  # errors of the caller's on_object end the call, too
            control.fail(error)
        finally:
            try:
                if control.error is not None:
                    self._abandon_all()
            finally:
                control.end()  # whatever fails here must not leave the caller of `fetch` waiting

    def _next_batch(self) -> list[ObjectState]:
        """Wait for objects, at most a tick, and take them; [] if there are none."""
        with self._wake:
            if not self._queue and self._control.error is None:
                self._wake.wait(_TICK_S)
            gather = 0 < len(self._queue) < _MIN_GATHERED and self._work.has_more(len(self._queue))
            gather = gather and all(state.small for state in self._queue)
        if gather:
            self._control.sleep(_GATHER_S)
        with self._wake:
            return [self._queue.popleft() for _ in range(min(_MAX_BATCH, len(self._queue)))]

    def _finish(self, batch: list[ObjectState]) -> bool:
        """Verify objects, make them durable and report them; True if the last of the call was among them.

        Puts work back for an object that must be fetched again. Raises ChecksumMismatch, DiskFault.
        """
        verified: list[tuple[ObjectState, FetchedObject]] = []
        for state in batch:
            fetched, refetched = state.verify(hashes=self._hashes)
            if fetched is None:
                self._control.meter.refetch(sum(byte_range.length for byte_range in refetched))
                self._control.refetched += len(refetched)
                self._work.put_back(state, refetched)
            else:
                verified.append((state, fetched))
        small = [state for state, _ in verified if state.small]
        if len(small) >= _MIN_SYNCFS:
            sync_filesystem(small[0].job.part_path.parent)
        for state, _ in verified:
            if not state.small:
                state.flush()
            if not state.small or len(small) < _MIN_SYNCFS:
                state.file.sync()
            state.close()
        last = False
        for state, fetched in verified:
            self._on_object(fetched)
            if state.trace is not None:
                state.trace.end(
                    fetched_bytes=fetched.fetched_bytes,
                    resumed_bytes=fetched.resumed_bytes,
                    verified=str(fetched.verified),
                    neighbour_bytes=sum(fetched.neighbour_bytes.values()),
                )
            last = self._work.finish(state)
        return last

    def _abandon_all(self) -> None:
        """Close the files of all open objects after an error, with the complete ranges in their journals."""
        left_s, error = _MAX_LEAVE_S, self._control.error
        while left_s > 0 and any(state.active for state in self._work.states()):
            with self._wake:
                self._wake.wait(_TICK_S / 5)
            left_s -= _TICK_S / 5
        for state in self._work.states():
            with contextlib.suppress(DiskFault):  # the ranges that are not in the journal are fetched again
                state.flush()
            if state.trace is not None and error is not None:
                state.trace.fail(error, state.fetched_bytes)
            self._work.abandon(state)
