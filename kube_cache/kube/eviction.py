"""Eviction of a released Pod that no node takes, by the Eviction API: it asks PodDisruptionBudgets and admission."""

from __future__ import annotations

from kube_cache import names
from kube_cache.contracts.common import PodRef
from kube_cache.errors import Conflict
from kube_cache.kube import pods
from kube_cache.kube.client import ApiError, KubeClient, is_not_found, pod_path
from kube_cache.kube.gate import read_pod

EVICTED = "evicted"
BOUND = "bound"
UNCONTROLLED = "uncontrolled"
UNWANTED = "unwanted"

_MAX_TRIES = 5


def evict_unbound(client: KubeClient, ref: PodRef) -> str:
    """Evict the Pod that is read now, or say why not.

    EVICTED; BOUND (a node has it, or it is about to go); UNCONTROLLED (nobody would make another); UNWANTED (no
    annotation asks for it, or a gate holds the Pod). The resource version guards the eviction: a Pod that is bound
    meanwhile is read again. Raises PodGone, Conflict, ApiError.
    """
    for _ in range(_MAX_TRIES):
        pod = read_pod(client, ref)
        meta = pod["metadata"]
        if pods.node_name(pod) or pods.has_ended(pod) or "deletionTimestamp" in meta:
            return BOUND
        annotations = meta.get("annotations") or {}
        if annotations.get(names.ON_STUCK_ANNOTATION) != "evict" or pods.gate_names(pod):
            return UNWANTED
        if not any(owner.get("controller") for owner in meta.get("ownerReferences") or []):
            return UNCONTROLLED
        guard = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": ref.name, "namespace": ref.namespace},
            "deleteOptions": {"preconditions": guard},
        }
        try:
            client.create(pod_path(ref.namespace, ref.name, "eviction"), body)
        except ApiError as error:
            if error.status != 409 and not is_not_found(error):
                raise
        else:
            return EVICTED
    raise Conflict(f"Pod {ref.namespace}/{ref.name} was changed {_MAX_TRIES} times while it was being evicted")
