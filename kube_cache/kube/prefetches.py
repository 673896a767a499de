"""The kind `Prefetch` as Kubernetes shows it: read one, make a specification of it, write its status.

Checks only what the API server leaves open: an object may be older than the rules of the kind, which are in the chart.
Knows nothing of workflows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kube_cache import names
from kube_cache.contracts.prefetch import PrefetchSchedule, PrefetchSpec
from kube_cache.dataset.uri import parse_datasets
from kube_cache.errors import InvalidRequest
from kube_cache.kube import quantities
from kube_cache.kube.client import ApiError, Json, KubeClient, is_not_found, resource_path
from kube_cache.units import parse_duration

_MERGE = "application/merge-patch+json"
DEFAULT_EXPIRES = "24h"
_DEFAULT_PARALLEL = 8


@dataclass(frozen=True)
class PrefetchResource:
    """What is kept of a resource."""

    namespace: str
    name: str
    uid: str
    generation: int
    version: str
    """Resource version."""
    spec: Json
    status: Json
    deleting: bool

    @property
    def prefetch(self) -> str:
        """Name of the prefetch, hence of its workflow."""
        return names.resource_prefetch(self.name, self.uid)

    @property
    def is_paused(self) -> bool:
        return bool(self.spec.get("paused"))


def read(item: Json) -> PrefetchResource:
    meta = item["metadata"]
    return PrefetchResource(
        meta["namespace"],
        meta["name"],
        meta["uid"],
        int(meta.get("generation", 0)),
        str(meta.get("resourceVersion", "")),
        item.get("spec") or {},
        item.get("status") or {},
        "deletionTimestamp" in meta,
    )


def specification(resource: PrefetchResource) -> PrefetchSpec:
    """Return what the workflow is given. Raises InvalidRequest, which names the field."""
    spec = resource.spec
    return PrefetchSpec(
        resource.namespace,
        resource.prefetch,
        [str(uri) for uri in parse_datasets(",".join(spec.get("datasets") or []))],
        nodes=sorted(spec.get("nodes") or []),
        selector=",".join(f"{key}={value}" for key, value in sorted((spec.get("nodeSelector") or {}).items())),
        copies=int(spec.get("copies") or 0),
        expires_s=parse_duration(str(spec.get("expires") or DEFAULT_EXPIRES), name="spec.expires"),
        max_bytes=_bytes(spec, "maxBytes"),
        max_bytes_per_s=_bytes(spec, "maxBytesPerSecond"),
        parallel=int(spec.get("parallel") or _DEFAULT_PARALLEL),
        follow=bool(spec.get("follow")),
    )


def schedule(resource: PrefetchResource) -> PrefetchSchedule | None:
    """Return when the prefetch begins; None for one that begins at once. Raises InvalidRequest."""
    given: Json | None = resource.spec.get("schedule")
    if not given:
        return None
    return PrefetchSchedule(
        str(given.get("cron", "")),
        parse_duration(str(given.get("window", "")), name="spec.schedule.window"),
        str(given.get("timeZone") or "UTC"),
    )


def _bytes(spec: Json, field: str) -> int:
    value: Any = spec.get(field)
    try:
        return 0 if value is None else int(quantities.parse(str(value)))
    except ValueError as error:
        raise InvalidRequest(f"spec.{field}: {value!r} is no number of bytes; write it like 500Gi") from error


def find(client: KubeClient, namespace: str, name: str) -> PrefetchResource | None:
    """GET a resource; None if there is none. Raises ApiError."""
    try:
        return read(client.request("GET", _path(namespace, name)))
    except ApiError as error:
        if is_not_found(error):
            return None
        raise


def is_installed(client: KubeClient) -> bool:
    """Whether the cluster has the kind. Raises ApiError."""
    try:
        client.request("GET", resource_path(names.PREFETCHES), query={"limit": "1"})
    except ApiError as error:
        if is_not_found(error):
            return False
        raise
    return True


def write_status(client: KubeClient, resource: PrefetchResource, status: Json) -> bool:
    """Write the status; False if the resource has changed since it was read, or is gone. Raises ApiError.

    The resource version guards the write: what was composed of an old specification never follows a newer one's.
    """
    meta = {"uid": resource.uid, "resourceVersion": resource.version}
    path = f"{_path(resource.namespace, resource.name)}/status"
    # A merge patch removes only what is null.
    body = {**dict.fromkeys(resource.status.keys() - status.keys()), **status}
    try:
        client.patch(path, {"metadata": meta, "status": body}, content_type=_MERGE)
    except ApiError as error:
        if error.status in (404, 409):
            return False
        raise
    return True


def _path(namespace: str, name: str) -> str:
    return f"{resource_path(names.PREFETCHES, namespace)}/{name}"
