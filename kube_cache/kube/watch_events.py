"""The lines of a watch as events: what came, what is wrong with the watch, and what is no event at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import structlog

from kube_cache.kube.client import ApiError, Json

_log = structlog.get_logger("kube_cache.reflector")
BOOKMARK = "BOOKMARK"
_INITIAL_EVENTS_END = "k8s.io/initial-events-end"


class Expired(Exception):
    """The API server no longer has the events since our resource version (410): list again."""


class Event(NamedTuple):
    kind: str
    """ADDED, MODIFIED, DELETED or BOOKMARK."""
    item: Json
    version: str
    """Where a watch that continues after this event begins."""

    @property
    def ends_initial_events(self) -> bool:
        """Whether everything that was there when the stream began has come before."""
        annotations = self.item["metadata"].get("annotations") or {}
        return self.kind == BOOKMARK and annotations.get(_INITIAL_EVENTS_END) == "true"


def parse(lines: Iterable[bytes], *, watch: str) -> Iterator[Event]:
    """Yield the events; skip a line that is none. watch: name for the log. Raises Expired, ApiError."""
    for line in lines:
        try:
            raw = json.loads(line)
            kind, item = raw["type"], raw["object"]
            version = "" if kind == "ERROR" else item["metadata"]["resourceVersion"]
        except (ValueError, KeyError, TypeError):
            _log.warning("skipped a watch line that is not an event", watch=watch, line=line[:200])
            continue
        if kind == "ERROR":
            if item.get("code") == 410:
                raise Expired
            details = item.get("details") or {}
            raise ApiError(
                int(item.get("code") or 0),
                str(item.get("reason")),
                str(item.get("message")),
                retry_after_s=float(details.get("retryAfterSeconds") or 0),
            )
        yield Event(kind, item, version)
