"""Generated nodes, peers and Pods, in which each rule about Pods among Pods has something to say."""

from __future__ import annotations

from random import Random
from typing import Any

Json = dict[str, Any]
HOSTNAME = "kubernetes.io/hostname"
CONTAINER = {"name": "c", "image": "registry.example/train:1"}
TAINT = {"key": "odd", "value": "yes", "effect": "NoSchedule"}
TEAMS = ("red", "blue")
"""Labels of a world's two namespaces."""


class World:
    """A set of nodes and two namespaces that nothing outside them counts: keys and labels bear its number."""

    def __init__(self, number: int, seed: int) -> None:
        self.number = number
        self.random = Random(seed)
        self.namespaces = [f"oracle-{number}-{team}" for team in TEAMS]
        self.keys = [f"w{number}.example/zone", f"w{number}.example/rack", HOSTNAME]
        self._even = False
        self.nodes = [self._node(index) for index in range(self.random.randint(4, 6))]

    def _chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def _node(self, index: int) -> Json:
        name = f"w{self.number}-{index}"
        labels = {"pool": f"w{self.number}", "size": str(index)}
        if self._chance(0.85):
            labels[self.keys[0]] = self.random.choice("abc")
        if self._chance(0.85):
            labels[self.keys[1]] = self.random.choice("1234")
        if self._chance(0.9):
            labels[HOSTNAME] = name
        capacity = {"cpu": "100", "memory": "1Ti", "pods": "500"}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "annotations": {"kwok.x-k8s.io/node": "fake"}, "labels": labels},
            "spec": {"taints": [TAINT]} if self._chance(0.25) else {},
            "status": {"capacity": capacity, "allocatable": capacity},
        }

    def peers(self) -> list[Json]:
        """Pods that are bound already; their annotation says whether they run, end or are being deleted."""
        self._even = self._chance(0.15)
        if self._even:
            return [self._bound(index, node, "runs") for index, node in enumerate(self.nodes)]
        return [self._peer(index) for index in range(self.random.choice([0, 0, 1, 2, 3, 4, 6, 8]))]

    def _peer(self, index: int) -> Json:
        fate = self.random.choice(["runs"] * 8 + ["ends", "terminates"])
        peer = self._bound(index, self.random.choice(self.nodes), fate)
        peer["metadata"]["namespace"] = self.random.choice(self.namespaces)
        if self._chance(0.35):
            terms = [self._term() for _ in range(self.random.randint(1, 2))]
            peer["spec"]["affinity"] = {"podAntiAffinity": _required(terms)}
        return peer

    def _bound(self, index: int, node: Json, fate: str) -> Json:
        spec = {"nodeName": node["metadata"]["name"], "containers": [CONTAINER]}
        return self._pod(f"peer-{index}", self.namespaces[0], spec, fate=fate)

    def pod(self, name: str) -> Json:
        """A Pod whose places are in question, in the first namespace."""
        spec: Json = {"nodeSelector": {"pool": f"w{self.number}"}, "containers": [CONTAINER]}
        if self._chance(0.5):
            spec["tolerations"] = [{"key": "odd", "operator": self.random.choice(["Exists", "Equal"]), "value": ""}]
            if spec["tolerations"][0]["operator"] == "Equal":
                spec["tolerations"][0]["value"] = self.random.choice(["yes", "no"])
        affinity: Json = {}
        if self._chance(0.25):
            affinity["nodeAffinity"] = _required_nodes(self._node_terms())
        if self._even and self._chance(0.5):
            return self._pod(name, self.namespaces[0], {**spec, "topologySpreadConstraints": [self._full_spread()]})
        kinds = self.random.choice(["spread", "spread", "affinity", "affinity", "anti", "anti", "all", "none"])
        if kinds in ("spread", "all"):
            spec["topologySpreadConstraints"] = self._spreads()
        if kinds in ("affinity", "all"):
            affinity["podAffinity"] = _required([self._term() for _ in range(self.random.choice([1, 1, 2]))])
        if kinds in ("anti", "all"):
            affinity["podAntiAffinity"] = _required([self._term() for _ in range(self.random.choice([1, 1, 2]))])
        if affinity:
            spec["affinity"] = affinity
        return self._pod(name, self.namespaces[0], spec)

    def _pod(self, name: str, namespace: str, spec: Json, **annotations: str) -> Json:
        labels = {"world": str(self.number), "app": self.random.choice("xy"), "tier": self.random.choice("12")}
        if self._chance(0.5):
            labels["hash"] = self.random.choice("pq")
        meta = {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}

    def _selector(self) -> Json | None:
        world = {"world": str(self.number)}
        return self.random.choice(
            [
                {"matchLabels": {**world, "app": self.random.choice("xy")}},
                {"matchLabels": {**world, "app": self.random.choice("xy")}},
                {"matchLabels": {**world, "tier": self.random.choice("12"), "app": self.random.choice("xy")}},
                {"matchLabels": world, "matchExpressions": [self._expression()]},
                {"matchLabels": world},
                None,
            ]
        )

    def _expression(self) -> Json:
        return self.random.choice(
            [
                {"key": "hash", "operator": "Exists"},
                {"key": "hash", "operator": "DoesNotExist"},
                {"key": "tier", "operator": "In", "values": ["1", "3"]},
                {"key": "tier", "operator": "NotIn", "values": ["2"]},
                {"key": "hash", "operator": "NotIn", "values": ["p"]},
            ]
        )

    def _term(self) -> Json:
        term: Json = {"topologyKey": self.random.choice(self.keys)}
        if (selector := self._selector()) is not None:
            term["labelSelector"] = selector
            if self._chance(0.2) and not _names_hash(selector):
                term[self.random.choice(["matchLabelKeys", "mismatchLabelKeys"])] = ["hash"]
        where = self.random.choice(["own", "own", "own", "named", "selected", "all"])
        if where == "named":
            term["namespaces"] = self.random.choice([self.namespaces, self.namespaces[1:]])
        if where == "selected":
            # The other namespaces of the API server have no team.
            team = {"matchLabels": {"team": self.random.choice([*TEAMS, "green"])}}
            term["namespaceSelector"] = team
            if self._chance(0.3):
                term["namespaces"] = self.namespaces[:1]
        if where == "all":
            term["namespaceSelector"] = {}
        return term

    def _spreads(self) -> list[Json]:
        """At most one for each key, as the API server demands."""
        return [self._spread(key) for key in self.random.sample(self.keys, self.random.choice([1, 1, 2]))]

    def _full_spread(self) -> Json:
        """A spread over nodes of which each has one: one more is allowed, but not to a Pod that is pinned."""
        return {
            "topologyKey": HOSTNAME,
            "maxSkew": 1,
            "minDomains": 2,
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"world": str(self.number)}},
        }

    def _spread(self, key: str) -> Json:
        spread: Json = {
            "topologyKey": key,
            "maxSkew": self.random.choice([1, 1, 1, 2]),
            "whenUnsatisfiable": "DoNotSchedule",
        }
        selector = self._selector() if self._chance(0.9) else {}
        if selector is not None:
            spread["labelSelector"] = selector
            if self._chance(0.3) and not _names_hash(selector):
                spread["matchLabelKeys"] = ["hash"]
        if self._chance(0.4):
            spread["minDomains"] = self.random.randint(1, 5)
        for policy in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
            if self._chance(0.5):
                spread[policy] = self.random.choice(["Honor", "Ignore"])
        return spread

    def _node_terms(self) -> list[Json]:
        choices: list[Json] = [
            {"matchExpressions": [{"key": self.keys[0], "operator": "In", "values": ["a", "b"]}]},
            {"matchExpressions": [{"key": self.keys[1], "operator": "NotIn", "values": ["1"]}]},
            {"matchExpressions": [{"key": "size", "operator": "Gt", "values": ["1"]}]},
            {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": [f"w{self.number}-0"]}]},
        ]
        return self.random.sample(choices, self.random.choice([1, 1, 2]))


def pinned(pod: Json, node: str) -> Json:
    """The Pod as our release leaves it: tied to the node by each of its required terms."""
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    affinity = pod["spec"].get("affinity") or {}
    required = (affinity.get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = [
        {**term, "matchFields": [*(term.get("matchFields") or []), field]}
        for term in required.get("nodeSelectorTerms") or [{}]
    ]
    return {**pod, "spec": {**pod["spec"], "affinity": {**affinity, "nodeAffinity": _required_nodes(terms)}}}


def _names_hash(selector: Json) -> bool:
    """The API server refuses `matchLabelKeys` of a key that the selector holds."""
    return any(expression["key"] == "hash" for expression in selector.get("matchExpressions", []))


def _required(terms: list[Json]) -> Json:
    return {"requiredDuringSchedulingIgnoredDuringExecution": terms}


def _required_nodes(terms: list[Json]) -> Json:
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
