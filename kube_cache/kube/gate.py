"""The gate protocol: the one write that releases a Pod, and the only place that removes our gate.

One strategic-merge patch: `$patch: delete` takes our gate out by name (others' gates survive any reordering), uid and
resourceVersion guard it, and the pin rides along, because a Pod's affinity can be tightened only while it is gated. It
never sends a list of gates and never touches a container. Context and options: docs/design/gate-protocol.md.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kube_cache import names
from kube_cache.contracts.common import PodRef
from kube_cache.errors import Conflict, ForeignGates, KubeCacheError, PodGone, ReleaseRefused, SeatOutdated, UnsafeMount
from kube_cache.kube import pods, requirements
from kube_cache.kube.client import ApiError, Json, KubeClient, is_not_found, pod_path
from kube_cache.kube.seat_affinity import PREFERENCE, named

# Each try reads the Pod again, after somebody else wrote it between our read and our patch. More tries than a few mean
# a fight between two writers, which the activity's backoff calms better.
_MAX_TRIES = 5

_REQUIRED, _PREFERRED = (
    "requiredDuringSchedulingIgnoredDuringExecution",
    "preferredDuringSchedulingIgnoredDuringExecution",
)


CHANGED = (
    "somebody changed what the Pod requires of its node (selector, affinity, tolerations) since the node was chosen"
)


@dataclass(frozen=True)
class Released:
    outcome: str
    """`released`, or `already` when our gate was gone before."""
    bound_node: str = ""
    """Node that the Pod is bound to; known only with `already`."""


def read_pod(client: KubeClient, ref: PodRef, *, allow_stale: bool = False) -> Json:
    """GET the Pod. allow_stale: an older state will do, except as proof that the Pod is gone.

    Raises PodGone when the Pod, or this incarnation of it, does not exist, and ApiError.
    """
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
    client: KubeClient,
    ref: PodRef,
    node: str | None,
    receipt: Mapping[str, str],
    *,
    cache_root: str,
    prefer: bool = False,
    seen: Json | None = None,
    required: str = "",
    make_room: Callable[[Json], Json] | None = None,
) -> Released:
    """Remove our gate and pin the Pod to `node` (None: no pin); `receipt` becomes annotations. Idempotent.

    cache_root: folder of the cache on the nodes; a Pod that mounts it unsafely is not released, cold neither. prefer:
    the Pod only prefers the node. seen: the Pod as a watch had it, which spares the first read. required: fingerprint
    of what the Pod required of its node when the node was chosen; empty = any. make_room: called with a Pod that may be
    released, right before the patch; returns the Pod as it is then. Raises PodGone, ForeignGates, UnsafeMount,
    SeatOutdated, ReleaseRefused (the server refuses the patch for good), Conflict and ApiError (try again).
    """
    for attempt in range(_MAX_TRIES):
        # The first read may be stale. The resource version in the patch is then stale too, and the server answers 409.
        pod = seen if attempt == 0 and seen is not None else read_pod(client, ref, allow_stale=attempt == 0)
        gates = pods.gate_names(pod)
        unsafe = pods.pod_view(pod, cache_root).unsafe_mount
        outdated = bool(required) and requirements.fingerprint(pod) != required
        if attempt == 0 and (gates != [names.GATE] or unsafe or outdated):
            continue  # a verdict against the release, or that it was done: a stale read is not enough for these
        if names.GATE not in gates:
            return Released("already", pods.node_name(pod))
        foreign = pods.foreign_gates(pod)
        if foreign:
            raise ForeignGates(f"other controllers still hold gates: {', '.join(foreign)}", pod=ref.name)
        if unsafe:
            raise UnsafeMount(unsafe, pod=ref.name)
        if outdated:
            raise SeatOutdated(CHANGED, pod=ref.name)
        try:
            if make_room is not None:
                pod = make_room(pod)
            client.patch(pod_path(ref.namespace, ref.name), plan_release(pod, node, receipt, prefer=prefer))
        except ApiError as error:
            if error.status == 409:
                continue
            if refusal := _final_refusal(error, ref):
                raise refusal from error
            raise
        return Released("released")
    raise Conflict(
        f"Pod {ref.namespace}/{ref.name} was changed {_MAX_TRIES} times while it was being released", pod=ref.name
    )


def plan_release(pod: Json, node: str | None, receipt: Mapping[str, str], *, prefer: bool = False) -> Json:
    """Compose the releasing patch for this very state of the Pod. prefer: the Pod prefers the node, and may go on."""
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
        spec["affinity"] = {"nodeAffinity": with_preferred_node(pod, node) if prefer else with_node_affinity(pod, node)}
    return {"metadata": metadata, "spec": spec}


def with_preferred_node(pod: Json, node: str) -> Json:
    """Return the Pod's preferred node affinity with `node` appended, at the largest weight; what is required stays.

    The list has no merge key, so a patch replaces it as a whole.
    """
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    preferences = copy.deepcopy(affinity.get(_PREFERRED) or [])
    return {_PREFERRED: [*preferences, {"weight": PREFERENCE, "preference": {"matchFields": [named("In", node)]}}]}


def with_node_affinity(pod: Json, node: str) -> Json:
    """Return the Pod's required node affinity with `node` demanded in every term.

    Terms are ORed, so a pin in one term would leave the others open. Old terms stay as an exact prefix: on a gated Pod
    the API server admits only additions ("Mutable Pod scheduling directives" in Kubernetes' page on Pod scheduling
    readiness). A term without any requirement matches nothing and may gain nothing, so it stays.
    """
    affinity = ((pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}).get(_REQUIRED) or {}
    terms: list[dict[str, Any]] = copy.deepcopy(affinity.get("nodeSelectorTerms") or [])
    for term in terms:
        if term.get("matchExpressions") or term.get("matchFields"):
            term["matchFields"] = [*(term.get("matchFields") or []), named("In", node)]
    return {_REQUIRED: {"nodeSelectorTerms": terms or [{"matchFields": [named("In", node)]}]}}


def _final_refusal(error: ApiError, ref: PodRef) -> KubeCacheError | None:
    """Translate an error of the releasing patch; None for one that may pass. An admin mends RBAC or a policy (403)."""
    if error.status == 404:
        return _gone(ref, "was deleted")
    if error.status == 422 and "metadata.uid" in error.message:
        return _gone(ref, "was replaced by another of that name")
    if error.status == 422:
        return ReleaseRefused(f"the API server refuses to release the Pod: {error.message}", pod=ref.name)
    return None


def _gone(ref: PodRef, how: str) -> PodGone:
    return PodGone(f"Pod {ref.namespace}/{ref.name} {how}", namespace=ref.namespace, pod=ref.name)
