"""`evict`: remove a snapshot from this node's disk, unless it is pinned. Node queue."""

from __future__ import annotations

from temporalio import activity

from activities.edge import translated
from kube_cache import names
from kube_cache.contracts import EvictInput, EvictResult
from kube_cache.storage.store import NodeStore


class Evict:
    def __init__(self, store: NodeStore) -> None:
        self._store = store

    @activity.defn(name=names.EVICT)
    @translated
    def evict(self, arg: EvictInput) -> EvictResult:
        """A snapshot that is not there is evicted: running twice frees once.

        Raises SnapshotInUse.
        """
        return EvictResult(self._store.evict(arg.digest))
