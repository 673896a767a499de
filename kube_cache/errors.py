"""The project's own errors: one class for each thing that can go wrong.

Each class decides once whether a retry can help (`retryable`). `activities.failures` turns an error into Temporal's
`ApplicationError` with the class name as type; nothing else in the project marks an error non-retryable. A message
names the thing, the reason and the remedy, because it is shown on the Pod.

Errors of libraries and of the operating system are translated where they are met, chained with `raise ... from`:
botocore's in `kube_cache.origin`, sockets' in `kube_cache.engine`, the disk's in `kube_cache.disk_faults` and
`kube_cache.store`, the Kubernetes client's in `kube_cache.kube`, Prometheus' in `kube_cache.prometheus`. Any other
exception is a bug or the network, and is retried.
"""

from __future__ import annotations

from typing import ClassVar


class KubeCacheError(Exception):
    """Base class. details: small JSON values for logs (bucket, key, node, sizes)."""

    retryable: ClassVar[bool] = True
    retry_after_s: float = 0.0
    """Seconds that a server asked its clients to wait before the next attempt; 0 = it did not."""

    def __init__(self, message: str, **details: str | float | None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InvalidRequest(KubeCacheError):
    """A user's value cannot be understood: not a URI, an unknown scheme, an option with a bad value."""

    retryable = False


class UnsafeKey(InvalidRequest):
    """An object's key would leave the dataset's directory, or cannot be a file name there."""


class AmbiguousDataset(InvalidRequest):
    """The URI names an object and is also the prefix of others."""


class DatasetNotFound(KubeCacheError):
    """The bucket does not exist, or holds nothing under the prefix."""

    retryable = False


class AccessDenied(KubeCacheError):
    """The object store refused the credentials, or there are none."""

    retryable = False


class BucketNotAllowed(KubeCacheError):
    """The cluster's allow-list of buckets does not cover the dataset."""

    retryable = False


class DatasetNotAllowed(KubeCacheError):
    """The parameters of the admission policies do not allow the Pod's namespace this dataset."""

    retryable = False


class OriginUnsuitable(KubeCacheError):
    """The origin, or a proxy before it, tells too little of an object to prove that it is the listed one."""

    retryable = False


class SourceChanged(KubeCacheError):
    """The dataset is no longer the one that was resolved (412, 416, another ETag or digest): resolve it again."""

    retryable = False


class ChecksumMismatch(KubeCacheError):
    """An object was fetched twice, and neither time matched the checksum that the object store declares."""

    retryable = False


class SourceUnavailable(KubeCacheError):
    """The object store does not answer, or answers 5xx or 429."""


class TransferStalled(SourceUnavailable):
    """A connection delivered nothing for longer than the stall timeout."""


class PrefetchYielded(KubeCacheError):
    """A prefetch stopped because a Pod waits for other data on its node; what was fetched is kept."""


class Cancelled(KubeCacheError):
    """The caller asked to stop. Bytes that were verified are kept."""

    retryable = False


class InsufficientDisk(KubeCacheError):
    """The dataset does not fit, even after evicting every snapshot without a pin. The message holds the arithmetic."""

    retryable = False


class NoRoomYet(InsufficientDisk):
    """`InsufficientDisk` for a caller that waits for room: asks again until the dataset fits."""

    retryable = True


class DiskFault(KubeCacheError):
    """The node's cache disk answered EIO, EROFS or EACCES, or ENOSPC in spite of a reservation; it may be mended."""


class PersistentDiskFault(DiskFault):
    """A download's `DiskFault` at its third attempt or later: try another node, whose disk may be well."""

    retryable = False


class StoreConflict(KubeCacheError):
    """Another process holds the store's lock or its index for too long."""


class StalePlacement(KubeCacheError):
    """A later placement of the Pod has links on this disk. details: its number, `placement`, to be exceeded."""

    retryable = False


class SnapshotInUse(KubeCacheError):
    """A pinned snapshot cannot be evicted; the message names the owners of the pins."""

    retryable = False


class NodeUnsuitable(KubeCacheError):
    """The cache root is on the root disk, or the disk is not the one that the request means (another cache id)."""

    retryable = False


class PodGone(KubeCacheError):
    """The Pod was deleted, or its name now belongs to another Pod."""

    retryable = False


class Conflict(KubeCacheError):
    """Another client changed the Pod between our read and our patch: read it again."""


class ForeignGates(KubeCacheError):
    """Other controllers hold gates on the Pod, so that it cannot be released yet: wait for their owners."""

    retryable = False


class ReleaseRefused(KubeCacheError):
    """The API server refuses the releasing patch for good (admission policy, conflicting affinity)."""

    retryable = False


class UnsafeMount(KubeCacheError):
    """The Pod mounts the cache writably, or in a form that gives an empty directory where a snapshot is missing."""

    retryable = False


class NodeUnfit(KubeCacheError):
    """The node of the seat cannot take the Pod any more (cordoned, tainted, its peers moved): choose anew."""

    retryable = False


class SeatOutdated(KubeCacheError):
    """The Pod requires something else of its node than when its seat was made: take another seat."""

    retryable = False


class PlacementRaced(NodeUnfit):
    """Another Pod was quicker, or the seat is gone before its room was the Pod's: choose anew, this node as well."""


class PeersFirst(KubeCacheError):
    """The node is right once other Pods are released: a spread or an affinity counts Pods that wait for their data."""


class NodeNotReady(KubeCacheError):
    """The node of the seat is not ready, which may pass in seconds: its data is worth a wait."""


class SeatRefused(KubeCacheError):
    """The API server refuses the seat as it is (400, 422): the Pod's spec or the server's rules must change."""

    retryable = False


class PriorityClassUnknown(KubeCacheError):
    """The API server's admission has not heard of the class yet that was just created for seats: try again."""


class SeatForbidden(KubeCacheError):
    """The API server forbids the seat (403): quota, RBAC, Pod security or a webhook, which an admin mends meanwhile."""


class ChecksumRequired(KubeCacheError):
    """The origin declares no checksum for an object, and the policy or the Pod requires one."""

    retryable = False


class NotSynced(KubeCacheError):
    """The operator's watches have not handed on their first list yet."""


class StartRefused(KubeCacheError):
    """Temporal refuses to start a Pod's workflow; the sweep tries again, ever more seldom."""


class ForeignCluster(KubeCacheError):
    """The Temporal namespace belongs to another Kubernetes cluster."""

    retryable = False


class PrometheusUnavailable(KubeCacheError):
    """Prometheus does not answer in time, or answers 5xx, 408 or 429."""


class PrometheusAnswerPartial(KubeCacheError):
    """Prometheus warns that its answer may lack series or samples, as Thanos does when a store is away."""


class PrometheusRefused(KubeCacheError):
    """Prometheus refuses the expression, or us: its owner must change something."""

    retryable = False


class PrometheusAnswerUnusable(KubeCacheError):
    """No API of Prometheus answers there, or the expression does not give one number for each dataset and time."""

    retryable = False


class DemandUnknown(KubeCacheError):
    """The expression is well-formed and gives no measurement, as a misspelt name of a metric does."""

    retryable = False


class ForecastFailed(KubeCacheError):
    """The process that makes the forecast has died, for want of memory perhaps."""


class NativesMissing(KubeCacheError):
    """The installation cannot move data; raised where the module that does is imported."""

    retryable = False

    def __init__(self) -> None:
        super().__init__(
            "this installation has no native modules, so it cannot read or write data: of kube-cache it has the commands"
            " that ask the cluster (status, why, …). For fetch, store, agent and operator install the wheel of your"
            " machine (kube_cache-…-manylinux…, Linux only), or build one where a C compiler and Python's headers are"
            " (Debian: gcc python3-dev)"
        )
