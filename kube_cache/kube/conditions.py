"""The one condition of ours on a Pod: its phase and how far its data is.

Written through `pods/status` and merged by type, so the conditions of others are not touched. The API server limits
neither reason nor message of a Pod's condition; Events have limits (kube_cache.kube.events).
"""

from __future__ import annotations

from datetime import UTC, datetime

from kube_cache import names
from kube_cache.contracts.common import PodRef
from kube_cache.errors import PodGone
from kube_cache.kube import pods
from kube_cache.kube.client import ApiError, Json, KubeClient, pod_path
from kube_cache.kube.gate import read_pod


def set_condition(client: KubeClient, ref: PodRef, *, ready: bool, reason: str, message: str) -> None:
    """Write the condition, whatever it was before. Raises PodGone, ApiError."""
    _patch_condition(client, ref, {"uid": ref.uid}, ready=ready, reason=reason, message=message)


def set_progress(client: KubeClient, ref: PodRef, *, reason: str, message: str) -> bool:
    """Write the condition while the Pod is gated; False if it is not, or if somebody else wrote the Pod meanwhile.

    Guarded by the resource version, so that a late report never overwrites the last one of the workflow. Raises
    PodGone, ApiError.
    """
    pod = read_pod(client, ref)
    if names.GATE not in pods.gate_names(pod):
        return False
    guard = {"uid": ref.uid, "resourceVersion": pod["metadata"]["resourceVersion"]}
    try:
        _patch_condition(client, ref, guard, ready=False, reason=reason, message=message)
    except ApiError as error:
        if error.status == 409:
            return False
        raise
    return True


def _patch_condition(client: KubeClient, ref: PodRef, guard: Json, *, ready: bool, reason: str, message: str) -> None:
    """guard: metadata that the API server compares with the Pod's before it accepts the patch."""
    condition = {
        "type": names.CONDITION,
        "status": "True" if ready else "False",
        "reason": reason,
        "message": message,
        "lastTransitionTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    try:
        client.patch(
            pod_path(ref.namespace, ref.name, "status"), {"metadata": guard, "status": {"conditions": [condition]}}
        )
    except ApiError as error:
        if error.status == 404 or (error.status in (409, 422) and "uid" in error.message.lower()):
            raise PodGone(f"Pod {ref.namespace}/{ref.name} is gone", namespace=ref.namespace, pod=ref.name) from error
        raise
