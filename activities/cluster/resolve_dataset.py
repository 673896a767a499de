"""`resolve_dataset`: list the annotation's URIs at their origin and digest the lists. Operator queue."""

from __future__ import annotations

from temporalio import activity

from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.common import Phase, Snapshot
from kube_cache.contracts.warm_pod import ResolveInput, ResolveResult
from kube_cache.dataset.uri import DatasetUri, parse_datasets
from kube_cache.errors import KubeCacheError
from kube_cache.kube import conditions
from kube_cache.kube.client import KubeClient
from kube_cache.origin.listing import list_dataset
from kube_cache.origin.s3 import Origins


class ResolveDataset:
    def __init__(self, origins: Origins, kube: KubeClient) -> None:
        self._origins = origins
        self._kube = kube

    @activity.defn(name=names.RESOLVE_DATASET)
    @as_application_errors
    def resolve_dataset(self, arg: ResolveInput) -> ResolveResult:
        """Resolve each URI to the snapshot that it holds now.

        Reads only, so running twice costs a LIST; the answer differs if the source has changed.
        Raises InvalidRequest, UnsafeKey, AmbiguousDataset, DatasetNotFound, AccessDenied, SourceUnavailable.
        """
        try:
            return ResolveResult([self._resolve(uri) for uri in parse_datasets(arg.dataset)])
        except KubeCacheError as error:
            if (
                error.retryable
            ):  # Temporal tells the workflow nothing of an attempt that it retries, so the Pod is told here
                message = f"{type(error).__name__}: {error.message}; trying again (attempt {activity.info().attempt})"
                conditions.set_progress(self._kube, arg.pod, reason=str(Phase.RESOLVING), message=message)
            raise

    def _resolve(self, uri: DatasetUri) -> Snapshot:
        beat = (lambda _: None) if activity.info().is_local else activity.heartbeat
        manifest = list_dataset(self._origins.of(uri.scheme), uri, on_page=beat)
        return Snapshot(str(manifest.uri), manifest.digest, len(manifest.objects), manifest.total_bytes)
