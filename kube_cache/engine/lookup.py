"""Looks an object up before its ranges are fetched: version, checksum, and the parts in which it was uploaded.

Asks the origin's control plane, with the engine's request limiter, for as long as the settings allow while the
object store is unavailable. Opens no file and fetches no bytes of the object.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from kube_cache.backoff import Backoff
from kube_cache.dataset.checksums import DeclaredChecksum
from kube_cache.dataset.remote import RemoteObject
from kube_cache.dataset.source import ObjectHead, Origins, StoredPart
from kube_cache.engine.control import Control
from kube_cache.engine.throttle import MAX_BACKOFF_S, MIN_BACKOFF_S, RequestLimiter
from kube_cache.errors import DatasetNotFound, SourceChanged, SourceUnavailable

T = TypeVar("T")
_log = logging.getLogger("kube_cache.engine")
_MAX_PART_FAILURES: Final = 3
"""Arbitrary, on top of the two attempts that an origin makes each time."""


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
        return head, self.parts(remote, head.checksum, control)

    def parts(self, remote: RemoteObject, checksum: DeclaredChecksum | None, control: Control) -> list[StoredPart]:
        """Return the parts in which the object was uploaded; [] if its checksum needs none, or nobody tells.

        An object store that always fails here (Garage) costs the proof by parts and not the object. Raises as
        `look_up`.
        """
        if checksum is None or checksum.parts < 2:
            return []  # a checksum over one part's checksum needs no list
        origin = self._origins.of(remote.scheme)
        request = partial(origin.parts, remote, checksum.parts)
        for _ in range(_MAX_PART_FAILURES):
            try:
                return self._retry_while_unavailable(control, request, only_throttled=True)
            except SourceUnavailable as error:
                last = error
            control.pause(MIN_BACKOFF_S)
        _log.warning("%s: the parts of its checksum are not told, so it counts as transport-only: %s", remote.uri, last)
        return []

    def _retry_while_unavailable(
        self, control: Control, request: Callable[[], T], *, only_throttled: bool = False
    ) -> T:
        """Repeat `request` while the object store is unavailable, until `give_up_s` have passed without a byte.

        only_throttled: raise at once what is no throttling.
        """
        backoff = Backoff(MIN_BACKOFF_S, MAX_BACKOFF_S)
        deadline = time.monotonic() + self._give_up_s
        while True:
            control.pause(self._limiter.reserve())
            try:
                return request()
            except SourceUnavailable as error:
                throttled = bool(error.details.get("throttled"))
                if max(deadline, control.last_byte_at + self._give_up_s) < time.monotonic():
                    raise
                if only_throttled and not throttled:
                    raise
                if throttled:
                    self._limiter.slow_down()
            control.pause(backoff.next_s())
