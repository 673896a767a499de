"""`reconcile_disk`: pins of Pods that are gone are given back; what is whole on the disk is told. Node queue."""

from __future__ import annotations

import time

from temporalio import activity

from activities.edge import translated
from kube_cache import names
from kube_cache.contracts import ReconcileDiskInput, ReconcileDiskResult
from kube_cache.storage.store import NodeStore

# A pin younger than this may belong to a Pod that is younger than the list of the living.
_GRACE_S = 600.0


class ReconcileDisk:
    def __init__(self, store: NodeStore) -> None:
        self._store = store

    @activity.defn(name=names.RECONCILE_DISK)
    @translated
    def reconcile_disk(self, arg: ReconcileDiskInput) -> ReconcileDiskResult:
        """Running twice finds nothing left to do."""
        living = set(arg.living)
        unpinned = 0
        for pin in self._store.pins():
            kind, _, uid = pin.owner.partition("/")
            if kind == "pod" and uid not in living and time.time() - pin.created > _GRACE_S:
                self._store.unpin(pin.digest, pin.owner)
                unpinned += 1
        complete = [
            snapshot.digest for snapshot in self._store.snapshots() if self._store.check(snapshot.digest).complete
        ]
        return ReconcileDiskResult(self._store.cache_id, complete, unpinned)
