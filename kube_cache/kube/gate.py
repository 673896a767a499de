"""The gate protocol: the one write that releases a Pod, and the only place that removes our gate.

One strategic-merge patch: `$patch: delete` takes our gate out by name (others' gates survive any reordering), uid and
resourceVersion guard it, and the pin rides along, because a Pod's affinity can be tightened only while it is gated. It
never sends a list of gates and never touches a container. Context and options: docs/design/gate-protocol.md.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kube_cache import names
from kube_cache.contracts.common import PodRef
from kube_cache.errors import Conflict, ForeignGates, PodGone, ReleaseRefused
from kube_cache.kube import pods
from kube_cache.kube.client import ApiError, Json, KubeClient, is_not_found, pod_path

# Each try reads the Pod again, after somebody else wrote it between our read and our patch. More tries than a few mean
# a fight between two writers, which the activity's backoff calms better.
_MAX_TRIES = 5


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
    client: KubeClient, ref: PodRef, node: str | None, receipt: Mapping[str, str], *, seen: Json | None = None
) -> Released:
    """Remove our gate and pin the Pod to `node` (None: no pin); `receipt` becomes annotations. Idempotent.

    seen: the Pod as a watch had it, which spares the first read. Raises PodGone, ForeignGates, ReleaseRefused (the
    server refuses the patch for good), Conflict and ApiError (try again).
    """
    for attempt in range(_MAX_TRIES):
        # The first read may be stale. The resource version in the patch is then stale too, and the server answers 409.
        pod = seen if attempt == 0 and seen is not None else read_pod(client, ref, allow_stale=attempt == 0)
        gates = pods.gate_names(pod)
        if attempt == 0 and gates != [names.GATE]:
            continue  # our gate is gone or others hold theirs: a verdict for which a stale read is not enough
        if names.GATE not in gates:
            return Released("already", pods.node_name(pod))
        foreign = pods.foreign_gates(pod)
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
        f"Pod {ref.namespace}/{ref.name} was changed {_MAX_TRIES} times while it was being released", pod=ref.name
    )


def plan_release(pod: Json, node: str | None, receipt: Mapping[str, str]) -> Json:
    """Compose the releasing patch for this very state of the Pod."""
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
        required = {"requiredDuringSchedulingIgnoredDuringExecution": with_node_affinity(pod, node)}
        spec["affinity"] = {"nodeAffinity": required}
    return {"metadata": metadata, "spec": spec}


def with_node_affinity(pod: Json, node: str) -> Json:
    """Return the Pod's required node affinity with `node` demanded in every term.

    Terms are ORed, so a pin in one term would leave the others open. Old terms stay as an exact prefix: on a gated Pod
    the API server admits only additions ("Mutable Pod scheduling directives" in Kubernetes' page on Pod scheduling
    readiness). A term without any requirement matches nothing and may gain nothing, so it stays.
    """
    requirement = {"key": "metadata.name", "operator": "In", "values": [node]}
    affinity = ((pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    terms: list[dict[str, Any]] = copy.deepcopy(affinity.get("nodeSelectorTerms") or [])
    if not terms:
        return {"nodeSelectorTerms": [{"matchFields": [requirement]}]}
    for term in terms:
        if term.get("matchExpressions") or term.get("matchFields"):
            term["matchFields"] = [*(term.get("matchFields") or []), requirement]
    return {"nodeSelectorTerms": terms}


def _to_domain_error(error: ApiError, ref: PodRef) -> Exception:
    """Translate an error of the releasing patch. 403 is retried as it is: an admin mends RBAC or a policy meanwhile."""
    if error.status == 404:
        return _gone(ref, "was deleted")
    if error.status == 422 and "metadata.uid" in error.message:
        return _gone(ref, "was replaced by another of that name")
    if error.status == 422:
        return ReleaseRefused(f"the API server refuses to release the Pod: {error.message}", pod=ref.name)
    return error


def _gone(ref: PodRef, how: str) -> PodGone:
    return PodGone(f"Pod {ref.namespace}/{ref.name} {how}", namespace=ref.namespace, pod=ref.name)
