"""The port between the engine and whoever has an object's bytes: object storage, a neighbour, or a test's memory.

The engine knows these nouns and no dialect: where a bucket is, how a request is signed, which header pins a version and
what an error document says is behind `Source` (S3 and Google Cloud Storage: `kube_cache.origin`; a neighbour:
`kube_cache.peers`). The sockets are the engine's, so a source only writes a request and judges the answer to it.

`Source` has what every source of ranges needs. `Origin` adds what only object storage can tell: six methods in all.
`target` is part of `request`, since nobody wants one without the other, and `refusal` is `accept`, which also returns
the checksum that an acceptable answer brings. A neighbour implements `Source` alone: it lists nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from kube_cache.dataset.checksums import DeclaredChecksum
from kube_cache.dataset.remote import RemoteObject
from kube_cache.errors import SourceChanged, SourceUnavailable


class Retry(SourceUnavailable):
    """The request may be repeated after `after_s`. throttled: the whole node should send fewer requests."""

    def __init__(self, message: str, *, throttled: bool = False, after_s: float = 0.0) -> None:
        super().__init__(message)
        self.throttled = throttled
        self.after_s = after_s


class CredentialsExpired(SourceUnavailable):
    """The source calls the credentials expired; those that `renew` fetches may be accepted."""

    def __init__(self, message: str, renew: Callable[[], None]) -> None:
        super().__init__(message)
        self.renew = renew


class UnsupportedAnswer(Exception):
    """An answer that the engine's own connection does not speak. `Source.open` may read it, by other means."""


def object_changed(remote: RemoteObject, reason: str) -> SourceChanged:
    return SourceChanged(
        f"{remote.uri} was replaced or removed since it was listed ({reason}); it is resolved again",
        bucket=remote.bucket,
        key=remote.key,
    )


@dataclass(frozen=True, slots=True)
class Server:
    """Where a connection leads; a kept connection serves equal servers only."""

    tls: bool
    host: str
    """Name or address to connect to."""
    port: int
    name: str = ""
    """Name that the server's certificate must hold; empty: `host`."""


@dataclass(frozen=True, slots=True)
class Trust:
    """How the two ends of a TLS connection prove who they are."""

    authorities: str
    """Path of the certificates (PEM) that a server's must lead to."""
    certificate: str = ""
    """Path of the client's certificate (PEM); empty: the client shows none."""
    key: str = ""
    """Path of the client's private key (PEM)."""
    remedy: str = ""
    """What to mend when the server's certificate cannot be verified; the end of that error's message."""
    version: int = 0
    """Another number when a file's content has changed: later connections read the files again."""


@dataclass(frozen=True, slots=True)
class Request:
    """A GET that is ready to send."""

    server: Server
    trust: Trust | None
    """None without TLS."""
    data: bytes
    """Request line and headers of HTTP/1.1, with the blank line at their end."""
    stall_s: float | None = None
    """Seconds without a byte after which the answer counts as stalled; None: as the engine is set."""
    min_bytes_per_s: int = 0
    """An answer that stays below this rate over the time of a stall counts as stalled, too; 0: any rate will do."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes first..last of one version of an object."""

    object: RemoteObject
    first: int
    last: int
    generation: str | None = None
    """Google Cloud Storage's version of the object, as HEAD told; None where there is none."""
    whole: bool = False
    """The piece is a whole small object: its answer should bring the checksum, which no HEAD has told."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of an answer, and the beginning of its body where that is an error document."""

    status: int
    headers: Mapping[str, str]
    """By name in lower case."""
    body: bytes = b""
    """Up to 4 KiB of the body of a status of 300 or more."""


class Body(Protocol):
    """Bytes of a piece that a source reads by its own means."""

    checksum: DeclaredChecksum | None
    """That of a whole object, where it came with the bytes."""
    tls: bool
    """The CPU time of a read includes decryption."""

    def read(self, amount: int) -> bytes:
        """Return up to `amount` bytes; b"" at the end. Raises SourceUnavailable when the connection breaks."""
        ...

    def close(self) -> None: ...


class Source(Protocol):
    """Whoever has bytes of objects. Thread-safe.

    Each method may ask the source, and raises its errors: Retry, CredentialsExpired and SourceUnavailable, after which
    the engine tries again, AccessDenied, DatasetNotFound, SourceChanged, OriginUnsuitable.
    """

    @property
    def name(self) -> str:
        """Tells sources apart, in messages and in counts of bytes: a node's name, or `origin`."""
        ...

    def request(self, piece: Piece) -> Request | None:
        """Return the GET that asks for the piece; None: only `open` can reach it."""
        ...

    def accept(self, piece: Piece, answer: Answer) -> DeclaredChecksum | None:
        """Judge the answer to `request`; return the checksum that came with a whole object.

        The engine compares the length and the range by itself. Raises the error that an answer means which cannot be
        used, for every status of 300 or more; UnsupportedAnswer where only `open` can go on.
        """
        ...

    def open(self, piece: Piece) -> Body:
        """Open the piece by the source's own means: slow, and with any framing. Checks that the version is the piece's.

        A source without such means raises SourceUnavailable.
        """
        ...


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part as uploaded. value: its checksum in the object's algorithm; empty when the origin keeps none."""

    size: int
    value: bytes


@dataclass(frozen=True, slots=True)
class ObjectHead:
    """What a HEAD or a GET tells of an object besides its bytes."""

    size: int | None
    """None when not told, as by a proxy that sends a HEAD's answer in chunks."""
    etag: str
    """Canonical; empty when not told."""
    version_id: str | None
    generation: str | None
    """Google Cloud Storage's version of the object."""
    checksum: DeclaredChecksum | None
    modified: int = 0
    """Seconds since the epoch; 0 when not told."""


class Origin(Source, Protocol):
    """Object storage. Raises as `Source`, and BucketNotAllowed."""

    def list_objects(self, bucket: str, prefix: str) -> Iterator[list[RemoteObject]]:
        """Yield pages of the objects whose keys begin with `prefix`, in key order; their `path` is not set yet.

        An empty page says that a request is about to be tried again, so that the caller can send a heartbeat.
        """
        ...

    def head(self, remote: RemoteObject) -> ObjectHead:
        """Ask for the object as it is now. Raises SourceChanged when it is not the listed one any more."""
        ...

    def parts(self, remote: RemoteObject, count: int) -> list[StoredPart]:
        """Return the `count` parts in which the object was uploaded, in order; [] when the origin does not tell."""
        ...


class Origins(Protocol):
    """The origins of a process, one a scheme. Thread-safe."""

    def of(self, scheme: str) -> Origin:
        """Raises AccessDenied (no credentials), InvalidRequest (wrong settings)."""
        ...
