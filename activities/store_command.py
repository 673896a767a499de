"""`store_command`: what `kube-cache store --node` asks of this node's cache. Node queue."""

from __future__ import annotations

from temporalio import activity

from activities.edge import translated
from kube_cache import names
from kube_cache.contracts import StoreAnswer, StoreAsk
from kube_cache.storage.store import NodeStore
from kube_cache.storeverbs import Watcher, answer, bounded


class StoreCommand:
    def __init__(self, store: NodeStore) -> None:
        self._store = store

    @activity.defn(name=names.STORE_COMMAND_ACTIVITY, no_thread_cancel_exception=True)
    @translated
    def store_command(self, arg: StoreAsk) -> StoreAnswer:
        """Each verb can be done twice. Raises DiskFault, StoreConflict."""
        watcher = Watcher(activity.heartbeat, lambda: activity.is_cancelled() or activity.is_worker_shutdown())
        return bounded(arg.verb, answer(self._store, arg, watcher))
