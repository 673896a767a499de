"""The project's own errors: what can go wrong, for whom, and what would mend it.

Each class decides once whether a retry can help (`retryable`); the activity edge turns it into Temporal's
`ApplicationError` with the class name as type, and nothing else in the project marks an error non-retryable.
A message names the thing, the reason and the remedy, because it is shown on the Pod.

Errors of botocore, the Kubernetes client and the operating system are translated where they are met
(`kube_cache.dataset`, `kube_cache.kube`), chained with `raise ... from`; what is not translated is a bug or the
network, and is retried.
"""

from __future__ import annotations

from typing import ClassVar


class KubeCacheError(Exception):
    """Base of all; `details` is small JSON data for logs (bucket, key, node, sizes)."""

    retryable: ClassVar[bool] = True

    def __init__(self, message: str, **details: str | float | None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InvalidRequest(KubeCacheError):
    """What the user wrote cannot be understood: not a URI, an unknown scheme, an option with a bad value."""

    retryable = False


class UnsafeKey(InvalidRequest):
    """An object key that would leave the dataset's directory or cannot be a file name there."""


class AmbiguousDataset(InvalidRequest):
    """The URI is both an object and a prefix."""


class DatasetNotFound(KubeCacheError):
    """No such bucket, or nothing under the prefix."""

    retryable = False


class AccessDenied(KubeCacheError):
    """The object store refused the credentials."""

    retryable = False


class SourceChanged(KubeCacheError):
    """The source is no longer what was resolved (412, 416, another ETag, another digest): resolve afresh."""

    retryable = False


class ChecksumMismatch(KubeCacheError):
    """Bytes fetched twice do not match the checksum that the store declares."""

    retryable = False


class SourceUnavailable(KubeCacheError):
    """The object store does not answer or answers 5xx or 429; it will be tried again."""


class TransferStalled(SourceUnavailable):
    """A connection delivered nothing for longer than the stall timeout."""


class Cancelled(KubeCacheError):
    """The caller asked to stop; what was verified is kept."""

    retryable = False


class InsufficientDisk(KubeCacheError):
    """The dataset does not fit, even after evicting everything that nobody pins. The message holds the arithmetic."""

    retryable = False


class NoRoomYet(InsufficientDisk):
    """As `InsufficientDisk`, to one who waits until there is room."""

    retryable = True


class DiskFault(KubeCacheError):
    """The node's cache disk answered EIO, EROFS, EACCES or ENOSPC in spite of a reservation; retried, it may be mended."""


class PersistentDiskFault(DiskFault):
    """A download's `DiskFault` at its third attempt or later: another node's disk may be well."""

    retryable = False


class StoreConflict(KubeCacheError):
    """Another process holds the store, the object or the snapshot; retried."""


class SnapshotInUse(KubeCacheError):
    """Refusal to evict what is pinned; the message says by whom."""

    retryable = False


class NodeUnsuitable(KubeCacheError):
    """The root is on the root disk, or the disk is not the one that the request means (another cache id)."""

    retryable = False


class PodGone(KubeCacheError):
    """The Pod was deleted, or its name now belongs to another Pod."""

    retryable = False


class Conflict(KubeCacheError):
    """Somebody else changed the Pod between our read and our patch; read it again."""


class ForeignGates(KubeCacheError):
    """Gates of other controllers appeared before our release; wait for their owners."""

    retryable = False


class ReleaseRefused(KubeCacheError):
    """The API server refused the releasing patch for good (admission policy, conflicting affinity)."""

    retryable = False
