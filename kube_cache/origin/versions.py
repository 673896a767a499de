"""Decides whether an answer is about the listed version of an object, also where a proxy changes or drops its ETag.

A LIST gives the origin's own ETag. On its way an answer's ETag may become weak (nginx does so when it may compress),
lose its quotes or vanish, and a HEAD may lose its length. So ETags are compared weakly; where an answer has none,
Last-Modified is compared; where it has neither, the pin is the `If-Match` of the request, if the object store is known
to heed it. An answer for which none of these holds proves nothing, and is an error that says what is missing: it is not
a replaced object.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from kube_cache.dataset.etags import are_equal, is_strong
from kube_cache.dataset.remote import RemoteObject
from kube_cache.dataset.source import ObjectHead
from kube_cache.errors import OriginUnsuitable, SourceChanged

UNLIKELY_ETAG: Final = '"kube-cache-asks-whether-if-match-is-heeded"'
_MAX_CLOCK_DIFFERENCE_S: Final = 1
"""LIST tells milliseconds and a header seconds, which origins round or cut."""


class Match(Enum):
    """What an answer tells of its object's version."""

    SAME = auto()
    OTHER = auto()
    UNTOLD = auto()


def compare(remote: RemoteObject, etag: str, modified: int) -> Match:
    """Compare an answer's (canonical) ETag and its Last-Modified with the listed ones. 0: not told."""
    if etag and remote.etag:
        return Match.SAME if are_equal(etag, remote.etag) else Match.OTHER
    if modified and remote.modified:
        return Match.SAME if abs(modified - remote.modified) <= _MAX_CLOCK_DIFFERENCE_S else Match.OTHER
    return Match.UNTOLD


class Versions:
    """The pins of one origin's objects. Thread-safe."""

    def __init__(self, head: Callable[[RemoteObject], ObjectHead], heeds: Callable[[RemoteObject], bool]) -> None:
        """head: a HEAD without condition. heeds: ask for an object with `If-Match: UNLIKELY_ETAG`; True if refused."""
        self._head = head
        self._heeds = heeds
        self._lock = threading.Lock()
        self._heeding: dict[str, bool] = {}
        """By bucket: whether the origin heeds `If-Match`, through whatever proxy is before it."""
        self._unconditional: set[str] = set()
        """Buckets where `If-Match` is compared with another ETag than the listed one."""

    def condition(self, remote: RemoteObject) -> str:
        """Return the ETag for the request's `If-Match`; empty for a request without."""
        return remote.etag if is_strong(remote.etag) and remote.bucket not in self._unconditional else ""

    def check(self, remote: RemoteObject, etag: str, modified: int) -> None:
        """Check an answer to a request with `condition`. Raises SourceChanged, OriginUnsuitable."""
        match = compare(remote, etag, modified)
        if match is Match.OTHER:
            raise self.changed(remote, etag, modified)
        if match is Match.UNTOLD and not (self.condition(remote) and self._is_heeded(remote)):
            raise OriginUnsuitable(
                f"{remote.uri}: the answers of the object store, or of a proxy before it, have neither ETag nor"
                " Last-Modified that could be compared with the listing, and If-Match is not heeded, so nothing proves"
                " that the bytes are those of the listed object; let the proxy pass ETag, Last-Modified and If-Match, or"
                " name the object store itself (AWS_ENDPOINT_URL_S3)",
                bucket=remote.bucket,
                key=remote.key,
            )

    def is_replaced(self, remote: RemoteObject) -> bool:
        """After a 412: False if the object still is the listed one; requests to its bucket then go without If-Match.

        A proxy that answers from a copy compares If-Match with an ETag of its own, which may be a weak one. Only an
        equal ETag overrules a 412: two changes within a second have one Last-Modified.
        """
        if not is_strong(remote.etag):
            return True  # not sent
        head = self._head(remote)
        if head.size not in {None, remote.size} or not head.etag or not are_equal(head.etag, remote.etag):
            return True
        self._unconditional.add(remote.bucket)
        return False

    @staticmethod
    def changed(remote: RemoteObject, etag: str, modified: int) -> SourceChanged:
        if etag and remote.etag:
            reason = f"its ETag is {etag}, it was {remote.etag}"
        else:
            reason = f"it was modified at {modified} s after 1970, by the listing at {remote.modified} s"
        return SourceChanged(
            f"{remote.uri} was replaced since it was listed ({reason}); it is resolved again",
            bucket=remote.bucket,
            key=remote.key,
        )

    def _is_heeded(self, remote: RemoteObject) -> bool:
        """Ask once a bucket, since every answer may lack its ETag there."""
        with self._lock:
            heeded = self._heeding.get(remote.bucket)
            if heeded is None:
                heeded = self._heeding[remote.bucket] = self._heeds(remote)
            return heeded
