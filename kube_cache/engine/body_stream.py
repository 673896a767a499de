"""The slow path: a body that its source reads by its own means, such as botocore.

Costs twice the CPU of a connection of our own. Looks the same to a worker, checksums included.
"""

from __future__ import annotations

import contextlib
from typing import Final

from kube_cache.dataset.source import Body
from kube_cache.engine.receiving import Received, receive_in_python
from kube_cache.errors import SourceUnavailable

_MAX_READ_BYTES: Final = 256 << 10
"""One read of a body allocates this much; as in C, a piece is checksummed while the core's cache holds it."""


class BodyStream:
    """Implements `wire.Stream`."""

    leftover = b""

    def __init__(self, body: Body, name: str) -> None:
        """name: of the object, for messages."""
        self.tls = body.tls
        self._body = body
        self._name = name

    def receive(self, view: memoryview, crc64: int, crc32c: int, *, with_crc32c: bool) -> Received:
        return receive_in_python(self._read, view, crc64, crc32c, with_crc32c=with_crc32c)

    def finish(self) -> None:
        """Give the connection back. Never raises, because the range is complete by now."""
        with contextlib.suppress(SourceUnavailable):  # a body without a length may not end at all
            self._body.read(1)  # a pool takes a connection back at the end of its body
        self._body.close()

    def _read(self, view: memoryview) -> int:
        try:
            data = self._body.read(min(len(view), _MAX_READ_BYTES))
        except SourceUnavailable:
            self._body.close()
            raise
        if not data:
            self._body.close()
            raise SourceUnavailable(f"{self._name}: the connection closed in the middle of a body")
        view[: len(data)] = data
        return len(data)
