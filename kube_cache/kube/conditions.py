"""What we say on a Pod: one condition of our own, and Events on phase changes.

The condition is written through `pods/status` and merged by type, so nobody else's is touched; Events have names that
follow from their content, so a report that is made twice shows once.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from kube_cache import names
from kube_cache.contracts.common import PodRef
from kube_cache.errors import PodGone
from kube_cache.kube.client import ApiError, Json, KubeClient, pod_path
from kube_cache.kube.gate import read_pod

# The API server's limits: 1 KiB for a note, 128 characters for an action.
_NOTE = 1024


def set_condition(client: KubeClient, ref: PodRef, *, ready: bool, reason: str, message: str) -> None:
    """Raises PodGone, ApiError."""
    _patch_condition(client, ref, {"uid": ref.uid}, ready=ready, reason=reason, message=message)


def set_progress(client: KubeClient, ref: PodRef, *, reason: str, message: str) -> bool:
    """Say how far it is, unless the Pod is no longer gated or somebody wrote meanwhile; False then. Raises PodGone, ApiError.

    Guarded by the resource version, so that it never overwrites the last word of the workflow, however late it comes.
    """
    pod = read_pod(client, ref)
    if names.GATE not in [gate["name"] for gate in pod["spec"].get("schedulingGates") or []]:
        return False
    guard = {"uid": ref.uid, "resourceVersion": pod["metadata"]["resourceVersion"]}
    try:
        _patch_condition(client, ref, guard, ready=False, reason=reason, message=message)
    except ApiError as error:
        if error.status == 409:
            return False
        raise
    return True


def emit_event(client: KubeClient, ref: PodRef, *, reason: str, note: str, action: str, warning: bool) -> None:
    """An `events.k8s.io/v1` Event regarding the Pod. The same words twice within a minute are one Event. Raises ApiError."""
    now = datetime.now(UTC)
    note = note.encode()[:_NOTE].decode(errors="ignore")
    minute = now.strftime("%Y%m%d%H%M")
    digest = hashlib.sha256(f"{ref.uid}\0{reason}\0{note}\0{minute}".encode()).hexdigest()[:16]
    body: Json = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{ref.name[:200]}.{digest}", "namespace": ref.namespace},
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": names.REPORTING_CONTROLLER,
        "reportingInstance": "kube-cache-operator",
        "action": action,
        "reason": reason,
        "note": note,
        "type": "Warning" if warning else "Normal",
        "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": ref.namespace, "name": ref.name, "uid": ref.uid},
    }
    try:
        client.create(f"/apis/events.k8s.io/v1/namespaces/{ref.namespace}/events", body)
    except ApiError as error:
        if error.status == 409:
            return  # written by the run before this one
        if error.status in (403, 404):
            return  # the namespace is ending, and with it the Pod: nobody will read it
        raise


def _patch_condition(client: KubeClient, ref: PodRef, guard: Json, *, ready: bool, reason: str, message: str) -> None:
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
