"""List and watch one selection of a resource, for ever: events to a handler, and a cache of the objects.

Our own, because the informer of the `kubernetes` package reconnects without delay after an error (3,337 requests in a
second on a 403 were seen) and its watch loses its place on a 410. It keeps a projection of each object and nothing
else.

Promised: every object of the selection is handed on; an object that vanished while no watch was open gives a DELETED
after the next list; a silent connection is noticed; errors are answered with a backoff. Not promised: each intermediate
state, or a difference between an object that was deleted and one that left the selection.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import structlog

from kube_cache.backoff import Backoff
from kube_cache.kube.client import ApiError, Json, KubeClient, resource_path

T = TypeVar("T")

_log = structlog.get_logger("kube_cache.reflector")
# The server ends each watch after a random time in this range, so that many watchers do not reconnect together.
_MIN_WATCH_S, _MAX_WATCH_S = 240, 480
# Seconds past the end of the watch that the server was asked for. A connection that is still silent then is dead.
_SILENCE_S = 15
# A list after a random time in this range finds what a watch may have missed, at the price of one list.
_MIN_RELIST_S, _MAX_RELIST_S = 600.0, 900.0
_MIN_BACKOFF_S, _MAX_BACKOFF_S = 0.5, 30.0


class _Expired(Exception):
    """The API server no longer has the events since our resource version (410): list again."""


class Reflector(Generic[T]):
    """One selection. The handler is called on the thread of `run` with ADDED, MODIFIED or DELETED and a projection."""

    def __init__(
        self,
        client: KubeClient,
        resource: str,
        *,
        project: Callable[[Json], T | None],
        handler: Callable[[str, T], Any],
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
    ) -> None:
        """project: keeps the fields of an object that are needed; None drops the object from the selection."""
        self._client = client
        self._resource = resource
        self._project = project
        self._handler = handler
        self._namespace = namespace
        self._labels = label_selector
        self._fields = field_selector
        self._known: dict[str, T] = {}
        """Projection of each object by uid."""
        self.synced = threading.Event()
        """Set after the first list was handed on."""
        self.errors = 0
        """Number of lists and watches that failed."""

    def get(self, uid: str) -> T | None:
        """Return an object as the last event showed it; None if it is not in the selection. Any thread may call.

        Safe without a lock: one thread writes, and a lookup in a dict is atomic.
        """
        return self._known.get(uid)

    def run(self, stop: threading.Event) -> None:
        """List and watch until `stop` is set and the next event or the end of the watch has come."""
        backoff = Backoff(_MIN_BACKOFF_S, _MAX_BACKOFF_S)
        version = ""
        relist_at = 0.0
        while not stop.is_set():
            try:
                if not version or time.monotonic() >= relist_at:
                    version = self._list()
                    relist_at = time.monotonic() + random.uniform(_MIN_RELIST_S, _MAX_RELIST_S)
                version = self._watch(version, stop, relist_at)
                backoff.reset()
            except _Expired:
                version = ""
            except ApiError as error:
                self.errors += 1
                if error.status == 410:
                    version = ""
                wait_s = max(error.retry_after_s, backoff.next_s())
                _log.warning(
                    "watch failed; trying again", resource=self._resource, error=error.message, wait_s=round(wait_s, 1)
                )
                stop.wait(wait_s)

    def _list(self) -> str:
        """Hand on the whole selection; return the resource version to watch from. Raises ApiError."""
        listing = self._client.list_pages(self._resource, self._namespace, self._labels, self._fields)
        seen = set()
        for item in listing.items:
            uid = item["metadata"]["uid"]
            if self._hand_on("MODIFIED" if uid in self._known else "ADDED", item):
                seen.add(uid)
        for uid in self._known.keys() - seen:
            self._handle("DELETED", self._known.pop(uid))
        self.synced.set()
        return listing.resource_version

    def _watch(self, version: str, stop: threading.Event, relist_at: float) -> str:
        """Hand on events until the watch ends; return the resource version to go on from. Raises ApiError, _Expired."""
        seconds = max(1, min(random.randint(_MIN_WATCH_S, _MAX_WATCH_S), int(relist_at - time.monotonic())))
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
            "labelSelector": self._labels,
            "fieldSelector": self._fields,
        }
        path = resource_path(self._resource, self._namespace)
        for line in self._client.watch_lines(path, query, read_timeout_s=seconds + _SILENCE_S):
            if stop.is_set():
                break
            try:
                event = json.loads(line)
                kind, item = event["type"], event["object"]
            except (ValueError, KeyError, TypeError):
                _log.warning("skipped a watch line that is not an event", resource=self._resource, line=line[:200])
                continue
            if kind == "ERROR":
                if item.get("code") == 410:
                    raise _Expired
                raise ApiError(int(item.get("code") or 0), str(item.get("reason")), str(item.get("message")))
            version = item["metadata"]["resourceVersion"]
            if kind != "BOOKMARK":
                self._hand_on(kind, item)
        return version

    def _hand_on(self, kind: str, item: Json) -> bool:
        """Hand one object on; False if the projection drops it."""
        uid = item["metadata"]["uid"]
        try:
            projected = self._project(item)
        except Exception:  # an object that we misread must not hide all others
            _log.exception("cannot read an object", resource=self._resource, uid=uid)
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
            _log.exception("handler failed", resource=self._resource, event_type=kind)
