"""The gate protocol: the one write that releases a Pod, and the only place that removes our gate.

One strategic-merge patch: `$patch: delete` takes our gate out by name (others' gates survive any reordering), uid and
resourceVersion guard it, and the pin rides along, because a Pod's affinity can be tightened only while it is gated.
It never sends a list of gates and never touches a container. See docs/design/gate-protocol.md.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kube_cache import names
from kube_cache.contracts.common import PodRef
from kube_cache.errors import Conflict, ForeignGates, PodGone, ReleaseRefused
from kube_cache.kube.client import ApiError, Json, KubeClient, is_not_found, pod_path

# Somebody else writes the Pod between our read and our patch; each try reads again. More than a few means a fight, which
# the activity's backoff calms better than we could.
_TRIES = 5


@dataclass(frozen=True)
class Released:
    outcome: str
    """`released`, or `already` when our gate was gone before."""
    bound_node: str = ""


def read_pod(client: KubeClient, ref: PodRef, *, allow_stale: bool = False) -> Json:
    """Raises PodGone when the Pod, or this incarnation of it, does not exist; that is never judged by a stale read."""
    if allow_stale:
        try:
            pod = client.get_pod(ref.namespace, ref.name, allow_stale=True)
        except ApiError as error:
            if not is_not_found(error):
                raise
        else:
            if pod["metadata"]["uid"] == ref.uid:
                return pod
    try:
        pod = client.get_pod(ref.namespace, ref.name)
    except ApiError as error:
        if is_not_found(error):
            raise _gone(ref, "was deleted") from error
        raise
    if pod["metadata"]["uid"] != ref.uid:
        raise _gone(ref, "was replaced by another of that name")
    return pod


def release(
    client: KubeClient, ref: PodRef, node: str | None, receipt: Mapping[str, str], *, seen: Json | None = None
) -> Released:
    """Remove our gate and pin the Pod to `node` (None: no pin); `receipt` becomes annotations. Idempotent.

    seen: the Pod as a watch had it, which spares the first read.
    Raises PodGone, ForeignGates, ReleaseRefused (the server refuses it for good), Conflict and ApiError (try again).
    """
    for attempt in range(_TRIES):
        # The first read may be a moment old: if it is, the resource version in the patch is too, and the server says 409.
        pod = seen if attempt == 0 and seen is not None else read_pod(client, ref, allow_stale=attempt == 0)
        gates = [gate["name"] for gate in pod["spec"].get("schedulingGates") or []]
        if attempt == 0 and gates != [names.GATE]:
            continue  # our gate gone, or others still there: too weighty to be said from a read that may be stale
        if names.GATE not in gates:
            return Released("already", pod["spec"].get("nodeName") or "")
        foreign = [gate for gate in gates if gate != names.GATE]
        if foreign:
            raise ForeignGates(f"other controllers still hold gates: {', '.join(foreign)}", pod=ref.name)
        try:
            client.patch(pod_path(ref.namespace, ref.name), plan_release(pod, node, receipt))
        except ApiError as error:
            if error.status == 409:
                continue
            raise _to_domain_error(error, ref) from error
        return Released("released")
    raise Conflict(
        f"Pod {ref.namespace}/{ref.name} was changed {_TRIES} times while it was being released", pod=ref.name
    )


def plan_release(pod: Json, node: str | None, receipt: Mapping[str, str]) -> Json:
    """The patch for this very state of the Pod."""
    meta = pod["metadata"]
    metadata: Json = {
        "uid": meta["uid"],
        "resourceVersion": meta["resourceVersion"],
        "labels": {names.MANAGED_LABEL: "true"},
    }
    if receipt:
        metadata["annotations"] = dict(receipt)
    spec: Json = {"schedulingGates": [{"$patch": "delete", "name": names.GATE}]}
    if node is not None:
        spec["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": pinned(pod, node)}}
    return {"metadata": metadata, "spec": spec}


def pinned(pod: Json, node: str) -> Json:
    """The Pod's required node affinity with `node` demanded in every term.

    Terms are ORed, so a pin in one would leave the others open. Old terms stay as an exact prefix, which is all that the
    API server admits on a gated Pod. A term without any requirement matches nothing and may gain nothing: it stays.
    """
    demand = {"key": "metadata.name", "operator": "In", "values": [node]}
    affinity = ((pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    terms: list[dict[str, Any]] = copy.deepcopy(affinity.get("nodeSelectorTerms") or [])
    if not terms:
        return {"nodeSelectorTerms": [{"matchFields": [demand]}]}
    for term in terms:
        if term.get("matchExpressions") or term.get("matchFields"):
            term["matchFields"] = [*(term.get("matchFields") or []), demand]
    return {"nodeSelectorTerms": terms}


def _to_domain_error(error: ApiError, ref: PodRef) -> Exception:
    if error.status == 404:
        return _gone(ref, "was deleted")
    if error.status == 422 and "metadata.uid" in error.message:
        return _gone(ref, "was replaced by another of that name")
    if error.status == 422:
        return ReleaseRefused(f"the API server refuses to release the Pod: {error.message}", pod=ref.name)
    return error  # 403 too: an admin mends RBAC or a policy, and the next try succeeds without anybody's signal


def _gone(ref: PodRef, how: str) -> PodGone:
    return PodGone(f"Pod {ref.namespace}/{ref.name} {how}", namespace=ref.namespace, pod=ref.name)
