"""One call for all who ask the same at once, such as the hundred Pods of a Job for the list of their dataset.

No answer is older than its question: whoever asks while a call runs shares not that call but the next one, with all
others who wait for it. Threads only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from kube_cache.errors import KubeCacheError

V = TypeVar("V")

# Seconds that a call may have run for others to wait for its end. Next to a longer one they had better make their own.
_MAX_WAIT_S = 0.5
# Seconds between heartbeats, and looks for a cancel, of a thread that waits for another's call.
_BEAT_S = 0.5


class _Call(Generic[V]):
    def __init__(self) -> None:
        self.began = 0.0
        self.ended = threading.Event()
        self.values: list[V] = []
        self.error: KubeCacheError | None = None


class SharedCalls(Generic[V]):
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Hashable, _Call[V]] = {}
        self._next: dict[Hashable, _Call[V]] = {}

    def get(self, key: Hashable, call: Callable[[], V], *, beat: Callable[[], object] = lambda: None) -> V:
        """Return what `call` returns, called here or by another thread after this one asked. Raises what it raises.

        beat: called now and then while another thread's call is awaited.
        """
        with self._lock:
            before = self._running.get(key)
            if before is None or time.monotonic() - before.began > _MAX_WAIT_S:
                before, mine, makes_it = None, _Call[V](), True
                self._begin(key, mine)
            else:
                mine, makes_it = self._next.get(key) or _Call[V](), key not in self._next
                self._next[key] = mine
        if makes_it:
            return self._make(key, mine, before, call)
        while not mine.ended.wait(_BEAT_S):
            beat()
        if mine.error is not None:
            raise mine.error
        return mine.values[0] if mine.values else call()  # the thread that was to call was cancelled

    def _make(self, key: Hashable, mine: _Call[V], before: _Call[V] | None, call: Callable[[], V]) -> V:
        try:
            if before is not None:
                before.ended.wait(_MAX_WAIT_S)
                with self._lock:
                    del self._next[key]
                    self._begin(key, mine)
            mine.values.append(call())
        except KubeCacheError as error:
            mine.error = error
            raise
        finally:
            with self._lock:
                for calls in (self._running, self._next):
                    if calls.get(key) is mine:
                        del calls[key]
            mine.ended.set()
        return mine.values[0]

    def _begin(self, key: Hashable, mine: _Call[V]) -> None:
        mine.began = time.monotonic()
        self._running[key] = mine
