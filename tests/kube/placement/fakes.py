"""A cluster in memory: lists by selectors like the API server's, and seats that are bound as a scheduler would."""

from __future__ import annotations

import re
from typing import Any

from kube_cache import names
from kube_cache.kube.client import ApiError
from kube_cache.kube.nodes import NodeFacts
from kube_cache.kube.placement.placement import Placement
from kube_cache.kube.placement.selectors import Requirement, Selector, parse, parse_all
from kube_cache.kube.seat_labels import seat_labels

Json = dict[str, Any]
HOSTNAME, ZONE = "kubernetes.io/hostname", "zone"
SEATS = "seats"
_ITEM = re.compile(r"(!?)([^ ,()]+)(?: (in|notin) \(([^)]*)\))?")


def node(name: str, zone: str = "a", **labels: str) -> NodeFacts:
    return NodeFacts(name, {HOSTNAME: name, ZONE: zone, **labels})


def pod(name: str, spec: Json | None = None, *, node: str = "", gated: bool = True, **labels: str) -> Json:
    gates = {"schedulingGates": [{"name": names.GATE}]} if gated and not node else {}
    return {
        "metadata": {"namespace": "ml", "name": name, "uid": f"uid-{name}", "labels": {"app": "train", **labels}},
        "spec": {**gates, **({"nodeName": node} if node else {}), **(spec or {})},
        "status": {"phase": "Running" if node else "Pending"},
    }


def spread(key: str = HOSTNAME, **fields: Any) -> Json:
    constraint = {"topologyKey": key, "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": TRAIN}
    return {"topologySpreadConstraints": [{**constraint, **fields}]}


def required(kind: str, key: str = HOSTNAME, **fields: Any) -> Json:
    term = {"topologyKey": key, "labelSelector": TRAIN, **fields}
    return {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}


TRAIN: Json = {"matchLabels": {"app": "train"}}


class FakeCluster:
    """The part of `KubeClient` that placement uses."""

    def __init__(self, nodes: list[NodeFacts]) -> None:
        self.nodes = nodes
        self.pods: dict[str, Json] = {}
        self.seats: dict[str, Json] = {}
        self.namespaces: dict[str, dict[str, str]] = {"ml": {}}
        self.lists: list[tuple[str, str, str]] = []
        """Namespace, labelSelector and fieldSelector of each list of Pods."""
        self.second = 0
        self.placement = Placement(self, lambda: self.nodes)  # type: ignore[arg-type]

    def list_items(
        self,
        resource: str,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        allow_stale: bool = False,
    ) -> list[Json]:
        if resource == "namespaces":
            selector = _selector(label_selector)
            found = {name: labels for name, labels in self.namespaces.items() if selector.matches(labels)}
            return [{"metadata": {"name": name, "labels": labels}} for name, labels in found.items()]
        self.lists.append((namespace, label_selector, field_selector))
        every = [*self.pods.values(), *self.seats.values()]
        node = re.search(r"spec\.nodeName=([^,]+)", field_selector)
        return [
            item
            for item in every
            if namespace in ("", item["metadata"]["namespace"])
            and _selector(label_selector).matches(item["metadata"]["labels"])
            and (node is None or item["spec"].get("nodeName") == node[1])
            and item["status"].get("phase") not in ("Succeeded", "Failed")
        ]

    def get_pod(self, namespace: str, name: str) -> Json:
        if namespace != SEATS or name not in self.seats:
            raise ApiError(404, "NotFound", name)
        return self.seats[name]

    def request(self, method: str, path: str) -> Json:
        raise ApiError(404, "NotFound", path)

    def add(self, *pods: Json) -> None:
        self.pods |= {pod["metadata"]["name"]: pod for pod in pods}

    def seat(self, pod: Json, require: list[Json] | None = None, *, node: str = "") -> Json:
        """Make the Pod's seat; node: bound there at once."""
        meta = pod["metadata"]
        workflow_id = names.warm_pod_id(meta["namespace"], meta["name"], meta["uid"])
        made: Json = {
            "metadata": {
                "namespace": SEATS,
                "name": seat_name(pod),
                "uid": f"seat-{meta['uid']}",
                "labels": {**seat_labels(pod), names.SEAT_LABEL: "true"},
                "annotations": {names.SEAT_WORKFLOW_ANNOTATION: workflow_id},
            },
            "spec": {"require": require or []},
            "status": {"phase": "Pending"},
        }
        self.seats[seat_name(pod)] = made
        if node:
            self.bind(made, node)
        return made

    def bind(self, seat: Json, node: str) -> None:
        seat["spec"]["nodeName"] = node
        seat["status"]["conditions"] = [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": f"2026-01-01T00:{self.second:04}Z"}
        ]

    def feasible(self, seat: Json) -> list[str]:
        """Nodes that a scheduler would find for the seat, by its requirements and by its terms among seats."""
        others = [other for other in self.seats.values() if other is not seat and "nodeName" in other["spec"]]
        labels = {node.name: node.labels for node in self.nodes}
        affinity = seat["spec"].get("affinity", {})

        def domains(term: Json) -> set[str]:
            selector = parse(term["labelSelector"])
            return {
                labels[other["spec"]["nodeName"]][term["topologyKey"]]
                for other in others
                if selector.matches(other["metadata"]["labels"])
            }

        def fits(node: NodeFacts) -> bool:
            if not all(one.matches(node.labels) for one in parse_all(seat["spec"]["require"])):
                return False
            for term in _terms(affinity, "podAntiAffinity"):
                if node.labels[term["topologyKey"]] in domains(term):
                    return False
            for term in _terms(affinity, "podAffinity"):
                if domains(term) and node.labels[term["topologyKey"]] not in domains(term):
                    return False
            return True

        return [node.name for node in self.nodes if fits(node)]

    def release(self, pod: Json, node: str) -> None:
        """What our patch leaves: the gate gone, a receipt, no seat."""
        del pod["spec"]["schedulingGates"]
        pod["metadata"]["annotations"] = {names.NODE_ANNOTATION: node}
        del self.seats[seat_name(pod)]


def seat_name(pod: Json) -> str:
    return f"seat-of-{pod['metadata']['name']}"


def _terms(affinity: Json, kind: str) -> list[Json]:
    return list(affinity.get(kind, {}).get("requiredDuringSchedulingIgnoredDuringExecution", []))


def _selector(text: str) -> Selector:
    found = []
    for negation, key, operator, values in _ITEM.findall(text):
        kind = {"in": "In", "notin": "NotIn"}.get(operator) or ("DoesNotExist" if negation else "Exists")
        found.append(Requirement(key, kind, tuple(values.split(",")) if operator else ()))
    return Selector(tuple(found))
