"""The contract of the transfer engine: objects to fetch, the files to fetch them to, progress and results.

Listing, engine and store share these nouns and no others, so that the store and the activities never see sockets, and
the engine never sees snapshots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from kube_cache.dataset.uri import DatasetUri


class Verified(StrEnum):
    """How an object's bytes were proven, strongest first. Never claims more than was compared."""

    FULL_OBJECT = "full-object"
    """The CRC64NVME, CRC32C or CRC32 of the whole object equals the one that the object store keeps."""
    COMPOSITE = "composite"
    """The checksums of all stored parts, and the checksum over those, equal the object store's."""
    MD5 = "md5"
    """The MD5 equals the ETag of an object uploaded in one part; only by option."""
    TRANSPORT_ONLY = "transport-only"
    """Size and ETag matched on every range; the object store keeps no checksum that can be computed."""


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """One object as LIST shows it.

    scheme: "s3" or "gs". path: of its file within the dataset's directory, relative, separated by "/".
    """

    scheme: str
    bucket: str
    key: str
    path: str
    size: int
    etag: str
    """As served, with its quotes. Opaque: compared, never parsed."""
    version_id: str | None = None

    @property
    def uri(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A resolved dataset. digest: SHA-256 (hex) over its URI and objects; see `origin.listing.digest`."""

    uri: DatasetUri
    digest: str
    objects: tuple[RemoteObject, ...]
    total_bytes: int


@dataclass(frozen=True, slots=True)
class FetchJob:
    """One object to fetch.

    part_path: the file, which the engine creates, sizes and fills in place. journal_path: which of its ranges are done,
    so that a later fetch resumes.
    """

    object: RemoteObject
    part_path: Path
    journal_path: Path


@dataclass(slots=True)
class Timings:
    """Seconds that an object took, summed over its ranges."""

    wait_s: float = 0.0
    first_byte_s: float = 0.0
    network_s: float = 0.0
    decrypt_s: float = 0.0
    verify_s: float = 0.0
    write_s: float = 0.0


@dataclass(frozen=True, slots=True)
class FetchedObject:
    """An object whose file is complete, verified and durable (fdatasync done), so that the store may publish it."""

    job: FetchJob
    crc64nvme: int
    """CRC of the whole object; always computed, because the manifest keeps it for the scrub."""
    verified: Verified
    fetched_bytes: int
    resumed_bytes: int
    """Bytes that the journal proved, so that they were not fetched again."""
    timings: Timings = field(default_factory=Timings)


@dataclass(frozen=True, slots=True)
class FetchProgress:
    done_bytes: int
    """Bytes on the disk and checksummed, resumed ones included; never falls, never exceeds the total."""
    total_bytes: int
    bytes_per_s: float
    """Over the last few seconds."""
    preallocated_bytes: int = 0
    """Bytes of blocks that the disk has allocated for data yet to come; a reservation must not count them again."""


class TransferEngine(Protocol):
    """Fetches objects to files. One instance a process, because it owns buffers, connections and rate limits."""

    def fetch(
        self,
        jobs: Iterable[FetchJob],
        *,
        on_object: Callable[[FetchedObject], None],
        progress: Callable[[FetchProgress], None] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        priority: int = 0,
    ) -> None:
        """Fetch all jobs and return when each has gone through `on_object`. Blocking; call it from a thread.

        on_object: called from an engine thread once a job, as soon as its file is durable; an exception ends the fetch.
        progress: called at most once a second, and at least once every 2 s while work goes on.
        cancelled: polled; after it turns true the call ends within 2 s with `errors.Cancelled`, journals kept.
        priority: of the call; a higher one goes first among the calls that share the engine.

        Raises the first non-retryable error of any job (SourceChanged, ChecksumMismatch, AccessDenied,
        DatasetNotFound), or DiskFault, or SourceUnavailable after the engine's own retries. The other jobs of the call
        are stopped before, and their journals kept, so that calling again resumes.
        """

    def close(self) -> None: ...
