"""List and watch, for ever: a selection of one resource, as events to a handler.

Our own, because the client's informer reconnects without delay after an error (3,337 requests in a second on a 403 were
seen) and its watch loses its place on a 410. Raw JSON lines, a projection of each object, nothing else in memory.

What it promises: every object of the selection is seen; an object that vanished while nobody watched gives a DELETED
after the next list; silence is noticed; errors are answered with patience. What it does not: deliver each intermediate state,
or tell an object that was deleted from one that left the selection.
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
# The server ends each watch after a random time in this range, so that many watchers do not come back together.
_WATCH_S = (240, 480)
# Past the server's own end of the watch nothing should be silent: then the connection is dead.
_SILENCE_S = 15
_RELIST_S = (600.0, 900.0)
_MIN_BACKOFF_S, _MAX_BACKOFF_S = 0.5, 30.0


class _Expired(Exception):
    """Our place in the stream of events is gone (410): list again."""


class Reflector(Generic[T]):
    """`run` blocks until `stop`; the handler is called on that thread with ADDED, MODIFIED or DELETED and the projection."""

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
        self._client = client
        self._resource = resource
        self._project = project
        self._handler = handler
        self._namespace = namespace
        self._labels = label_selector
        self._fields = field_selector
        self._known: dict[str, T] = {}
        self.synced = threading.Event()
        """Set after the first list was handed on."""
        self.last_event_time = 0.0
        self.relists = 0
        self.errors = 0

    def get(self, uid: str) -> T | None:
        """Return an object as the last event showed it; None if it is not in the selection. Any thread may call.

        Safe without a lock: one thread writes, and a lookup in a dict is atomic.
        """
        return self._known.get(uid)

    def run(self, stop: threading.Event) -> None:
        backoff = Backoff(_MIN_BACKOFF_S, _MAX_BACKOFF_S)
        version = ""
        relist_at = 0.0
        while not stop.is_set():
            try:
                if not version or time.monotonic() >= relist_at:
                    version = self._list()
                    relist_at = time.monotonic() + random.uniform(*_RELIST_S)
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
        items, version = self._client.list_pages(self._resource, self._namespace, self._labels, self._fields)
        self.relists += 1
        seen = set()
        for item in items:
            uid = item["metadata"]["uid"]
            if self._take("MODIFIED" if uid in self._known else "ADDED", item):
                seen.add(uid)
        for uid in self._known.keys() - seen:
            self._handle("DELETED", self._known.pop(uid))
        self.synced.set()
        return version

    def _watch(self, version: str, stop: threading.Event, relist_at: float) -> str:
        seconds = max(1, min(random.randint(*_WATCH_S), int(relist_at - time.monotonic())))
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
            self.last_event_time = time.time()
            if kind == "ERROR":
                if item.get("code") == 410:
                    raise _Expired
                raise ApiError(int(item.get("code") or 0), str(item.get("reason")), str(item.get("message")))
            version = item["metadata"]["resourceVersion"]
            if kind != "BOOKMARK":
                self._take(kind, item)
        return version

    def _take(self, kind: str, item: Json) -> bool:
        """Hand one object on; False where the projection does not want it."""
        uid = item["metadata"]["uid"]
        try:
            projected = self._project(item)
        except Exception:  # one object that we misread must not blind us to all others
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
        except Exception:  # the handler's mistakes are its own; the stream goes on
            _log.exception("handler failed", resource=self._resource, event_type=kind)
