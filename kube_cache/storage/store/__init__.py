"""The node's store: objects, snapshots that share them, pins, room. `NodeStore` is the whole public surface."""

from kube_cache.storage.store.background import BackgroundScrub
from kube_cache.storage.store.index import Pin
from kube_cache.storage.store.looking import SnapshotState
from kube_cache.storage.store.manifests import Header
from kube_cache.storage.store.room import Room, SnapshotUsage, Usage
from kube_cache.storage.store.scrub import BadObject, ScrubResult
from kube_cache.storage.store.store import NodeStore, Reconciled
from kube_cache.storage.store.warming import WarmResult

__all__ = [
    "BackgroundScrub",
    "BadObject",
    "Header",
    "NodeStore",
    "Pin",
    "Reconciled",
    "Room",
    "ScrubResult",
    "SnapshotState",
    "SnapshotUsage",
    "Usage",
    "WarmResult",
]
