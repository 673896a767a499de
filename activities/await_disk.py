"""`await_disk`: whether this node's disk would take now what it refused before. Node queue.

One look; who waits is Temporal, by retrying. So a Pod that waits for hours takes no slot of the agent and writes no history.
"""

from __future__ import annotations

from temporalio import activity

from activities.edge import translated
from kube_cache import names
from kube_cache.contracts import AwaitDiskInput
from kube_cache.errors import InsufficientDisk, NoRoomYet
from kube_cache.storage.store import NodeStore


class AwaitDisk:
    def __init__(self, store: NodeStore) -> None:
        self._store = store

    @activity.defn(name=names.AWAIT_DISK)
    @translated
    def await_disk(self, arg: AwaitDiskInput) -> None:
        """Changes nothing: running twice is harmless, and what it found may be gone a moment later.

        Raises NoRoomYet, DiskFault; both are retried.
        """
        self._store.probe()
        try:
            self._store.ensure_could(
                arg.needed_bytes, inodes=arg.needed_inodes, what=f"{arg.what} " if arg.what else ""
            )
        except InsufficientDisk as error:
            raise NoRoomYet(error.message, **error.details) from error
