"""The seat: a placeholder Pod with a gated Pod's requirements, by which the scheduler chooses a node and reserves it.

What the scheduler decides for a seat must be what it would decide for the Pod. A seat asks for the Pod's resources and
host ports, has the Pod's priority, and obeys its node constraints. Constraints among the Pods of a namespace cannot be
asked of a seat, which lives in another: `kube_cache.kube.placement` turns them into demands on the node. What no seat
can stand for is told in words (`unreserved`, `claims`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kube_cache import names
from kube_cache.errors import KubeCacheError, PriorityClassUnknown, SeatForbidden, SeatRefused
from kube_cache.kube import seat_admission, seat_priority
from kube_cache.kube.client import ApiError, Json, KubeClient, pod_path, resource_path
from kube_cache.kube.quantities import effective_requests, host_ports, must_be_limited
from kube_cache.kube.seat_affinity import node_affinity
from kube_cache.kube.seat_labels import seat_labels, seat_selector
from kube_cache.kube.seat_priority import Priority
from kube_cache.telemetry import metrics

# Not the runtime class: its overhead is in the requests, its selector and tolerations were merged into the Pod, and a
# seat needs no sandbox. Not the spread: it would count seats.
_COPIED = ("nodeSelector", "tolerations", "schedulerName")
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


class Created(NamedTuple):
    seat: Json
    """As the server has it."""
    lower_priority: str
    """Why the seat is less important than its Pod; empty = it is as important."""
    differences: list[str]
    """What the cluster's admission changed of the seat."""


def build_seat(
    pod: Json,
    *,
    name: str,
    namespace: str,
    workflow_id: str,
    prefer_nodes: Sequence[str],
    exclude_nodes: Sequence[str],
    image: str,
    require: Sequence[Json] = (),
    volumes: Sequence[Sequence[Json]] = (),
    only_nodes: Sequence[str] = (),
    may_preempt: bool = True,
    owner: Json | None = None,
    deadline_s: int = 0,
) -> Json:
    """Compose the seat of a gated Pod. image: of the seat's only container, which does nothing.

    require: match expressions that the node must fulfil for what the seat cannot say. volumes: for each volume of the
    Pod its alternative node selector terms. only_nodes: the seat may go to no other; empty = anywhere. may_preempt:
    False for a seat that may only take free room, whatever its priority. owner: reference to the object that controls
    the seat; with it `kubectl drain` takes the seat away, no other controller adopts it, and it goes when the object
    goes. deadline_s: seconds that a bound seat lives; 0 = no limit.
    """
    spec: Json = {key: copy.deepcopy(pod["spec"][key]) for key in _COPIED if pod["spec"].get(key)}
    affinity = _preferred_peers(pod)
    if node := node_affinity(
        pod,
        volumes=volumes,
        require=require,
        prefer_nodes=prefer_nodes,
        exclude_nodes=exclude_nodes,
        only_nodes=only_nodes,
    ):
        affinity["nodeAffinity"] = node
    if affinity:
        spec["affinity"] = affinity
    requests = effective_requests(pod["spec"])
    limits = {resource: quantity for resource, quantity in requests.items() if must_be_limited(resource)}
    if deadline_s:
        spec["activeDeadlineSeconds"] = deadline_s
    container: Json = {
        "name": "seat",
        "image": image,
        "resources": {"requests": requests, "limits": limits},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if ports := host_ports(pod["spec"]):
        container["ports"] = ports
    spec |= {
        **seat_priority.of_seat(pod, may_preempt=may_preempt).fields(),
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65535,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {**seat_labels(pod), names.SEAT_LABEL: "true"},
            "annotations": {
                names.SEAT_WORKFLOW_ANNOTATION: workflow_id,
                "karpenter.sh/do-not-disrupt": "true",
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
            },
            **({"ownerReferences": [owner]} if owner else {}),
        },
        "spec": spec,
    }


def create(client: KubeClient, seat: Json) -> Created:
    """Create the seat; a seat of this name is this seat. One whose priority is refused gets another.

    Raises SeatRefused, SeatForbidden, both with the server's words, PriorityClassUnknown and ApiError (try again).
    """
    meta = seat["metadata"]
    why = ""
    for priority in _priorities(seat):
        wanted = {**seat, "spec": {**_without_priority(seat["spec"]), **priority.fields()}}
        is_new = True
        try:
            stored = _create_in_class(client, wanted, priority)
            metrics.SEATS_CREATED.inc()
        except ApiError as error:
            if seat_priority.is_about_priority(error) and priority != seat_priority.LOWEST:
                why = why or error.message
                continue
            if error.status == 409 and error.reason == "AlreadyExists":
                stored, is_new = client.get_pod(meta["namespace"], meta["name"]), False
            elif refusal := _refusal(error, meta):
                raise refusal from error
            else:
                raise
        if gates := seat_admission.added_gates(wanted, stored):
            delete(client, meta["namespace"], meta["name"])
            raise SeatForbidden(
                f"admission puts the scheduling gates {', '.join(gates)} on the placeholder Pod, which is then never"
                f" scheduled; exempt the namespace {meta['namespace']} from the webhook or policy that does so",
                seat=meta["name"],
            )
        lower = why if int(stored["spec"].get("priority") or 0) < int(seat["spec"].get("priority") or 0) else ""
        return Created(stored, lower, seat_admission.differences(wanted, stored, is_new=is_new))
    raise AssertionError("the last priority was not tried")


