"""The node's store: objects, snapshots that share them, pins, room. `NodeStore` is the whole public surface."""

from kube_cache.storage.store.store import NodeStore, Room, WarmResult

__all__ = ["NodeStore", "Room", "WarmResult"]
