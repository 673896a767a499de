"""`kube-cache store warm URI`: bring a dataset into this node's store, without a cluster."""

from __future__ import annotations

from collections.abc import Callable

from cli import transfer
from kube_cache.dataset.remote import Manifest
from kube_cache.dataset.transfer import FetchProgress
from kube_cache.engine.engine import Engine
from kube_cache.settings import Settings
from kube_cache.store.node_store import NodeStore


def run(options: transfer.Options, settings: Settings) -> int:
    """Warm the dataset, which is evictable like any other, until it is pinned. Return the exit code."""

    def bring(
        manifest: Manifest, engine: Engine, progress: Callable[[FetchProgress], None], cancelled: Callable[[], bool]
    ) -> transfer.Summary:
        store = NodeStore.open(settings.store, recover=False)
        try:
            result = store.download(manifest, engine, progress=progress, cancelled=cancelled)
            store.sweep()  # where no agent does
        finally:
            store.close()
        fetched, resumed = result.fetched_bytes, result.resumed_bytes
        return {
            "place": str(settings.store.root / "snapshots" / manifest.digest / "data"),
            "files": len(manifest.objects),
            "bytes": manifest.total_bytes,
            "fetched_bytes": fetched,
            "resumed_bytes": resumed,
            "present_bytes": max(0, manifest.total_bytes - fetched - resumed),
            "verified": str(result.verified),
            "seconds": result.seconds,
        }

    return transfer.run(options, settings, bring)
