"""The transfer engine: object storage to the node's NVMe, in constant memory, each byte checksummed while in the cache.

Worker = thread = keep-alive connection = one aligned buffer, allocated once. The buffers are the back pressure: without
a free worker nothing is received, TCP's window closes, and the object store waits. All calls of a node share the
workers, so that one bound holds for connections, memory, requests and bytes.

`Engine` is the whole public surface. `kube_cache.dataset.transfer.TransferEngine` is its contract,
docs/operate/engine.md tells how to run and tune the engine.
"""
