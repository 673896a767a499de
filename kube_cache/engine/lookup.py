"""Looks an object up before its ranges are fetched: version, checksum, and the parts in which it was uploaded.

Goes through botocore's control plane, with the engine's request limiter, for as long as the settings allow while the
object store is unavailable. Opens no file and fetches no bytes of the object.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from kube_cache.backoff import Backoff
from kube_cache.dataset.transfer import RemoteObject
from kube_cache.engine.control import Control
from kube_cache.engine.throttle import MAX_BACKOFF_S, MIN_BACKOFF_S, RequestLimiter
from kube_cache.errors import DatasetNotFound, SourceChanged, SourceUnavailable
from kube_cache.origin.object_head import ObjectHead
from kube_cache.origin.s3 import Origins
from kube_cache.origin.stored_parts import StoredPart

T = TypeVar("T")


class ObjectLookup:
    def __init__(self, origins: Origins, limiter: RequestLimiter, give_up_s: float) -> None:
        self._origins = origins
        self._limiter = limiter
        self._give_up_s = give_up_s

    def look_up(self, remote: RemoteObject, control: Control) -> tuple[ObjectHead | None, list[StoredPart]]:
        """Return the object's HEAD (None if it is empty) and its parts ([] if its checksum needs none).

        Raises SourceChanged when the object is not the listed one any more, SourceUnavailable, AccessDenied, Cancelled.
        """
        if remote.size == 0:
            return None, []
        origin = self._origins.of(remote.scheme)
        try:
            head = self._retry_while_unavailable(control, partial(origin.head, remote))
        except DatasetNotFound as error:
            raise SourceChanged(f"{remote.uri} was removed since it was listed; it is resolved again") from error
        if (remote.etag and head.etag != remote.etag) or head.size != remote.size:
            raise SourceChanged(
                f"{remote.uri} was replaced since it was listed (ETag {head.etag}, {head.size} bytes; it was"
                f" {remote.etag}, {remote.size} bytes); it is resolved again",
                bucket=remote.bucket,
                key=remote.key,
            )
        count = head.checksum.parts if head.checksum else 0
        parts = self._retry_while_unavailable(control, partial(origin.stored_parts, remote, count)) if count else []
        return head, parts

    def _retry_while_unavailable(self, control: Control, request: Callable[[], T]) -> T:
        """Repeat `request` while the object store is unavailable, until `give_up_s` have passed without a byte."""
        backoff = Backoff(MIN_BACKOFF_S, MAX_BACKOFF_S)
        deadline = time.monotonic() + self._give_up_s
        while True:
            control.pause(self._limiter.reserve())
            try:
                return request()
            except SourceUnavailable as error:
                if max(deadline, control.last_byte_at + self._give_up_s) < time.monotonic():
                    raise
                if error.details.get("throttled"):
                    self._limiter.slow_down()
            control.pause(backoff.next_s())
