"""The words that the listing, the transfer engine and the store share: what is fetched, where to, and what came of it.

This is the engine's whole contract (`TransferEngine`), so that the store and the activities never see sockets, and the
engine never sees snapshots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from kube_cache.dataset.uri import DatasetUri


class Verified(StrEnum):
    """How an object's bytes were proven, strongest first. Never claims more than was checked."""

    FULL_OBJECT = "full-object"
    """CRC64NVME, CRC32C or CRC32 over the whole object equals the one that the object store keeps."""
    COMPOSITE = "composite"
    """Each stored part's checksum, and the checksum over those, equal the object store's."""
    MD5 = "md5"
    """MD5 equals a single-part ETag; only by option."""
    TRANSPORT_ONLY = "transport-only"
    """The store keeps no checksum that we can compute; sizes and ETag matched on every range."""


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """One object as LIST shows it. `path` is its place inside the dataset's directory (relative, '/'-separated)."""

    scheme: str  # "s3" or "gs"
    bucket: str
    key: str
    path: str
    size: int
    etag: str
    """As served, with its quotes; opaque: never parsed."""
    version_id: str | None = None

    @property
    def uri(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A resolved dataset. digest: SHA-256 (hex) over the sorted (path, key, size, ETag) list; see `listing`."""

    uri: DatasetUri
    digest: str
    objects: tuple[RemoteObject, ...]
    total_bytes: int


@dataclass(frozen=True, slots=True)
class FetchJob:
    """One object to fetch. `part_path` is created, sized and filled in place; `journal_path` makes it resumable."""

    object: RemoteObject
    part_path: Path
    journal_path: Path


@dataclass(slots=True)
class Timings:
    """Seconds summed over the ranges: waiting for a slot, first byte, network, decrypt, verify, write."""

    wait_s: float = 0.0
    first_byte_s: float = 0.0
    network_s: float = 0.0
    decrypt_s: float = 0.0
    verify_s: float = 0.0
    write_s: float = 0.0


@dataclass(frozen=True, slots=True)
class FetchedObject:
    """An object whose `part_path` is complete, verified and durable (fdatasync done); the store may publish it."""

    job: FetchJob
    crc64nvme: int
    """Of the whole object, always computed, kept in the manifest for the scrub."""
    verified: Verified
    fetched_bytes: int
    resumed_bytes: int
    """Bytes that the journal proved and that were not fetched again."""
    timings: Timings = field(default_factory=Timings)


@dataclass(frozen=True, slots=True)
class FetchProgress:
    done_bytes: int
    """On disk and checksummed, resumed ones included; never falls, never exceeds the total."""
    total_bytes: int
    bytes_per_s: float
    """Of the last few seconds."""
    ahead_bytes: int = 0
    """Blocks that the disk has given for bytes yet to come: who reserves room must not count them twice."""


class TransferEngine(Protocol):
    """Fetches objects to files. One instance per process: it owns the buffers, the connections and the rate limits."""

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

        on_object: called from an engine thread once per job, as soon as that file is durable; an exception ends the fetch.
        progress: called at most once a second, and at least once every 2 s while work goes on.
        cancelled: polled; after it turns true the call ends within 2 s with `errors.Cancelled`, journals kept.

        Raises the first non-retryable error of any job (SourceChanged, ChecksumMismatch, AccessDenied,
        DatasetNotFound), or DiskFault, or SourceUnavailable after the engine's own retries; other jobs of the same call
        are stopped first and their journals kept, so that calling again resumes.
        """

    def close(self) -> None: ...
