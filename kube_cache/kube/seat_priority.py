"""Priority of a seat: that of its Pod, so that it may preempt what the Pod may, and yields only to what the Pod would.

A seat names the Pod's own PriorityClass, whose preemption policy comes with it. A seat that must not preempt, and one
whose Pod's class is gone or forbidden, has a class of ours with the Pod's value, which is created when the first such
seat is refused for the want of it. Nobody deletes these: there is one for each value that Pods have, and they go with
the namespace of the seats, which owns them.
"""

from __future__ import annotations

from dataclasses import dataclass

from kube_cache import names
from kube_cache.kube.client import ApiError, Json, KubeClient

_CLASSES = "/apis/scheduling.k8s.io/v1/priorityclasses"
# `HighestUserDefinablePriority` of Kubernetes' pkg/apis/scheduling: above are the classes of the system.
_HIGHEST = 1_000_000_000
_NEVER = "Never"


@dataclass(frozen=True)
class Priority:
    """What the spec of a Pod says of its priority. The API server refuses a Pod whose class says otherwise."""

    class_name: str
    """Empty = none."""
    value: int
    preemption_policy: str

    def fields(self) -> Json:
        named = {"priorityClassName": self.class_name} if self.class_name else {}
        return {**named, "priority": self.value, "preemptionPolicy": self.preemption_policy}


LOWEST = Priority(names.SEAT_PRIORITY_CLASS, -10, _NEVER)
"""Of a seat that can have none of its own. -10 is the lowest value that the cluster autoscaler counts as demand."""


def of_pod(pod: Json) -> Priority:
    """Read the Pod's own priority, which admission has resolved."""
    spec = pod["spec"]
    return Priority(
        spec.get("priorityClassName") or "",
        int(spec.get("priority") or 0),
        spec.get("preemptionPolicy") or "PreemptLowerPriority",
    )


def of_seat(pod: Json, *, may_preempt: bool) -> Priority:
    """Choose the priority of the Pod's seat."""
    own = of_pod(pod)
    return own if may_preempt or own.preemption_policy == _NEVER else placeholder(own.value)


def placeholder(value: int) -> Priority:
    """Return the class of ours with this value. It never preempts."""
    value = min(value, _HIGHEST)
    return Priority(f"{names.SEAT_PRIORITY_CLASS}-{f'minus-{-value}' if value < 0 else value}", value, _NEVER)


def is_ours(priority: Priority) -> bool:
    return priority.class_name.startswith(f"{names.SEAT_PRIORITY_CLASS}-")


def create_class(client: KubeClient, priority: Priority, namespace: str) -> None:
    """Create the class of ours, owned by the seats' namespace; one that exists is no error. Raises ApiError."""
    home = client.request("GET", f"/api/v1/namespaces/{namespace}")
    owner = {"apiVersion": "v1", "kind": "Namespace", "name": namespace, "uid": home["metadata"]["uid"]}
    body = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {
            "name": priority.class_name,
            "labels": {"app.kubernetes.io/name": "kube-cache"},
            "ownerReferences": [owner],
        },
        "value": priority.value,
        "preemptionPolicy": priority.preemption_policy,
        "description": "Kube-Cache's placeholder Pods for Pods of this priority; they do not preempt.",
    }
    try:
        client.create(_CLASSES, body)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise


def is_about_priority(error: ApiError) -> bool:
    """Whether the API server forbids a Pod for its priority: no such class, another value, a quota."""
    return error.status == 403 and "priority" in error.message.lower()


def is_unknown_class(error: ApiError) -> bool:
    """Whether the API server's admission knows no class of that name (plugin/pkg/admission/priority)."""
    return error.status == 403 and "no PriorityClass with name" in error.message
