"""The scrub that nobody asks for: one thread of the agent that reads everything once a week, while nothing is fetched.

It only finds and quarantines; who has the bad objects fetched anew are the next check and the reconcile, which know where
they came from. `on_damage` is for who wants to hurry the latter; it is called from the scrub's thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from kube_cache.errors import Cancelled, KubeCacheError
from kube_cache.store.node_store import NodeStore

_log = structlog.get_logger("kube_cache.store")
# Whether a round is due is asked this often, which is also the patience with a disk that fails.
_ASK_S = 60.0


class BackgroundScrub:
    """Runs from the beginning of a `with` to its end."""

    def __init__(
        self, store: NodeStore, *, ask_s: float = _ASK_S, on_damage: Callable[[], object] = lambda: None
    ) -> None:
        self._store = store
        self._on_damage = on_damage
        self._ask_s = ask_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scrub", daemon=True)

    def __enter__(self) -> None:
        if self._store.scrubs:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._store.scrubs:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                result = self._store.scrub_in_turn(cancelled=self._stop.is_set)
            except Cancelled:
                return
            except KubeCacheError as error:
                _log.warning("the background scrub goes on later", error=error.message)
            else:
                if result is not None:
                    _log.info(
                        "scrubbed", objects=result.objects, bytes=result.bytes, bad=result.bad, seconds=result.seconds
                    )
                    if result.bad:
                        self._on_damage()
            self._stop.wait(self._ask_s)
