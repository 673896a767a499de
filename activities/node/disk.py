"""Everything that workflows ask of a node's store but downloads: check, await space, unpin, evict, reconcile.

Node queue. Thin over `NodeStore`: each activity unpacks its input, makes one or two calls and packs the answer.
"""

from __future__ import annotations

import structlog
from temporalio import activity

from activities.failures import as_application_errors
from activities.node.stopping import retried_when_draining, should_stop
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
from kube_cache.dataset.uri import DatasetUri
from kube_cache.errors import Cancelled, InsufficientDisk, NoRoomYet
from kube_cache.store.node_store import NodeStore

_log = structlog.get_logger("kube_cache.disk")
# UIDs that one answer names. The next reconcile asks for the others.
_MAX_DOUBTFUL = 1000


class DiskActivities:
    def __init__(self, store: NodeStore) -> None:
        self._store = store

    @activity.defn(name=names.CHECK_DISK, no_thread_cancel_exception=True)
    @as_application_errors
    def check_disk(self, arg: CheckDiskInput) -> CheckDiskResult:
        """Make the Pod's links, then check what they lead to: linked first, so that a complete snapshot stays.

        Running twice links once. A run for an earlier placement, or one that comes late, changes nothing.

        Raises DiskFault and StoreConflict, which are retried, and StalePlacement, which is not.
        """
        uid = arg.pod.uid
        uris = [DatasetUri.parse(snapshot.uri) for snapshot in arg.snapshots]
        digests = [snapshot.digest for snapshot in arg.snapshots]
        self._store.link_pod(uid, arg.attempt, digests, enumerate(uris) if arg.keep_current else ())
        snapshots = []
        for place, (snapshot, uri) in enumerate(zip(arg.snapshots, uris, strict=True)):
            with retried_when_draining():
                state = self._store.check_for_pod(
                    uid, place, snapshot.digest, uri, resolved_at=snapshot.resolved_at,
                    full=arg.verify_full, beat=activity.heartbeat, cancelled=should_stop,
                )  # fmt: skip
            snapshots.append(DiskSnapshot(snapshot.digest, state.complete, state.present_bytes, state.verified))
        _log.info(
            "disk is checked",
            complete=sum(snapshot.complete for snapshot in snapshots),
            snapshots=len(snapshots),
            present_bytes=sum(snapshot.present_bytes for snapshot in snapshots),
        )
        return CheckDiskResult(self._store.cache_id, snapshots)

    @activity.defn(name=names.AWAIT_DISK, no_thread_cancel_exception=True)
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

    @activity.defn(name=names.UNPIN, no_thread_cancel_exception=True)
    @as_application_errors
    def unpin(self, arg: UnpinInput) -> None:
        """Remove the Pod's links to the snapshots, those of later placements excepted.

        A missing link is no error, so running twice, or late, is harmless.
        """
        for digest in arg.digests:
            self._store.unlink_pod(arg.pod.uid, digest, arg.attempt)

    @activity.defn(name=names.EVICT, no_thread_cancel_exception=True)
    @as_application_errors
    def evict(self, arg: EvictInput) -> EvictResult:
        """Remove a snapshot that nobody pins. A missing snapshot is no error: running twice frees its bytes once.

        Raises SnapshotInUse.
        """
        return EvictResult(self._store.evict(arg.digest))

    @activity.defn(name=names.RECONCILE_DISK, no_thread_cancel_exception=True)
    @as_application_errors
    def reconcile_disk(self, arg: ReconcileDiskInput) -> ReconcileDiskResult:
        """Make lost links of released Pods again, remove those of ended Pods, and list the complete snapshots.

        With `ask`, only the Pods that the input names as ended lose their links, and those that it does not name are
        returned: the operator's messages name the Pods of one node, not of the cluster.
        Running twice changes nothing the second time.
        """
        ended = set(arg.ended) if arg.ask else None
        pins = self._store.reconcile(arg.receipts, set(arg.living), bound=arg.bound, ended=ended)
        wanted = arg.expected
        if wanted is None:
            wanted = [snapshot.digest for snapshot in self._store.snapshots()]
        complete = []
        with retried_when_draining():
            for digest in wanted:
                activity.heartbeat()
                if should_stop():
                    raise Cancelled("cancelled while checking snapshots")
                if self._store.check(digest).complete:
                    complete.append(digest)
        return ReconcileDiskResult(
            self._store.cache_id,
            complete,
            pins.unpinned,
            pins.pinned,
            pins.wrong_links,
            self._store.disk_fault(),
            pins.doubtful[:_MAX_DOUBTFUL],
        )
