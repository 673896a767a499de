"""The placeholder Pod: it asks for the GPUs of one copy that the forecast expects and that no node can take yet.

An autoscaler adds a node for a Pod that no node takes, and for nothing else. So one Pending Pod stands for each copy
that is missing, before the Pods of the rush exist. It has the lowest priority that an autoscaler counts as demand: any
real Pod pushes it out, and it pushes out nobody. It is no seat: it belongs to no Pod, and whoever watches, judges or
repairs seats does not see it. `kube_cache.forecast.ahead` decides how many there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from kube_cache import names
from kube_cache.errors import SeatForbidden
from kube_cache.kube import seat_priority, seats
from kube_cache.kube.client import ApiError, Json, KubeClient, resource_path

_HOSTNAME = "kubernetes.io/hostname"
_ENDED = ("Failed", "Succeeded")


@dataclass(frozen=True)
class Asked:
    """What each of them asks for."""

    resources: Mapping[str, str]
    tolerations: Sequence[Json]
    node_selector: Mapping[str, str]
    image: str


@dataclass(frozen=True)
class Placeholder:
    """One that stands in the cluster."""

    name: str
    dataset: str
    """Digest of the dataset's URI, as `digest_of` gives it."""
    node: str
    """Empty while no node takes it."""
    ended: bool
    created_at: float
    """Seconds since the epoch, as the next one."""
    expires_at: float
    """0 = never."""
    only_node: str
    """As in `build`."""


def digest_of(dataset: str) -> str:
    return hashlib.sha256(dataset.encode()).hexdigest()[:12]


def name_of(dataset: str, index: int) -> str:
    """Return the name that each operator gives the index-th placeholder of a dataset."""
    return f"ahead-{digest_of(dataset)}-{index}"


def build(
    dataset: str,
    name: str,
    asked: Asked,
    *,
    namespace: str,
    lives_s: int,
    only_node: str = "",
    owner: Json | None,
) -> Json:
    """Compose the placeholder. lives_s: seconds after which the kubelet ends a bound one, and a sweep an unbound one.

    only_node: the one that came for an earlier placeholder, and that this one is to keep.
    """
    resources = [{"name": "copy", "resources": {"requests": dict(asked.resources)}}]
    stand_in: Json = {
        "metadata": {"namespace": namespace},
        "spec": {
            "nodeSelector": dict(asked.node_selector),
            "tolerations": list(asked.tolerations),
            "containers": resources,
            **seat_priority.LOWEST.fields(),
        },
    }
    pod = seats.build_seat(
        stand_in,
        name=name,
        namespace=namespace,
        workflow_id="",
        prefer_nodes=[],
        exclude_nodes=[],
        only_nodes=[only_node] if only_node else [],
        image=asked.image,
        owner=owner,
        deadline_s=lives_s,
    )
    apart = {"topologyKey": _HOSTNAME, "labelSelector": {"matchExpressions": [_selected()]}}
    affinity = pod["spec"].setdefault("affinity", {})
    affinity["podAntiAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}
    meta = pod["metadata"]
    meta["labels"] = {names.AHEAD_LABEL: digest_of(dataset)}
    meta["annotations"].pop(names.SEAT_WORKFLOW_ANNOTATION)
    meta["annotations"][names.AHEAD_DATASET_ANNOTATION] = dataset
    if only_node:
        meta["annotations"][names.AHEAD_NODE_ANNOTATION] = only_node
    return pod


def _selected() -> Json:
    return {"key": names.AHEAD_LABEL, "operator": "Exists"}


def list_all(client: KubeClient, namespace: str) -> list[Placeholder]:
    """List them; their number is bounded by the budget. Raises ApiError."""
    return [read(pod) for page in client.pages("pods", namespace, names.AHEAD_LABEL) for pod in page.items]


def read(pod: Json) -> Placeholder:
    meta, spec = pod["metadata"], pod["spec"]
    lives_s = spec.get("activeDeadlineSeconds") or 0
    created = datetime.fromisoformat(meta["creationTimestamp"]).timestamp()
    return Placeholder(
        meta["name"],
        (meta.get("labels") or {}).get(names.AHEAD_LABEL, ""),
        spec.get("nodeName") or "",
        (pod.get("status") or {}).get("phase") in _ENDED or "deletionTimestamp" in meta,
        created,
        created + lives_s if lives_s else 0,
        (meta.get("annotations") or {}).get(names.AHEAD_NODE_ANNOTATION, ""),
    )


def create(client: KubeClient, pod: Json) -> None:
    """Create it; one of this name is this one. Raises SeatForbidden with the server's words, ApiError (try again)."""
    meta = pod["metadata"]
    try:
        client.create(resource_path("pods", meta["namespace"]), pod)
    except ApiError as error:
        if error.status == 409 and error.reason == "AlreadyExists":
            return
        if error.status in (400, 403, 422):
            raise SeatForbidden(
                f"the API server refuses the placeholder Pod for a copy that is forecast: {error.message}; check"
                " KUBE_CACHE_FORECAST__PLACEHOLDER_RESOURCES and …_TOLERATIONS, and the quotas and admission rules of"
                f" namespace {meta['namespace']}",
                seat=meta["name"],
            ) from error
        raise


def delete_expired(client: KubeClient, namespace: str, now: float) -> list[Placeholder]:
    """Delete those that have ended or outlived their plan; return the others. now: seconds since the epoch."""
    kept = []
    for each in list_all(client, namespace):
        if each.ended or 0 < each.expires_at <= now:
            seats.delete(client, namespace, each.name)
        else:
            kept.append(each)
    return kept


def delete_all(client: KubeClient, namespace: str) -> int:
    """Delete all, as where the forecast is off; return how many there were. Raises ApiError."""
    return sum(seats.delete(client, namespace, each.name) for each in list_all(client, namespace))


def make_room(client: KubeClient, namespace: str, nodes: Collection[str]) -> bool:
    """Delete one that stands on one of the nodes; return whether there was one. Raises ApiError.

    For a seat that goes to the holders of its data alone and may not preempt: the room there was held for it.
    """
    wanted = set(nodes)
    return any(
        each.node in wanted and not each.ended and seats.delete(client, namespace, each.name)
        for each in list_all(client, namespace)
    )
