"""`resolve_dataset`: list the annotation's URIs at their origin and digest the lists. Operator queue."""

from __future__ import annotations

import time
from collections.abc import Callable

from temporalio import activity

from activities.cluster.shared_calls import SharedCalls
from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.contracts.common import Phase, Snapshot
from kube_cache.contracts.warm_pod import ResolveInput, ResolveResult
from kube_cache.dataset.uri import DatasetUri, parse_datasets
from kube_cache.errors import KubeCacheError
from kube_cache.kube import conditions
from kube_cache.kube.allowed_datasets import AllowedDatasets
from kube_cache.kube.client import KubeClient
from kube_cache.origin.listing import list_dataset
from kube_cache.origin.s3 import Origins


class ResolveDataset:
    def __init__(self, origins: Origins, kube: KubeClient) -> None:
        self._origins = origins
        self._kube = kube
        self._allowed = AllowedDatasets(kube)
        self._lists: SharedCalls[Snapshot] = SharedCalls()

    @activity.defn(name=names.RESOLVE_DATASET)
    @as_application_errors
    def resolve_dataset(self, arg: ResolveInput) -> ResolveResult:
        """Resolve each URI to the snapshot that it holds now.

        Reads only, so running twice costs a LIST; the answer differs if the source has changed.
        Raises InvalidRequest, DatasetNotAllowed, UnsafeKey, AmbiguousDataset, DatasetNotFound, AccessDenied,
        SourceUnavailable, ApiError.
        """
        try:
            uris = parse_datasets(arg.dataset)
            self._allowed.check(arg.pod.namespace, map(str, uris))
            return ResolveResult([self._resolve(uri) for uri in uris])
        except KubeCacheError as error:
            if (
                error.retryable and arg.pod.name  # a prefetch has no Pod
            ):  # Temporal tells the workflow nothing of an attempt that it retries, so the Pod is told here
                message = f"{type(error).__name__}: {error.message}; trying again (attempt {activity.info().attempt})"
                conditions.set_while_gated(self._kube, arg.pod, reason=str(Phase.RESOLVING), message=message)
            raise

    def _resolve(self, uri: DatasetUri) -> Snapshot:
        beat = (lambda *_: None) if activity.info().is_local else activity.heartbeat
        return self._lists.get(uri, lambda: self._list(uri, beat), beat=beat)

    def _list(self, uri: DatasetUri, beat: Callable[..., None]) -> Snapshot:
        began = time.time()  # the snapshot is at least as new as this, however long the list takes
        manifest = list_dataset(self._origins.of(uri.scheme), uri, on_page=beat)
        return Snapshot(
            str(manifest.uri), manifest.digest, len(manifest.objects), manifest.total_bytes, resolved_at=began
        )
