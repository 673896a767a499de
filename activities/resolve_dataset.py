"""`resolve_dataset`: what the annotation's URIs hold now, as digests. Operator queue."""

from __future__ import annotations

from temporalio import activity

from activities.edge import translated
from kube_cache import names
from kube_cache.contracts import ResolveInput, ResolveResult, Snapshot
from kube_cache.settings import EngineSettings
from kube_cache.storage.datasets import parse_datasets
from kube_cache.storage.listing import list_dataset
from kube_cache.storage.s3 import ObjectStores


class ResolveDataset:
    def __init__(self, settings: EngineSettings) -> None:
        self._stores = ObjectStores(settings)

    @activity.defn(name=names.RESOLVE_DATASET)
    @translated
    def resolve_dataset(self, arg: ResolveInput) -> ResolveResult:
        """Reads only, so running twice costs a LIST; it may answer differently, since the source is what it is now.

        Raises InvalidRequest, UnsafeKey, AmbiguousDataset, DatasetNotFound, AccessDenied, SourceUnavailable.
        """
        snapshots = []
        for uri in parse_datasets(arg.dataset):
            manifest = list_dataset(self._stores.of(uri.scheme), uri, beat=lambda seen: activity.heartbeat(seen))  # noqa: PLW0108
            snapshots.append(Snapshot(manifest.uri, manifest.digest, len(manifest.objects), manifest.total_bytes))
        return ResolveResult(snapshots)
