"""Sources that live in this process: an origin and neighbours without a socket, for tests that need no HTTP.

Each piece that is asked for is noted, and a test's `script` sees it before it is answered: the script may raise what a
source raises, wait for something, or return other bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from awscrt import checksums

from kube_cache.dataset.checksums import Algorithm, DeclaredChecksum
from kube_cache.dataset.remote import RemoteObject
from kube_cache.dataset.source import Answer, Body, ObjectHead, Piece, Request, StoredPart
from kube_cache.errors import DatasetNotFound, SourceChanged

Script = Callable[[Piece, bytes], bytes]
"""(what is asked for, the right bytes) → the bytes to send; fewer of them end in the middle."""


class MemoryBody:
    tls = False

    def __init__(self, data: bytes, checksum: DeclaredChecksum | None) -> None:
        self.checksum = checksum
        self._data = data

    def read(self, amount: int) -> bytes:
        piece, self._data = self._data[:amount], self._data[amount:]
        return piece

    def close(self) -> None: ...


class MemorySource:
    """Implements `kube_cache.dataset.source.Source`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.data: dict[str, bytes] = {}
        """By key."""
        self.asked: list[Piece] = []
        self.script: Script = lambda _piece, data: data
        self._lock = threading.Lock()

    def request(self, piece: Piece) -> Request | None:
        return None

    def accept(self, piece: Piece, answer: Answer) -> DeclaredChecksum | None:
        raise AssertionError("nobody sent a request")

    def open(self, piece: Piece) -> Body:
        with self._lock:
            self.asked.append(piece)
        data = self.data.get(piece.object.key)
        if data is None:
            raise DatasetNotFound(f"{self.name} has no {piece.object.key}")
        return MemoryBody(self.script(piece, data[piece.first : piece.last + 1]), self.checksum_of(piece))

    def checksum_of(self, piece: Piece) -> DeclaredChecksum | None:
        return None

    def firsts(self) -> list[int]:
        """Return the offsets that were asked for, sorted."""
        with self._lock:
            return sorted(piece.first for piece in self.asked)


@dataclass
class _Stored:
    etag: str
    checksum: DeclaredChecksum | None


class MemoryOrigin(MemorySource):
    """Implements `kube_cache.dataset.source.Origin`, and `Origins` for each scheme."""

    def __init__(self) -> None:
        super().__init__("origin")
        self._stored: dict[str, _Stored] = {}

    def of(self, scheme: str) -> MemoryOrigin:
        return self

    def put(self, key: str, data: bytes, *, proven: bool = True) -> RemoteObject:
        """Put an object. proven: with the CRC64NVME of the whole object."""
        crc = checksums.crc64nvme(data).to_bytes(8, "big")
        self.data[key] = data
        self._stored[key] = _Stored(f'"{key}-1"', DeclaredChecksum(Algorithm.CRC64NVME, crc) if proven else None)
        return RemoteObject("s3", "bucket", key, key, len(data), self._stored[key].etag)

    def list_objects(self, bucket: str, prefix: str) -> Iterator[list[RemoteObject]]:
        yield [
            RemoteObject("s3", bucket, key, "", len(self.data[key]), self._stored[key].etag)
            for key in sorted(self.data)
            if key.startswith(prefix)
        ]

    def head(self, remote: RemoteObject) -> ObjectHead:
        stored = self._stored.get(remote.key)
        if stored is None:
            raise DatasetNotFound(f"{remote.uri} is not there")
        if stored.etag != remote.etag:
            raise SourceChanged(f"{remote.uri} was replaced")
        return ObjectHead(len(self.data[remote.key]), stored.etag, None, None, stored.checksum)

    def parts(self, remote: RemoteObject, count: int) -> list[StoredPart]:
        return []

    def checksum_of(self, piece: Piece) -> DeclaredChecksum | None:
        return self._stored[piece.object.key].checksum if piece.whole else None

    def close(self) -> None: ...
