"""The transfer engine: S3 to the node's NVMe, in constant memory, every byte checksummed while it is hot.

Worker = thread = keep-alive connection = one aligned buffer, allocated once and never freed. The buffers are the limit:
no free worker means no receive, TCP's window closes, and the object store waits. Parts of all transfers of the node are
dealt to the same workers, by priority and then fairly, so one bound holds for everything.

`Engine` is the whole public surface; see `kube_cache.storage.transfer.TransferEngine` for its contract.
"""

from kube_cache.storage.engine.engine import Engine

__all__ = ["Engine"]
