"""A body that botocore reads: for proxies, redirects and any framing that the engine's connection does not speak."""

from __future__ import annotations

from typing import Protocol

import urllib3

from kube_cache.dataset.checksums import DeclaredChecksum
from kube_cache.errors import SourceUnavailable


class _Raw(Protocol):
    def read(self, amt: int) -> bytes: ...
    def close(self) -> None: ...


class BotocoreBody:
    """Implements `kube_cache.dataset.source.Body`."""

    def __init__(self, raw: _Raw, name: str, checksum: DeclaredChecksum | None, *, tls: bool) -> None:
        """raw: the body below botocore's own checksum. name: of the object, for messages."""
        self.checksum = checksum
        self.tls = tls
        self._raw = raw
        self._name = name

    def read(self, amount: int) -> bytes:
        try:
            return self._raw.read(amount)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise SourceUnavailable(f"{self._name}: the connection broke: {error}") from error

    def close(self) -> None:
        self._raw.close()
