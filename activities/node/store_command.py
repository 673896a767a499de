"""`run_store_command`: carry out a verb of `kube-cache store --node` on this node's store. Node queue."""

from __future__ import annotations

from temporalio import activity

from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.node import StoreRequest, StoreResponse
from kube_cache.store.commands import Callbacks, handle, truncate
from kube_cache.store.node_store import NodeStore


class RunStoreCommand:
    def __init__(self, store: NodeStore) -> None:
        self._store = store

    @activity.defn(name=names.RUN_STORE_COMMAND, no_thread_cancel_exception=True)
    @as_application_errors
    def run_store_command(self, arg: StoreRequest) -> StoreResponse:
        """Carry out the verb; every verb can be done twice. Raises DiskFault, StoreConflict."""
        callbacks = Callbacks(activity.heartbeat, lambda: activity.is_cancelled() or activity.is_worker_shutdown())
        return truncate(arg.verb, handle(self._store, arg, callbacks))
