"""Shares one look at the facts among all viewers: at most one a second, and none while nobody looks.

The looks and their rows take a twentieth of a core at most: what takes long is made more seldom. So neither a large
cluster nor many different views can slow the operator's releases down.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import structlog

from watcher.page import render
from watcher.page.model import Facts
from watcher.page.render import Frame
from watcher.page.view import Query

_log = structlog.get_logger("kube_cache.page")
_EVERY_S: Final = 1.0
# Seconds of rest for each second of work.
_REST: Final = 19
# Looks over which the work is averaged: every fifteenth goes through all nodes.
_AVERAGED: Final = 8
# A viewer that hears nothing for this long gets a sign of life, by which both sides notice a dead connection.
_PING_S: Final = 15.0
_EMPTY: Final = b": still here\n\n"


class TooManyViewers(Exception):
    """The server has as many viewers as it admits."""


@dataclass
class _Look:
    number: int
    at: float
    """Time of the clock."""
    facts: Facts
    frames: dict[Query, Frame] = field(default_factory=dict)
    events: dict[Query, bytes] = field(default_factory=dict)
    """What leads from the look before to this one."""


class Hub:
    """Any thread may call."""

    def __init__(
        self,
        take: Callable[[], Facts],
        *,
        max_viewers: int,
        every_s: float = _EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._take = take
        self._max_viewers = max_viewers
        self._every_s = every_s
        self._now = clock
        self._changed = threading.Condition()
        self._making = threading.Lock()
        """Held while a look is taken or a frame is made."""
        self._viewers: Counter[Query] = Counter()
        self._look: _Look | None = None
        self._cost_s = 0.0
        """Seconds of CPU that a look takes, on average."""
        self._period_s = every_s
        self._thread: threading.Thread | None = None
        self._stopped = False

    @property
    def viewers(self) -> int:
        return self._viewers.total()

    @property
    def looks(self) -> int:
        """Number of looks that were taken."""
        return 0 if self._look is None else self._look.number

    def page(self, query: Query) -> str:
        """Return the whole page."""
        with self._making:
            look = self._look
            is_old = look is not None and self._now() - look.at >= self._period_s
            if look is None or (is_old and self._thread is None):
                look = self._take_look()
            frame = self._frame(look, query)
        return render.page(frame, query, live=self.viewers < self._max_viewers)

    def events(self, query: Query) -> Iterator[bytes]:
        """Yield what a viewer is to be told, maybe nothing, after each look. Raises TooManyViewers at once.

        `leave` is owed to a viewer that was admitted.
        """
        with self._changed:
            if self._stopped or self.viewers >= self._max_viewers:
                raise TooManyViewers
            self._viewers[query] += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="page", daemon=True)
                self._thread.start()
        return self._follow(query)

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def leave(self, query: Query) -> None:
        """Forget a viewer that `events` admitted."""
        with self._changed:
            self._viewers[query] -= 1
            if self._viewers[query] <= 0:
                del self._viewers[query]
            self._changed.notify_all()

    def _follow(self, query: Query) -> Iterator[bytes]:
        seen = -1
        while True:
            look = self._next_look(query, seen)
            if self._stopped:
                return
            if look is None:
                yield _EMPTY
                continue
            is_next = seen == look.number - 1 and query in look.events
            yield look.events[query] if is_next else _event(render.changes(None, look.frames[query]))
            seen = look.number

    def _next_look(self, query: Query, seen: int) -> _Look | None:
        """Wait for a look that the viewer has not seen; None if none comes in time. seen: number of the last one."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._is_new(query, seen), _PING_S)
            return self._look if self._is_new(query, seen) else None

    def _is_new(self, query: Query, seen: int) -> bool:
        return self._look is not None and self._look.number != seen and query in self._look.frames

    def _run(self) -> None:
        """Look again and again while somebody is there."""
        while True:
            with self._changed:
                if self._stopped or not self._viewers:
                    self._thread = None
                    self._changed.notify_all()
                    return
                queries = list(self._viewers)
            started = time.thread_time()
            try:
                with self._making:
                    self._look_for(queries)
                self._cost_s += (time.thread_time() - started - self._cost_s) / _AVERAGED
                self._period_s = max(self._every_s, _REST * self._cost_s)
            except Exception:  # the page is for people; the next look is owed all the same
                _log.exception("cannot make the page; trying again")
            with self._changed:
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._stopped or not self._viewers, self._period_s)

    def _look_for(self, queries: list[Query]) -> None:
        before = self._look
        look = self._take_look(publish=False)
        for query in queries:
            frame = self._frame(look, query)
            if before is not None and query in before.frames:
                text = render.changes(before.frames[query], frame)
                look.events[query] = _event(text) if text else b""
        with self._changed:
            self._look = look

    def _take_look(self, *, publish: bool = True) -> _Look:
        look = _Look(self.looks + 1, self._now(), self._take())
        if publish:
            self._look = look
        return look

    def _frame(self, look: _Look, query: Query) -> Frame:
        frame = look.frames.get(query)
        if frame is None:
            frame = look.frames[query] = render.frame(look.facts, query)
        return frame


def _event(text: str) -> bytes:
    return f"event: rows\ndata: {text}\n\n".encode()
