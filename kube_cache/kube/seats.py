"""The seat: a placeholder Pod with a gated Pod's requirements, by which the scheduler chooses a node and reserves it.

A seat requests the Pod's resources, obeys the Pod's constraints, and yields to any real Pod (priority -10, which the
cluster autoscaler still counts). Not copied are volumes and resource claims, which belong to the Pod's namespace (a Pod
whose claim ties it to a zone should say so in its affinity, too), and host ports, with which the seat would keep its
own Pod off the node.
"""

from __future__ import annotations

import copy
from typing import Any

from kube_cache import names
from kube_cache.kube.client import ApiError, Json, KubeClient, pod_path, resource_path
from kube_cache.kube.quantities import effective_requests

GPU = "nvidia.com/gpu"
# The largest weight that `PreferredSchedulingTerm.weight` takes (1 to 100), so that the scheduler's own preferences
# (spreading, free capacity) do not outvote data that is there already.
_PREFERENCE = 100
_COPIED = ("nodeSelector", "tolerations", "schedulerName", "runtimeClassName", "topologySpreadConstraints")


def build_seat(
    pod: Json,
    *,
    name: str,
    namespace: str,
    workflow_id: str,
    prefer_nodes: list[str],
    exclude_nodes: list[str],
    image: str,
) -> Json:
    """Compose the seat of a gated Pod. image: of the seat's only container, which does nothing."""
    spec: Json = {key: copy.deepcopy(pod["spec"][key]) for key in _COPIED if pod["spec"].get(key)}
    spec["affinity"] = _affinity(pod, prefer_nodes, exclude_nodes)
    requests = effective_requests(pod["spec"])
    # Admission adds the overhead of a runtime class to the seat, too. Extended resources are valid only with a limit.
    resources: Json = {"requests": requests, "limits": {key: value for key, value in requests.items() if "/" in key}}
    spec |= {
        "priorityClassName": names.SEAT_PRIORITY_CLASS,
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65535,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "seat",
                "image": image,
                "resources": resources,
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            # With the Pod's labels, spreading and affinity among its peers count the seat. In our namespace no Service
            # or controller of the user selects them.
            "labels": {**(pod["metadata"].get("labels") or {}), names.SEAT_LABEL: "true"},
            "annotations": {
                names.SEAT_WORKFLOW_ANNOTATION: workflow_id,
                "karpenter.sh/do-not-disrupt": "true",
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
            },
        },
        "spec": spec,
    }


def gpu_count(pod: Json) -> int:
    """Number of GPUs that the Pod requests."""
    return int(effective_requests(pod["spec"]).get(GPU, "0"))


def create(client: KubeClient, seat: Json) -> Json:
    """Create the seat and return it as the server has it; a seat of this name is this seat. Raises ApiError."""
    meta = seat["metadata"]
    try:
        return client.create(resource_path("pods", meta["namespace"]), seat)
    except ApiError as error:
        if error.status != 409:
            raise
        return client.get_pod(meta["namespace"], meta["name"])


def delete(client: KubeClient, namespace: str, name: str) -> None:
    """Delete the seat at once, without a grace period. A missing seat is no error. Raises ApiError."""
    try:
        client.delete(pod_path(namespace, name), {"gracePeriodSeconds": 0})
    except ApiError as error:
        if error.status != 404:
            raise


def _affinity(pod: Json, prefer: list[str], exclude: list[str]) -> Json:
    """Return the Pod's affinity, with nodes to avoid in every required term (terms are ORed) and nodes to prefer."""
    affinity: Json = copy.deepcopy(pod["spec"].get("affinity") or {})
    for kind in ("podAffinity", "podAntiAffinity"):
        if kind in affinity:
            _name_namespace(affinity[kind], pod["metadata"]["namespace"])
    node: Json = affinity.setdefault("nodeAffinity", {})
    if exclude:
        required: Json = node.setdefault("requiredDuringSchedulingIgnoredDuringExecution", {"nodeSelectorTerms": [{}]})
        for term in required["nodeSelectorTerms"]:
            term["matchFields"] = [*(term.get("matchFields") or []), *(_field("NotIn", name) for name in exclude)]
    if prefer:
        preferred = node.setdefault("preferredDuringSchedulingIgnoredDuringExecution", [])
        preferred += [{"weight": _PREFERENCE, "preference": {"matchFields": [_field("In", name)]}} for name in prefer]
    if not node:
        del affinity["nodeAffinity"]
    return affinity


def _field(operator: str, node: str) -> Json:
    # One value: ValidateNodeFieldSelectorRequirement of Kubernetes' pkg/apis/core/validation admits no more.
    return {"key": "metadata.name", "operator": operator, "values": [node]}


def _name_namespace(affinity: Json, namespace: str) -> None:
    """Write the Pod's namespace into terms that name none: in the seat they would mean the seat's."""
    terms: list[dict[str, Any]] = list(affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or [])
    weighted = affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or []
    for term in [*terms, *(preference["podAffinityTerm"] for preference in weighted)]:
        if not term.get("namespaces") and "namespaceSelector" not in term:
            term["namespaces"] = [namespace]