def _priorities(seat: Json) -> Iterator[Priority]:
    """Yield priorities to try in turn: the wanted one, the same value in a class of ours, the lowest."""
    wanted = seat_priority.of_pod(seat)
    yield wanted
    if not seat_priority.is_ours(wanted):
        yield seat_priority.placeholder(wanted.value)
    yield seat_priority.LOWEST


def _without_priority(spec: Json) -> Json:
    return {key: value for key, value in spec.items() if key != "priorityClassName"}


def _create_in_class(client: KubeClient, seat: Json, priority: Priority) -> Json:
    """POST the seat; if it is refused for the want of a class of ours, create that first.

    The API server's admission hears of a class by a watch, within milliseconds: whoever called tries again then, and
    no thread waits for it. Raises PriorityClassUnknown, ApiError.
    """
    path = resource_path("pods", seat["metadata"]["namespace"])
    try:
        return client.create(path, seat)
    except ApiError as error:
        if not (seat_priority.is_ours(priority) and seat_priority.is_about_priority(error)):
            raise
    seat_priority.create_class(client, priority, seat["metadata"]["namespace"])
    try:
        return client.create(path, seat)
    except ApiError as error:
        if seat_priority.is_unknown_class(error):
            raise PriorityClassUnknown(
                f"the API server does not know the PriorityClass {priority.class_name} yet, which was just created for"
                f" placeholder Pods: {error.message}",
                seat=seat["metadata"]["name"],
            ) from error
        raise


def _refusal(error: ApiError, meta: Json) -> KubeCacheError | None:
    """Translate an answer that refuses the seat, and count it; None for any other error."""
    if error.status in (400, 422):
        metrics.SEATS_REFUSED.labels("invalid").inc()
        return SeatRefused(
            f"the API server refuses the placeholder Pod by which the scheduler chooses the node: {error.message};"
            " change what it names in the Pod or in the cluster's admission rules",
            seat=meta["name"],
        )
    if error.status == 403:
        metrics.SEATS_REFUSED.labels("forbidden").inc()
        return SeatForbidden(
            "the API server forbids the placeholder Pod by which the scheduler chooses the node:"
            f" {error.message}; its quotas, Pod security, webhooks and the operator's rights must allow Pods in"
            f" namespace {meta['namespace']}",
            seat=meta["name"],
        )
    return None


def delete(client: KubeClient, namespace: str, name: str) -> bool:
    """Delete the seat at once, without a grace period; return whether there was one. Raises ApiError."""
    try:
        client.delete(pod_path(namespace, name), {"gracePeriodSeconds": 0})
    except ApiError as error:
        if error.status != 404:
            raise
        return False
    return True


def _preferred_peers(pod: Json) -> Json:
    """Return the Pod's preferences for and against its peers, each for the peers themselves and for their seats."""
    found: Json = {}
    for kind in ("podAffinity", "podAntiAffinity"):
        terms: list[Json] = []
        for preference in ((pod["spec"].get("affinity") or {}).get(kind) or {}).get(_PREFERRED) or []:
            term = copy.deepcopy(preference["podAffinityTerm"])
            _drop_merged_keys(term)
            if not term.get("namespaces") and "namespaceSelector" not in term:
                term["namespaces"] = [pod["metadata"]["namespace"]]  # a term without one means the Pod's own
            terms.append({**preference, "podAffinityTerm": term})
            if not term.get("namespaceSelector"):  # one that names labels of namespaces cannot be asked of seats
                namespaces = None if "namespaceSelector" in term else term["namespaces"]
                selector = seat_selector(term.get("labelSelector"), namespaces)
                seats = {"topologyKey": term["topologyKey"], **({"labelSelector": selector} if selector else {})}
                terms.append({**preference, "podAffinityTerm": seats})
        if terms:
            found[kind] = {_PREFERRED: terms}
    return found


def _drop_merged_keys(term: Json) -> None:
    """Drop the (mis)matchLabelKeys, which the API server has merged into the term's selector as the Pod was created.

    Keys of labels that the Pod does not have were not merged, and select nothing.
    """
    for field in ("matchLabelKeys", "mismatchLabelKeys"):
        term.pop(field, None)
