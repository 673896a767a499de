"""Writes the annotations with which people ask for something, for those who would rather not compose them by hand."""

from __future__ import annotations

from collections.abc import Callable

from kube_cache import names
from kube_cache.errors import Conflict, KubeCacheError
from kube_cache.kube import pods
from kube_cache.kube.client import ApiError, Json, KubeClient, is_not_found, pod_path

_MAX_TRIES = 5


class NoSuchPod(KubeCacheError):
    """There is no Pod of this name."""


class NotGated(KubeCacheError):
    """Our gate does not hold the Pod, so nothing is left to ask for."""


def write_annotation(
    client: KubeClient, namespace: str, name: str, annotation: str, choose: Callable[[str], str]
) -> str:
    """Write an annotation on a gated Pod; return its value. choose: makes it of the present one, empty without one.

    Guarded by the Pod's resource version, so that what somebody else writes meanwhile counts. Raises NoSuchPod,
    NotGated, Conflict (the Pod changes all the time), ApiError.
    """
    for _ in range(_MAX_TRIES):
        pod = _read_gated(client, namespace, name)
        meta = pod["metadata"]
        value = choose((meta.get("annotations") or {}).get(annotation, ""))
        guard = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
        try:
            client.patch(pod_path(namespace, name), {"metadata": {**guard, "annotations": {annotation: value}}})
        except ApiError as error:
            if error.status != 409:
                raise
        else:
            return value
    raise Conflict(f"Pod {namespace}/{name} was changed {_MAX_TRIES} times meanwhile; try again", pod=name)


def _read_gated(client: KubeClient, namespace: str, name: str) -> Json:
    try:
        pod = client.get_pod(namespace, name)
    except ApiError as error:
        if is_not_found(error):
            raise NoSuchPod(f"there is no Pod {namespace}/{name}", pod=name) from error
        raise
    if names.GATE not in pods.gate_names(pod) or pods.has_ended(pod):
        raise NotGated(
            f"Pod {namespace}/{name} is not held by our gate (any more), so nothing is left to ask for;"
            f" `kube-cache why {namespace}/{name}` tells where it is",
            pod=name,
        )
    return pod
