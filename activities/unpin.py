"""`unpin`: a Pod no longer needs these snapshots; they may be evicted when room is needed. Node queue."""

from __future__ import annotations

from temporalio import activity

from activities.check_disk import pin_owner
from activities.edge import translated
from kube_cache import names
from kube_cache.contracts import UnpinInput
from kube_cache.storage.store import NodeStore


class Unpin:
    def __init__(self, store: NodeStore) -> None:
        self._store = store

    @activity.defn(name=names.UNPIN)
    @translated
    def unpin(self, arg: UnpinInput) -> None:
        """A pin that is not there is removed: running twice is harmless."""
        for digest in arg.digests:
            self._store.unpin(digest, pin_owner(arg.pod.uid))
