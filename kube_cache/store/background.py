"""What the agent's store does by itself while the agent runs, each in its own thread: scrub, sweep, measurement.

All ask again and again whether there is something to do, so that nothing depends on a start or on a message.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import structlog

from kube_cache.errors import Cancelled, DiskFault, KubeCacheError
from kube_cache.store.scrub import ScrubResult
from kube_cache.store.settings import StoreSettings

_log = structlog.get_logger("kube_cache.store")
POLL_S: Final = 60.0
"""Period in which the threads ask whether something is due; also the pause after a fault of the disk."""
_MEASURE_S: Final = 10.0
"""Arbitrary: Prometheus asks every 15 to 60 s."""


@contextmanager
def threads(
    settings: StoreSettings,
    sweep: Callable[[], object],
    scrub_if_due: Callable[[Callable[[], bool]], ScrubResult | None],
    measure: Callable[[], object],
    on_damage: Callable[[], object],
    poll_s: float | None = None,
) -> Iterator[None]:
    """Sweep, scrub and measure while the context lasts; no scrub where the settings give no rate.

    on_damage: called from a thread after a round that quarantined something, and when the disk began to fail. poll_s:
    seconds between the questions whether something is due; None: 60, or less where a round is due more often.
    """
    poll_s = poll_s or min(POLL_S, settings.scrub_every_s)
    with ExitStack() as running:
        running.enter_context(Background("sweep", Work("sweep", sweep), poll_s=poll_s))
        running.enter_context(Background("measure", Work("measurement", measure), poll_s=min(poll_s, _MEASURE_S)))
        if settings.scrub_bytes_per_s > 0:
            running.enter_context(Background("scrub", ScrubWork(scrub_if_due, on_damage), poll_s=poll_s))
        yield


class Background:
    """A thread that does its work once a period for as long as a `with` block lasts.

    work: called with a function that tells whether to stop; may raise Cancelled then.
    """

    def __init__(self, name: str, work: Callable[[Callable[[], bool]], object], *, poll_s: float = POLL_S) -> None:
        self._work = work
        self._poll_s = poll_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._work(self._stop.is_set)
            except Cancelled:
                return
            self._stop.wait(self._poll_s)


class ScrubWork:
    """Scrubs if a round is due, and tells what came of it.

    Only finds and quarantines: the next check and the reconcile, which know the origin, have damaged objects fetched
    again. scrub_if_due: `NodeStore.scrub_if_due`. on_damage: called after a round with damage, and when the disk began
    to fail.
    """

    def __init__(
        self, scrub_if_due: Callable[[Callable[[], bool]], ScrubResult | None], on_damage: Callable[[], object]
    ) -> None:
        self._scrub_if_due = scrub_if_due
        self._on_damage = on_damage
        self._failing = False

    def __call__(self, cancelled: Callable[[], bool]) -> None:
        try:
            result = self._scrub_if_due(cancelled)
        except Cancelled:
            raise
        except KubeCacheError as error:
            _log.error("the background scrub goes on later", error=error.message)
            began, self._failing = not self._failing, isinstance(error, DiskFault)
            if began and self._failing:
                self._on_damage()
            return
        self._failing = False
        if result is not None:
            _log.info("scrubbed", objects=result.objects, bytes=result.bytes, bad=result.bad, seconds=result.seconds)
            if result.bad:
                self._on_damage()


class Work:
    """Does something short, and tells what went wrong. name: for the log."""

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        self._name = name
        self._work = work

    def __call__(self, _cancelled: Callable[[], bool]) -> None:
        try:
            self._work()
        except KubeCacheError as error:
            _log.warning(f"the {self._name} is tried again", error=error.message)
