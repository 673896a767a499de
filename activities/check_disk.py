"""`check_disk`: what of the snapshots is on this node's disk, and a pin for the Pod that asks. Node queue."""

from __future__ import annotations

from temporalio import activity

from activities.edge import translated
from kube_cache import names
from kube_cache.contracts import CheckDiskInput, CheckDiskResult, DiskSnapshot
from kube_cache.storage.store import NodeStore


def pin_owner(uid: str) -> str:
    return f"pod/{uid}"


class CheckDisk:
    def __init__(self, store: NodeStore) -> None:
        self._store = store

    @activity.defn(name=names.CHECK_DISK)
    @translated
    def check_disk(self, arg: CheckDiskInput) -> CheckDiskResult:
        """Pins first and looks then, so that what is reported complete stays. Running twice pins once.

        Raises DiskFault, StoreConflict.
        """
        found = []
        for snapshot in arg.snapshots:
            self._store.pin(snapshot.digest, pin_owner(arg.pod.uid))
            if arg.verify_full:
                state = self._store.check_full(snapshot.digest, beat=activity.heartbeat)
            else:
                state = self._store.check(snapshot.digest)
            found.append(DiskSnapshot(snapshot.digest, state.complete, state.present_bytes))
        usage = self._store.room()
        return CheckDiskResult(self._store.cache_id, found, usage.free_bytes, usage.reserved_bytes)
