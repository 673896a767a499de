"""`run_store_command`: carry out a verb of `kube-cache store --node` on this node's store. Node queue."""

from __future__ import annotations

from collections.abc import Callable

from temporalio import activity

from activities.failures import as_application_errors
from activities.node.stopping import should_stop
from kube_cache import names
from kube_cache.contracts.node import ExitCode, StoreRequest, StoreResponse
from kube_cache.store.commands import Callbacks, handle, truncate
from kube_cache.store.node_store import NodeStore


class RunStoreCommand:
    """on_damage: called, from the activity's thread, when a verb found damage."""

    def __init__(self, store: NodeStore, on_damage: Callable[[], object]) -> None:
        self._store = store
        self._on_damage = on_damage

    @activity.defn(name=names.RUN_STORE_COMMAND, no_thread_cancel_exception=True)
    @as_application_errors
    def run_store_command(self, arg: StoreRequest) -> StoreResponse:
        """Carry out the verb; every verb can be done twice. Raises DiskFault, StoreConflict."""
        callbacks = Callbacks(activity.heartbeat, should_stop)
        response = handle(self._store, arg, callbacks)
        if response.code == ExitCode.DAMAGED:
            self._on_damage()
        return truncate(arg.verb, response)
