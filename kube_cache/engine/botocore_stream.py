"""The slow path: a body that botocore reads, for proxies, redirects and any framing that the fast path does not speak.

Costs twice the CPU of a connection of our own. Looks the same to a worker, checksums included.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

import urllib3

from kube_cache.dataset.checksums import DeclaredChecksum
from kube_cache.engine.object_state import ObjectState
from kube_cache.engine.receiving import Received, receive_in_python
from kube_cache.errors import SourceUnavailable
from kube_cache.origin.s3 import Body, Origin

_MAX_READ_BYTES: Final = 256 << 10
"""One read of botocore's body allocates this much; as in C, a piece is checksummed while the core's cache holds it."""


def open_stream(
    origin: Origin,
    state: ObjectState,
    first: int,
    last: int,
    on_declared: Callable[[DeclaredChecksum | None], None],
    *,
    tls: bool,
) -> BotocoreStream:
    """Open bytes first..last. on_declared: called with the checksum that comes with the body of a small object."""
    head, body = origin.open(state.remote, first, last)
    if state.small and first == 0:
        on_declared(head.checksum)
    return BotocoreStream(body, state.name, tls=tls)


class BotocoreStream:
    """Implements `Stream`."""

    leftover = b""

    def __init__(self, body: Body, name: str, *, tls: bool) -> None:
        self.tls = tls
        self._body = body
        self._name = name

    def receive(self, view: memoryview, crc64: int, crc32c: int, *, with_crc32c: bool) -> Received:
        return receive_in_python(self._read, view, crc64, crc32c, with_crc32c=with_crc32c)

    def finish(self) -> None:
        """Return the connection to botocore's pool. Never raises, because the range is complete by now."""
        with contextlib.suppress(urllib3.exceptions.HTTPError, OSError):  # a body without a length may not end at all
            self._body.read(1)  # the pool takes a connection back at the end of its body
        self._body.close()

    def _read(self, view: memoryview) -> int:
        try:
            data = self._body.read(min(len(view), _MAX_READ_BYTES))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            self._body.close()
            raise SourceUnavailable(f"{self._name}: the connection broke: {error}") from error
        if not data:
            self._body.close()
            raise SourceUnavailable(f"{self._name}: the connection closed in the middle of a body")
        view[: len(data)] = data
        return len(data)
