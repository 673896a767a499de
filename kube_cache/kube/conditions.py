"""The two places on a Pod that say its phase and how far its data is: our condition and our status annotation.

The condition is for programs and for columns of `kubectl get`. `kubectl describe pod` prints of a condition only type
and status, so the annotation holds the same words, broken into lines that describe does not cut. One PATCH of
`pods/status` writes both: conditions are merged by type, so those of others are not touched. The API server limits
neither reason nor message of a Pod's condition; Events have limits (kube_cache.kube.events).

The same write says whether the Pod waits for a download (`WARMING_ANNOTATION`): whoever writes the progress of one may
go on until the next word of anybody else.
"""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime

from kube_cache import names
from kube_cache.contracts.common import Phase, PodRef, Warming
from kube_cache.errors import Conflict, PodGone
from kube_cache.kube import pods
from kube_cache.kube.client import ApiError, Json, KubeClient, pod_path
from kube_cache.kube.gate import read_pod
from kube_cache.kube.warming import warming_mark

# `kubectl describe` cuts each line of an annotation after 138 bytes, and puts a value on the line of its key up to 140
# bytes in all (maxAnnotationLen in its describe.go). The key has 28 bytes.
_LINE = 100
_MAX_TRIES = 5


def set_condition(
    client: KubeClient,
    ref: PodRef,
    *,
    ready: bool,
    reason: str,
    message: str,
    seen: Json | None = None,
    warming: Warming | None = None,
) -> None:
    """Write condition and annotation, whatever they were before. Raises PodGone, ApiError.

    seen: the Pod as a watch had it, which spares the read of the condition's present status. warming: what the Pod
    waits for from now on; None = for no download.
    """
    pod = seen or read_pod(client, ref, allow_stale=True)
    mark = warming_mark(warming) if warming else ""
    _patch_status(client, ref, pod, {"uid": ref.uid}, ready=ready, reason=reason, message=message, mark=mark)


def set_while_gated(client: KubeClient, ref: PodRef, *, reason: str, message: str) -> bool:
    """Write both while the Pod is gated; False if it is not, or if somebody else wrote the Pod meanwhile.

    Guarded by the resource version, so that a late report never overwrites the last one of the workflow. Raises
    PodGone, ApiError.
    """
    pod = read_pod(client, ref)
    if names.GATE not in pods.gate_names(pod):
        return False
    return _patch_if_unchanged(client, ref, pod, reason=reason, message=message)


def set_progress(client: KubeClient, ref: PodRef, mark: str, *, message: str, seen: Json | None) -> bool:
    """Write the progress of a Pod that waits for a download; False if nothing was written.

    mark: the Pod's warming annotation, which is gone or different once the workflow has said anything else. seen: the
    Pod as a watch had it, which spares a read if it is the newest. Raises PodGone, ApiError.
    """
    for known in (seen, None):
        pod = known or read_pod(client, ref)
        is_waiting = names.GATE in pods.gate_names(pod) or pods.is_elsewhere(pod)
        if not is_waiting or pods.warming_mark(pod) != mark:
            continue
        if _patch_if_unchanged(client, ref, pod, reason=str(Phase.WARMING), message=message, mark=mark):
            return True
    return False


def clear_action(client: KubeClient, ref: PodRef, action: str) -> None:
    """Remove the action annotation while it has this value, so that its user can write it again.

    Raises PodGone, Conflict (the Pod changes all the time), ApiError.
    """
    for _ in range(_MAX_TRIES):
        pod = read_pod(client, ref)
        meta = pod["metadata"]
        if (meta.get("annotations") or {}).get(names.ACTION_ANNOTATION) != action:
            return
        guard = {"uid": ref.uid, "resourceVersion": meta["resourceVersion"]}
        try:
            client.patch(
                pod_path(ref.namespace, ref.name),
                {"metadata": {**guard, "annotations": {names.ACTION_ANNOTATION: None}}},
            )
        except ApiError as error:
            if error.status != 409:
                raise
        else:
            return
    raise Conflict(f"Pod {ref.namespace}/{ref.name} was changed {_MAX_TRIES} times meanwhile", pod=ref.name)


def status_text(phase: str, message: str) -> str:
    """Compose the annotation's value: lines that `kubectl describe pod` prints whole."""
    lines = [
        line
        for paragraph in f"{phase}: {message}".splitlines()
        for line in textwrap.wrap(paragraph, _LINE, break_long_words=False, break_on_hyphens=False)
    ]
    return "\n".join(lines)


def _patch_if_unchanged(
    client: KubeClient, ref: PodRef, pod: Json, *, reason: str, message: str, mark: str = ""
) -> bool:
    guard = {"uid": ref.uid, "resourceVersion": pod["metadata"]["resourceVersion"]}
    try:
        _patch_status(client, ref, pod, guard, ready=False, reason=reason, message=message, mark=mark)
    except ApiError as error:
        if error.status == 409:
            return False
        raise
    return True


def status_patch(pod: Json, guard: Json, *, ready: bool, reason: str, message: str, mark: str = "") -> Json:
    """Compose the patch of `pods/status` that writes condition and annotations on the Pod, as it is known.

    guard: metadata that the API server compares with the Pod's before it accepts the patch. mark: of the download that
    the Pod waits for; empty = none.
    """
    status = "True" if ready else "False"
    condition = {"type": names.CONDITION, "status": status, "reason": reason, "message": message}
    if _condition_of(pod).get("status") != status:  # the merge keeps the time of a condition whose status stays
        condition["lastTransitionTime"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    annotations = {names.STATUS_ANNOTATION: status_text(reason, message), names.WARMING_ANNOTATION: mark or None}
    return {"metadata": {**guard, "annotations": annotations}, "status": {"conditions": [condition]}}


def says_ready(pod: Json, message: str) -> bool:
    """Whether the condition says that the data is ready, in these words."""
    condition = _condition_of(pod)
    return condition.get("status") == "True" and condition.get("message") == message


def _patch_status(
    client: KubeClient, ref: PodRef, pod: Json, guard: Json, *, ready: bool, reason: str, message: str, mark: str
) -> None:
    body = status_patch(pod, guard, ready=ready, reason=reason, message=message, mark=mark)
    try:
        client.patch(pod_path(ref.namespace, ref.name, "status"), body)
    except ApiError as error:
        if error.status == 404 or (error.status in (409, 422) and "uid" in error.message.lower()):
            raise PodGone(f"Pod {ref.namespace}/{ref.name} is gone", namespace=ref.namespace, pod=ref.name) from error
        raise


def _condition_of(pod: Json) -> Json:
    """Our condition on the Pod; empty if there is none."""
    conditions: list[Json] = (pod.get("status") or {}).get("conditions") or []
    return next((condition for condition in conditions if condition.get("type") == names.CONDITION), {})
