"""Does the scrub slow a warm? Rounds with and without a scrub, in turn, on one disk, with the store's test engine.

The scrub has no limit here (rate 0), which is worse than any setting: what holds it back is only that it yields.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from contextlib import suppress
from pathlib import Path

from kube_cache.errors import Cancelled
from kube_cache.store.node_store import NodeStore
from tests.store.fakes import DictEngine, Source, settings

ROUNDS = 15
_FILES, _BYTES = 24, 8 << 20


def slowdown(root: Path) -> dict[str, object]:
    source = Source("bench")
    store = NodeStore.open(settings(root))
    resident = source.dataset("resident", {f"{n}": os.urandom(_BYTES) for n in range(_FILES)})
    wanted = source.dataset("wanted", {f"{n}": os.urandom(_BYTES) for n in range(_FILES)})
    engine = DictEngine(source)
    store.download(resident, engine)
    taken: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * ROUNDS + 2):
        scrubbing = bool((number + number // 2) % 2)  # off, on, on, off, ...: a drift of the disk falls on both
        store.evict(wanted.digest)
        os.sync()
        stop = threading.Event()
        scrub = _Scrub(store, stop)
        if scrubbing:
            scrub.start()
            scrub.reads.wait()  # it is in the middle of an object when the warm begins
        started = time.perf_counter()
        store.download(wanted, engine)
        seconds = time.perf_counter() - started
        stop.set()
        if scrubbing:
            scrub.join()
        if number >= 2:  # the first of each is for warming up
            taken[scrubbing].append(seconds)
    store.close()
    without, with_it = (statistics.median(taken[each]) for each in (False, True))
    return {
        "without_s": without,
        "with_s": with_it,
        "percent": (with_it / without - 1) * 100,
        "rounds": {"without": taken[False], "with": taken[True]},
        "warm_bytes": _FILES * _BYTES,
    }


class _Scrub(threading.Thread):
    """Reads without a limit, again and again, until it is stopped."""

    def __init__(self, store: NodeStore, stop: threading.Event) -> None:
        super().__init__(name="scrub")
        self._store = store
        self._ended = stop
        self.reads = threading.Event()
        """Set when the first piece was read."""

    def run(self) -> None:
        def cancelled() -> bool:
            self.reads.set()
            return self._ended.is_set()

        with suppress(Cancelled):
            while True:
                self._store.scrub(0, cancelled=cancelled)
