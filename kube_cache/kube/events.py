"""Kubernetes Events about a Pod, written on phase changes.

An Event's name follows from its content, so a report that is made twice is one Event. No aggregation: repeated Events
differ in their words or their minute.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from kube_cache import names
from kube_cache.contracts.common import PodRef
from kube_cache.kube.client import ApiError, Json, KubeClient

# `Event.note` in bytes: NoteLengthLimit of Kubernetes' pkg/apis/core/validation/events.go. `reason` and `action` may
# have 128 (ReasonLengthLimit, ActionLengthLimit there); ours are words of the code, far shorter.
_MAX_NOTE_BYTES = 1024
# `metadata.name` may have 253 characters, as a Pod's may; a dot and the digest come after the Pod's.
_MAX_POD_NAME = 200
_DIGEST_CHARACTERS = 16


def emit(client: KubeClient, ref: PodRef, *, reason: str, note: str, action: str, warning: bool) -> None:
    """Create an `events.k8s.io/v1` Event regarding the Pod. Equal ones within a minute are one Event. Raises ApiError.

    A note that is too long is cut. Nothing is written into a namespace that is gone or ending.
    """
    now = datetime.now(UTC)
    note = note.encode()[:_MAX_NOTE_BYTES].decode(errors="ignore")
    minute = now.strftime("%Y%m%d%H%M")
    digest = hashlib.sha256(f"{ref.uid}\0{reason}\0{note}\0{minute}".encode()).hexdigest()[:_DIGEST_CHARACTERS]
    body: Json = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{ref.name[:_MAX_POD_NAME]}.{digest}", "namespace": ref.namespace},
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
            return  # the namespace is ending, and the Pod with it
        raise
