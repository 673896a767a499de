"""`reconcile_disk`: pins are made those that Pods need; what is whole on the disk is told. Node queue."""

from __future__ import annotations

from temporalio import activity

from activities.check_disk import pin_owner
from activities.edge import translated
from kube_cache import names
from kube_cache.contracts import ReconcileDiskInput, ReconcileDiskResult
from kube_cache.storage.store import NodeStore


class ReconcileDisk:
    def __init__(self, store: NodeStore) -> None:
        self._store = store

    @activity.defn(name=names.RECONCILE_DISK)
    @translated
    def reconcile_disk(self, arg: ReconcileDiskInput) -> ReconcileDiskResult:
        """Running twice finds nothing left to do."""
        pins = self._store.reconcile(
            [(digest, pin_owner(uid)) for digest, uids in arg.bound.items() for uid in uids],
            {pin_owner(uid) for uid in arg.living},
        )
        complete = [
            snapshot.digest for snapshot in self._store.snapshots() if self._store.check(snapshot.digest).complete
        ]
        return ReconcileDiskResult(self._store.cache_id, complete, pins.unpinned, pins.pinned)
