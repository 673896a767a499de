"""The contract of the transfer engine: objects to fetch, the files to fetch them to, progress and results.

Listing, engine and store share these nouns and no others, so that the store and the activities never see sockets, and
the engine never sees snapshots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from kube_cache.dataset.range_plan import RangePlan
from kube_cache.dataset.remote import RemoteObject


class Verified(StrEnum):
    """How an object's bytes were proven, strongest first. Never claims more than was compared."""

    FULL_OBJECT = "full-object"
    """The CRC64NVME, CRC32C or CRC32 of the whole object equals the one that the object store keeps."""
    COMPOSITE = "composite"
    """The checksums of all stored parts, and the checksum over those, equal the object store's."""
    MD5 = "md5"
    """The MD5 equals the ETag of an object uploaded in one part; only by option."""
    TRANSPORT_ONLY = "transport-only"
    """Size and version matched on every range; the object store keeps no checksum that can be computed."""
    PEER_SAMPLED = "peer-sampled"
    """As above, but ranges came from neighbours: samples of them equal the origin's bytes, the others a neighbour's
    word. The weakest: of `TRANSPORT_ONLY` each byte came from the origin itself."""


def weakest(verifications: Iterable[Verified]) -> Verified:
    """Return the weakest; FULL_OBJECT of none."""
    return max(verifications, key=list(Verified).index, default=Verified.FULL_OBJECT)


@dataclass(frozen=True, slots=True)
class FetchJob:
    """One object to fetch.

    part_path: the file, which the engine creates, sizes and fills in place. journal_path: which of its ranges are done,
    so that a later fetch resumes. plan: decides where each range comes from; None: from the origin.
    """

    object: RemoteObject
    part_path: Path
    journal_path: Path
    plan: RangePlan | None = None


@dataclass(slots=True)
class Timings:
    """Seconds that an object took, summed over its ranges."""

    wait_s: float = 0.0
    first_byte_s: float = 0.0
    network_s: float = 0.0
    decrypt_s: float = 0.0
    verify_s: float = 0.0
    write_s: float = 0.0

    def add(self, more: Timings) -> None:
        self.wait_s += more.wait_s
        self.first_byte_s += more.first_byte_s
        self.network_s += more.network_s
        self.decrypt_s += more.decrypt_s
        self.verify_s += more.verify_s
        self.write_s += more.write_s


@dataclass(frozen=True, slots=True)
class FetchedObject:
    """An object whose file is complete, verified and durable (fdatasync done), so that the store may publish it."""

    job: FetchJob
    crc64nvme: int
    """CRC of the whole object; always computed, because the manifest keeps it for the scrub."""
    verified: Verified
    fetched_bytes: int
    """From the origin and from neighbours; bytes that were fetched twice count twice."""
    resumed_bytes: int
    """Bytes of an earlier fetch that were read back from the disk and equal what its journal says."""
    timings: Timings = field(default_factory=Timings)
    neighbour_bytes: Mapping[str, int] = field(default_factory=dict)
    """Bytes of the file that came from neighbours, by the neighbour's name (`Source.name`)."""


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
        max_bytes_per_s: int = 0,
    ) -> None:
        """Fetch all jobs and return when each has gone through `on_object`. Blocking; call it from a thread.

        on_object: called from an engine thread once a job, as soon as its file is durable; an exception ends the fetch.
        progress: called at most once a second, and at least once every 2 s while work goes on.
        cancelled: polled; after it turns true the call ends within 2 s with `errors.Cancelled`, journals kept.
        priority: of the call; a higher one goes first among the calls that share the engine.
        max_bytes_per_s: of the call, beside the engine's own limit; 0 = no limit.

        Raises the first non-retryable error of any job (SourceChanged, ChecksumMismatch, AccessDenied,
        DatasetNotFound), or DiskFault, or SourceUnavailable after the engine's own retries. The other jobs of the call
        are stopped before, and their journals kept, so that calling again resumes.
        """

    def close(self) -> None: ...
