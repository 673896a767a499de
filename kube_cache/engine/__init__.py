"""The transfer engine: object storage to the node's NVMe, in constant memory, every byte checksummed while it is hot.

Worker = thread = keep-alive connection = one aligned buffer, allocated once. The buffers are the limit: no free worker
means no receive, TCP's window closes, and the object store waits. Ranges of all calls of the node are dealt to the same
workers, so one bound on connections, memory, requests and bytes holds for everything.

`Engine` is the whole public surface; see `kube_cache.dataset.transfer.TransferEngine` for its contract and
docs/operate/engine.md for how it is run and tuned.
"""
