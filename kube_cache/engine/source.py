"""The workers' common knowledge of the origins, and the shape of a body that a worker receives from.

Opens no connection itself: `range_client` does, one client a worker, and `botocore_stream` is its slow path.
"""

from __future__ import annotations

import threading
import time
from typing import Final, Protocol

from kube_cache.engine import tls
from kube_cache.engine.addresses import Addresses
from kube_cache.engine.connection import Target
from kube_cache.engine.object_state import ObjectState
from kube_cache.engine.receiving import Received
from kube_cache.errors import SourceChanged, SourceUnavailable
from kube_cache.origin.s3 import Origin, Origins

_SLOW_PATH_S: Final = 60.0
"""Arbitrary: long enough that trying the fast path again costs nothing, short enough to notice a mended server."""


class Retry(SourceUnavailable):
    """The request may be repeated after `after_s`. throttled: the whole node should send fewer requests."""

    def __init__(self, message: str, *, throttled: bool = False, after_s: float = 0.0) -> None:
        super().__init__(message)
        self.throttled = throttled
        self.after_s = after_s


class CredentialsExpired(SourceUnavailable):
    """The object store calls the credentials expired; refreshed ones may be accepted."""


class Stream(Protocol):
    """The body of one response."""

    leftover: bytes
    """Body bytes that were received together with the head; the caller takes them first and empties the field."""
    tls: bool
    """The CPU time of a receive includes decryption."""

    def receive(self, view: memoryview, crc64: int, crc32c: int, *, with_crc32c: bool) -> Received: ...
    def finish(self) -> None:
        """Release the connection after the last byte of the body."""


class Source:
    """Shared by all workers: origins, addresses, TLS contexts, and the servers that need the slow path."""

    def __init__(self, origins: Origins, stall_s: float) -> None:
        self.origins = origins
        self.stall_s = stall_s
        self.addresses = Addresses()
        self._lock = threading.Lock()
        self._contexts: dict[str, tls.Context] = {}
        self._slow_path_until: dict[Target, float] = {}

    def context(self, origin: Origin) -> tls.Context:
        """Return the TLS context for the origin's CA bundle."""
        with self._lock:
            context = self._contexts.get(origin.ca_bundle)
            if context is None:
                context = self._contexts[origin.ca_bundle] = tls.context(origin.ca_bundle)
            return context

    def needs_slow_path(self, target: Target) -> bool:
        return self._slow_path_until.get(target, 0.0) > time.monotonic()

    def use_slow_path(self, target: Target) -> None:
        """Go through botocore for a minute, so that not every range meets the unsupported response again."""
        self._slow_path_until[target] = time.monotonic() + _SLOW_PATH_S


def object_changed(state: ObjectState, reason: str) -> SourceChanged:
    return SourceChanged(
        f"{state.name} was replaced or removed since it was listed ({reason}); it is resolved again",
        bucket=state.remote.bucket,
        key=state.remote.key,
    )
