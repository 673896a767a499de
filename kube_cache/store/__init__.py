"""The node's store: objects, snapshots that share them, pins, capacity. `node_store.NodeStore` is its face."""
