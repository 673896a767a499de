"""Kubernetes Events, most of them about a Pod, written when its phase changes and at each quarter of a download.

An Event's name follows from its reason, its words without their numbers, and the hour, so a report that is made twice
is one Event, and so is a message that only counts. The condition has the newest numbers.
"""

from __future__ import annotations

import hashlib
import re
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
# Counts, sizes and durations (`1m30s`), but not the digits in a name (`gpu-2`): another node is another Event.
_NUMBERS = re.compile(r"(?<![\w.-])\d[\d.]*(?:[smhd]\d*)*(?![\w-])")


def emit(
    client: KubeClient,
    ref: PodRef,
    *,
    reason: str,
    note: str,
    action: str,
    warning: bool,
    topic: str = "",
    kind: tuple[str, str] = ("v1", "Pod"),
) -> None:
    """Create an `events.k8s.io/v1` Event regarding the Pod. Equal ones of an hour are one Event. Raises ApiError.

    kind: apiVersion and kind of what `ref` names instead of a Pod.
    topic: what makes two Events of a reason equal; by default the note without its numbers. A note that is too long is
    cut. Nothing is written into a namespace that is gone or ending.
    """
    now = datetime.now(UTC)
    topic = topic or _NUMBERS.sub("0", note)
    note = note.encode()[:_MAX_NOTE_BYTES].decode(errors="ignore")
    hour = now.strftime("%Y%m%d%H")
    digest = hashlib.sha256(f"{ref.uid}\0{reason}\0{topic}\0{hour}".encode()).hexdigest()[:_DIGEST_CHARACTERS]
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
        "regarding": {
            "apiVersion": kind[0],
            "kind": kind[1],
            "namespace": ref.namespace,
            "name": ref.name,
            "uid": ref.uid,
        },
    }
    try:
        client.create(f"/apis/events.k8s.io/v1/namespaces/{ref.namespace}/events", body)
    except ApiError as error:
        if error.status == 409:
            return  # written by the run before this one
        if error.status in (403, 404):
            return  # the namespace is ending, and the Pod with it
        raise
