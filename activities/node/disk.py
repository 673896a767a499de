"""Everything that workflows ask of a node's store but downloads: check, await space, unpin, evict, reconcile.

Node queue. Thin over `NodeStore`: each activity unpacks its input, makes one or two calls and packs the answer.
"""

from __future__ import annotations

from temporalio import activity

from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.node import (
    AwaitDiskInput,
    CheckDiskInput,
    CheckDiskResult,
    DiskSnapshot,
    EvictInput,
    EvictResult,
    UnpinInput,
)
from kube_cache.contracts.reconcile import ReconcileDiskInput, ReconcileDiskResult
from kube_cache.errors import InsufficientDisk, NoRoomYet
from kube_cache.store.node_store import NodeStore


class DiskActivities:
    def __init__(self, store: NodeStore) -> None:
        self._store = store

    @activity.defn(name=names.CHECK_DISK)
    @as_application_errors
    def check_disk(self, arg: CheckDiskInput) -> CheckDiskResult:
        """Pin the snapshots for the Pod, then check which are complete: pinned first, so that a complete one stays.

        Running twice pins once. Raises DiskFault, StoreConflict.
        """
        snapshots = []
        for snapshot in arg.snapshots:
            self._store.pin(snapshot.digest, names.pin_owner(arg.pod.uid))
            if arg.verify_full:
                state = self._store.check_full(snapshot.digest, beat=activity.heartbeat)
            else:
                state = self._store.check(snapshot.digest)
            snapshots.append(DiskSnapshot(snapshot.digest, state.complete, state.present_bytes))
        return CheckDiskResult(self._store.cache_id, snapshots)

    @activity.defn(name=names.AWAIT_DISK)
    @as_application_errors
    def await_disk(self, arg: AwaitDiskInput) -> None:
        """Succeed if the disk can be written now and has enough free space.

        Checks once; Temporal waits, by retrying. So a Pod that waits for hours takes no slot of the agent and writes no
        history. Changes nothing, so running twice is harmless; the answer may be outdated a moment later.

        Raises NoRoomYet and DiskFault; both are retried.
        """
        self._store.probe()
        try:
            self._store.check_fits(
                arg.needed_bytes, inodes=arg.needed_inodes, subject=f"{arg.what} " if arg.what else ""
            )
        except InsufficientDisk as error:
            raise NoRoomYet(error.message, **error.details) from error

    @activity.defn(name=names.UNPIN)
    @as_application_errors
    def unpin(self, arg: UnpinInput) -> None:
        """Remove the Pod's pins. A missing pin is no error, so running twice is harmless."""
        for digest in arg.digests:
            self._store.unpin(digest, names.pin_owner(arg.pod.uid))

    @activity.defn(name=names.EVICT)
    @as_application_errors
    def evict(self, arg: EvictInput) -> EvictResult:
        """Remove a snapshot that nobody pins. A missing snapshot is no error: running twice frees its bytes once.

        Raises SnapshotInUse.
        """
        return EvictResult(self._store.evict(arg.digest))

    @activity.defn(name=names.RECONCILE_DISK)
    @as_application_errors
    def reconcile_disk(self, arg: ReconcileDiskInput) -> ReconcileDiskResult:
        """Give each bound Pod its pins, remove those of ended Pods, and list the complete snapshots.

        Running twice changes nothing the second time.
        """
        pins = self._store.reconcile(
            [(digest, names.pin_owner(uid)) for digest, uids in arg.bound.items() for uid in uids],
            {names.pin_owner(uid) for uid in arg.living},
        )
        complete = []
        for snapshot in self._store.snapshots():
            activity.heartbeat()
            if self._store.check(snapshot.digest).complete:
                complete.append(snapshot.digest)
        return ReconcileDiskResult(self._store.cache_id, complete, pins.unpinned, pins.pinned)
