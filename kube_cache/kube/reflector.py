"""List and watch one selection of a resource, for ever: events to a handler, and a cache of the objects.

Our own, because the informer of the `kubernetes` package reconnects without delay after an error (3,337 requests in a
second on a 403 were seen) and its watch loses its place on a 410. It keeps a projection of each object and nothing
else.

Promised: every object of the selection is handed on; an object that vanished while no watch was open gives a DELETED
after the next list; a silent connection is noticed; any error is counted and answered with a backoff. Not promised:
each intermediate state, or a difference between an object that was deleted and one that left the selection.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import structlog

from kube_cache.backoff import Backoff
from kube_cache.kube.client import (
    SILENT,
    WATCH_SILENCE_S,
    ApiError,
    Json,
    KubeClient,
    resource_path,
)
from kube_cache.kube.watch_events import BOOKMARK, Event, Expired, parse
from kube_cache.telemetry import metrics

T = TypeVar("T")

_log = structlog.get_logger("kube_cache.reflector")
# The server ends each watch after a random time in this range, so that many watchers do not reconnect together.
_MIN_WATCH_S, _MAX_WATCH_S = 240, 480
# A list after a random time in this range finds what a watch may have missed, at the price of one list.
_MIN_RELIST_S, _MAX_RELIST_S = 600.0, 900.0
_MIN_BACKOFF_S, _MAX_BACKOFF_S = 0.5, 30.0
# A streamed list may take as long as a watch; while it comes, something comes all the time.
_STREAM_LIST_S = 300
# Seconds without a line of it: the API server waits some 3 s for its cache, then for etcd's answer.
_STREAM_SILENCE_S = 15.0
# A thread that neither heard nor tried anything for so long is stuck: twice the silence that ends a connection.
MAX_STILL_S = 2 * WATCH_SILENCE_S


class Reflector(Generic[T]):
    """One selection. The handler is called on the thread of `run` with ADDED, MODIFIED or DELETED and a projection."""

    def __init__(
        self,
        client: KubeClient,
        resource: str,
        *,
        name: str,
        project: Callable[[Json], T | None],
        handler: Callable[[str, T], Any],
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        silence_s: float = WATCH_SILENCE_S,
    ) -> None:
        """name: of the watch, in logs and metrics.

        project: keeps the fields of an object that are needed; None drops the object from the selection.
        silence_s: seconds without a line after which a watch counts as dead.
        """
        self.name = name
        self._client = client
        self._resource = resource
        self._project = project
        self._handler = handler
        self._namespace = namespace
        self._labels = label_selector
        self._fields = field_selector
        self._silence_s = silence_s
        self._version = ""
        """Resource version that the next watch goes on from; empty = list first."""
        self._backoff = Backoff(_MIN_BACKOFF_S, _MAX_BACKOFF_S)
        self._expired_at_once = False
        self._known: dict[str, T] = {}
        """Projection of each object by uid."""
        self.synced = threading.Event()
        """Set after the first list was handed on."""
        self.errors = 0
        """Number of lists and watches that failed."""
        self._moved_at = time.monotonic()
        self._errors_total = metrics.WATCH_ERRORS.labels(name)
        self._lists_total = metrics.WATCH_LISTS.labels(name)
        self._heard = metrics.WATCH_HEARD.labels(name)

    def get(self, uid: str) -> T | None:
        """Return an object as the last event showed it; None if it is not in the selection. Any thread may call.

        Safe without a lock: one thread writes, and a lookup in a dict is atomic.
        """
        return self._known.get(uid)

    def all(self) -> list[T]:
        """Return all objects as the last events showed them. Any thread may call."""
        return list(self._known.values())

    def still_s(self) -> float:
        """Seconds since the thread last heard something or tried again. Any thread may call."""
        return time.monotonic() - self._moved_at

    def run(self, stop: threading.Event) -> None:
        """List and watch until `stop` is set and the next event or the end of the watch has come."""
        relist_at = 0.0
        while not stop.is_set():
            self._moved_at = time.monotonic()
            try:
                if not self._version or time.monotonic() >= relist_at:
                    self._version = self._list()
                    relist_at = time.monotonic() + random.uniform(_MIN_RELIST_S, _MAX_RELIST_S)
                self._watch(stop, relist_at)
                self._backoff.reset()
            except Expired:
                self._version = ""
                if self._expired_at_once:  # twice without an event: a server that has nothing to offer
                    stop.wait(self._backoff.next_s())
                self._expired_at_once = True
            except ApiError as error:
                if error.reason == SILENT:
                    # In a cluster without a single write no bookmark comes. The next watch goes on from the same place.
                    _log.info("a watch was silent; opening it anew", watch=self.name)
                    continue
                if error.status == 410:
                    self._version = ""
                wait_s = max(error.retry_after_s, self._backoff.next_s())
                self._count(error.message, wait_s)
                stop.wait(wait_s)
            except Exception as error:  # a thread that ends is a watch that nobody has any more
                self._version = ""  # what was misread may have been a change
                wait_s = self._backoff.next_s()
                _log.exception("unexpected error of a watch", watch=self.name)
                self._count(repr(error), wait_s)
                stop.wait(wait_s)

    def _count(self, error: str, wait_s: float) -> None:
        self.errors += 1
        self._errors_total.inc()
        _log.warning("watch failed; trying again", watch=self.name, error=error, wait_s=round(wait_s, 1))

    def _hear(self) -> None:
        self._moved_at = time.monotonic()
        self._heard.set_to_current_time()

    def _list(self) -> str:
        """Hand on the whole selection; return the resource version to watch from. Raises ApiError."""
        seen: set[str] = set()
        version = ""
        try:
            version = self._stream_list(seen)
        except (Expired, ApiError) as error:
            if isinstance(error, ApiError) and not _can_do_without_streaming(error):
                raise
            _log.info("the API server streams no list; listing in pages", watch=self.name, error=str(error))
        if not version:
            seen.clear()
            version = self._list_pages(seen)
        for uid in self._known.keys() - seen:
            self._handle("DELETED", self._known.pop(uid))
        self._lists_total.inc()
        self.synced.set()
        return version

    def _stream_list(self, seen: set[str]) -> str:
        """Let the server send each object by itself, which costs the memory of one; empty if it stops before the end.

        It sends them from its cache, once that is as new as etcd.
        """
        query = {
            "sendInitialEvents": "true",
            "resourceVersionMatch": "NotOlderThan",
            "timeoutSeconds": str(_STREAM_LIST_S),
        }
        for event in self._events(query, silence_s=_STREAM_SILENCE_S):
            self._hear()
            if event.ends_initial_events:
                return event.version
            if event.kind == BOOKMARK:
                continue
            uid = event.item["metadata"]["uid"]
            kind = event.kind if event.kind == "DELETED" else "MODIFIED" if uid in self._known else "ADDED"
            if self._hand_on(kind, event.item) and kind != "DELETED":
                seen.add(uid)
            else:
                seen.discard(uid)
        return ""

    def _list_pages(self, seen: set[str]) -> str:
        """List from a server that streams none.

        Each page is projected as it comes: all raw objects of a large cluster at once would be gigabytes.
        """
        version = ""
        for page in self._client.pages(self._resource, self._namespace, self._labels, self._fields):
            self._hear()
            version = page.resource_version
            for item in page.items:
                uid = item["metadata"]["uid"]
                if self._hand_on("MODIFIED" if uid in self._known else "ADDED", item):
                    seen.add(uid)
        return version

    def _watch(self, stop: threading.Event, relist_at: float) -> None:
        """Hand on events until the watch ends, and keep the version to go on from. Raises ApiError, Expired."""
        seconds = max(1, min(random.randint(_MIN_WATCH_S, _MAX_WATCH_S), int(relist_at - time.monotonic())))
        query = {"resourceVersion": self._version, "timeoutSeconds": str(seconds)}
        for event in self._events(query, silence_s=self._silence_s):
            if stop.is_set():
                break
            self._hear()
            self._version = event.version
            self._expired_at_once = False
            self._backoff.reset()
            if event.kind != BOOKMARK:
                self._hand_on(event.kind, event.item)

    def _events(self, query: dict[str, str], *, silence_s: float) -> Iterator[Event]:
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "labelSelector": self._labels,
            "fieldSelector": self._fields,
            **query,
        }
        path = resource_path(self._resource, self._namespace)
        return parse(self._client.watch_lines(path, query, silence_s=silence_s), watch=self.name)

    def _hand_on(self, kind: str, item: Json) -> bool:
        """Hand one object on; False if the projection drops it."""
        uid = item["metadata"]["uid"]
        try:
            projected = self._project(item)
        except Exception:  # an object that we misread must not hide all others
            _log.exception("cannot read an object", watch=self.name, uid=uid)
            return False
        if projected is None:
            gone = self._known.pop(uid, None)
            if gone is not None:
                self._handle("DELETED", gone)
            return False
        if kind == "DELETED":
            self._known.pop(uid, None)
        else:
            self._known[uid] = projected
        self._handle(kind, projected)
        return True

    def _handle(self, kind: str, projected: T) -> None:
        try:
            self._handler(kind, projected)
        except Exception:  # an error of the handler must not end the stream
            _log.exception("handler failed", watch=self.name, event_type=kind)


def _can_do_without_streaming(error: ApiError) -> bool:
    """Whether pages may be had where the stream was not: the server, or a proxy, does not know it, or says nothing."""
    return error.reason == SILENT or (400 <= error.status < 500 and error.status not in (401, 429))
