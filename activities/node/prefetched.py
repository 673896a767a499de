"""`hold_prefetched`, `release_prefetched`: what a `Prefetch` asks of a node's disk besides its downloads. Node queue.

Thin over `NodeStore`. Marks change the order of evictions and pin nothing.
"""

from __future__ import annotations

from temporalio import activity

from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.prefetch import HoldPrefetchedInput, HoldPrefetchedResult, ReleasePrefetchedInput
from kube_cache.store.node_store import NodeStore
from kube_cache.units import format_bytes


class PrefetchedActivities:
    def __init__(self, store: NodeStore) -> None:
        self._store = store

    @activity.defn(name=names.HOLD_PREFETCHED, no_thread_cancel_exception=True)
    @as_application_errors
    def hold_prefetched(self, arg: HoldPrefetchedInput) -> HoldPrefetchedResult:
        """Check and mark the snapshots, then see whether the missing ones fit. A marked one does not count as room.

        Running twice marks once. Raises InsufficientDisk if the missing ones do not fit beside what is used, DiskFault
        and StoreConflict, which are retried.
        """
        for digest in arg.superseded:
            self._store.release_prefetched(digest, arg.owner)
        missing, missing_bytes = [], 0
        for snapshot in arg.snapshots:
            state = self._store.hold_prefetched(snapshot.digest, arg.owner, arg.until)
            if not state.complete:
                missing.append(snapshot.digest)
                missing_bytes += max(0, snapshot.bytes - state.present_bytes)
        if missing:
            subject = (
                f"{', '.join(s.uri for s in arg.snapshots if s.digest in missing)} ({format_bytes(missing_bytes)}) "
            )
            self._store.check_fits(missing_bytes, subject=subject, spare=True)
        return HoldPrefetchedResult(self._store.cache_id, missing, missing_bytes)

    @activity.defn(name=names.RELEASE_PREFETCHED, no_thread_cancel_exception=True)
    @as_application_errors
    def release_prefetched(self, arg: ReleasePrefetchedInput) -> None:
        """Remove the marks: the snapshots are evicted first unless a Pod has used them. Running twice is harmless."""
        for digest in arg.digests:
            self._store.release_prefetched(digest, arg.owner)
