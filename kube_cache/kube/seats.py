"""The seat: a pause Pod with a gated Pod's requirements, so that the scheduler chooses its node and holds the room.

It asks for what the Pod asks for, may go where the Pod may go, and yields to any real Pod (priority -10, which the cluster
autoscaler still counts). What it does not copy: volumes and resource claims (they belong to the Pod's namespace, so a
Pod whose claim ties it to a zone should say so in its affinity too) and host ports (the seat would keep its own Pod off
the node).
"""

from __future__ import annotations

import copy
from typing import Any

from kube_cache import names
from kube_cache.kube.client import ApiError, Json, KubeClient, pod_path, resource_path
from kube_cache.kube.quantities import effective_requests

GPU = "nvidia.com/gpu"
# Beside this weight the scheduler's own preferences (spreading, free room) cannot outvote bytes that are there already.
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
    spec: Json = {key: copy.deepcopy(pod["spec"][key]) for key in _COPIED if pod["spec"].get(key)}
    spec["affinity"] = _affinity(pod, prefer_nodes, exclude_nodes)
    requests = effective_requests(pod["spec"])
    # A runtime class adds its overhead to the seat by itself at admission; extended resources need a limit.
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
            # The Pod's labels, so that spreading and affinity among its peers count the seat; in our namespace no Service
            # or controller of the user's selects them.
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
    """GPUs that the Pod asks for."""
    return int(effective_requests(pod["spec"]).get(GPU, "0"))


def create(client: KubeClient, seat: Json) -> Json:
    """The seat as the server has it; one that exists by this name is this seat. Raises ApiError."""
    meta = seat["metadata"]
    try:
        return client.create(resource_path("pods", meta["namespace"]), seat)
    except ApiError as error:
        if error.status != 409:
            raise
        return client.get_pod(meta["namespace"], meta["name"])


def delete(client: KubeClient, namespace: str, name: str) -> None:
    """Now, without grace; one that is not there is deleted. Raises ApiError."""
    try:
        client.delete(pod_path(namespace, name), {"gracePeriodSeconds": 0})
    except ApiError as error:
        if error.status != 404:
            raise


def _affinity(pod: Json, prefer: list[str], exclude: list[str]) -> Json:
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
    return {"key": "metadata.name", "operator": operator, "values": [node]}  # one value: the API server takes no more


def _name_namespace(affinity: Json, namespace: str) -> None:
    """A term without namespaces means the Pod's own; in the seat that would be ours."""
    terms: list[dict[str, Any]] = list(affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or [])
    weighted = affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or []
    for term in [*terms, *(one["podAffinityTerm"] for one in weighted)]:
        if not term.get("namespaces") and "namespaceSelector" not in term:
            term["namespaces"] = [namespace]
