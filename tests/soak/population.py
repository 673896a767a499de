"""The Pods of a soak: created with random options in several namespaces, ungated, annotated and deleted at random.

Every act may meet an API server that is killed or paused, and is then simply not done. Decides nothing about what
becomes of a Pod.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from kube_cache import names
from tests.soak.observer import AWAY
from tests.soak.origin import Origin
from tools.stack import nodes
from tools.stack import pods as kubernetes
from tools.stack.api import MERGE, Document, KubeApi
from tools.stack.pods import CONTAINER, Pods, gated

FOREIGN_GATES = ("queue.example.com/admission", "quota.example.com/check", "topology.example.com/assigned")
MISSING = "not-there"
"""A dataset that does not exist: its Pods wait for a person, and say so."""
_GPUS = (0, 0, 1, 1, 2, 4, 8)


class Population:
    """namespaces: of which the last is left alone by admission, so that all fields are written by hand."""

    def __init__(
        self,
        api: KubeApi,
        chance: random.Random,
        origin: Origin,
        *,
        namespaces: list[str],
        classes: list[str],
        nodes: list[str],
        target: int,
    ) -> None:
        self._api = api
        self._chance = chance
        self._origin = origin
        self._namespaces = namespaces
        self._classes = classes
        self._nodes = nodes
        self._target = target
        self._number = 0
        self.acts: Counter[str] = Counter()
        self.living: list[Document] = []
        """As of the last list that was answered."""

    def act(self) -> None:
        """Do one thing to the Pods, or to the datasets."""
        try:
            self.living = self.pods()
            self._choose()()
        except AWAY:
            self.acts["refused"] += 1
        except Exception as error:  # boto's errors have no base that is worth an import
            if not type(error).__module__.startswith("botocore"):
                raise
            self.acts["refused"] += 1

    def pods(self) -> list[Document]:
        found = []
        for namespace in self._namespaces:
            found += self._api.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
        return [pod for pod in found if names.DATASET_ANNOTATION in pod["metadata"].get("annotations", {})]

    def calm(self) -> None:
        """Take back half of the foreign gates."""
        for pod in self.pods():
            if _foreign(pod) and self._chance.random() < 0.5:
                for gate in _foreign(pod):
                    self._remove_gate(pod, gate)

    def resume(self) -> None:
        """Take back what holds Pods by a person's will, and is told on them by now."""
        for pod in self.pods():
            reason = kubernetes.condition(pod).get("reason")
            if reason in {"Paused", "Cancelled"}:
                self._annotate(pod, names.ACTION_ANNOTATION, "resume" if reason == "Paused" else "retry")

    def delete_all(self) -> None:
        for pod in self.pods():
            self._delete(pod)

    def _choose(self) -> Callable[[], None]:
        shortage = self._target - len(self.living)
        acts: list[tuple[float, Callable[[], None]]] = [
            (max(0.5, shortage), self._create),
            (max(1.0, -2.0 * shortage), self._delete_one),
            (1.5, self._ungate),
            (0.6, self._publish),
            (0.4, self._command),
            (0.2, self._tighten),
        ]
        (act,) = self._chance.choices([act for _, act in acts], [weight for weight, _ in acts])
        return act

    # Creation.

    def _create(self) -> None:
        (make,) = self._chance.choices(
            [self._create_plain, self._create_by_annotation, self._create_group, self._create_hopeless], [12, 3, 2, 0.5]
        )
        make()

    def _create_plain(self) -> None:
        count = self._chance.choice((1, 1, 1, 2))
        uris = [self._origin.uri(name) for name in self._chance.sample(self._origin.names, count)]
        gates = [names.GATE]
        if self._chance.random() < 0.25:
            gates += self._chance.sample(FOREIGN_GATES, self._chance.randint(1, 3))
            self._chance.shuffle(gates)
        self._post(",".join(uris), gates=gates, annotations=self._options(), spec=self._spec())

    def _create_by_annotation(self) -> None:
        """Create a Pod whose owner knows of nothing but the annotation; admission writes the rest."""
        limits = {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": "1"}
        spec = {"tolerations": [nodes.TOLERATION], "terminationGracePeriodSeconds": 0}
        document: Document = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self._name(),
                "annotations": {names.DATASET_ANNOTATION: self._origin.uri(self._chance.choice(self._origin.names))},
            },
            "spec": {**spec, "containers": [{**CONTAINER, "resources": {"limits": limits}}]},
        }
        self._count(Pods(self._api, self._chance.choice(self._namespaces[:-1])).create(document))

    def _create_group(self) -> None:
        size = self._chance.choice((2, 3))
        group = {names.GROUP_ANNOTATION: f"group-{self._number}", names.GROUP_SIZE_ANNOTATION: str(size)}
        namespace, uri = (
            self._chance.choice(self._namespaces),
            self._origin.uri(self._chance.choice(self._origin.names)),
        )
        for _ in range(size):
            self._post(uri, annotations=group, namespace=namespace, gpus=self._chance.choice((0, 1)))
        self.acts["groups"] += 1

    def _create_hopeless(self) -> None:
        self._post(self._origin.uri(MISSING))

    def _options(self) -> dict[str, str]:
        options = {}
        if self._chance.random() < 0.2:
            options[names.VERIFY_ANNOTATION] = "full"
        if self._chance.random() < 0.2:
            options[names.PRIORITY_ANNOTATION] = str(self._chance.randint(-10, 10))
        if self._chance.random() < 0.05:
            options |= {names.MAX_GATE_TIME_ANNOTATION: "20s", names.ON_TIMEOUT_ANNOTATION: "release"}
        if self._chance.random() < 0.05:
            options[names.ACTION_ANNOTATION] = "pause"
        return options

    def _spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = {}
        if self._chance.random() < 0.5:
            spec["priorityClassName"] = self._chance.choice(self._classes)
        if self._chance.random() < 0.15:
            spec["nodeSelector"] = {"kubernetes.io/hostname": self._chance.choice(self._nodes)}
        return spec

    def _post(self, dataset: str, *, namespace: str = "", gpus: int | None = None, **options: Any) -> None:
        needed = self._chance.choice(_GPUS) if gpus is None else gpus
        document = gated(self._name(), dataset, gpus=needed, **options)
        self._count(Pods(self._api, namespace or self._chance.choice(self._namespaces)).create(document))

    def _name(self) -> str:
        self._number += 1
        return f"pod-{self._number}"

    def _count(self, pod: Document) -> None:
        self.acts["created"] += 1
        if _foreign(pod):
            self.acts["with foreign gates"] += 1

    # Changes.

    def _delete_one(self) -> None:
        if self.living:
            self._delete(self._chance.choice(self.living))

    def _delete(self, pod: Document) -> None:
        Pods(self._api, pod["metadata"]["namespace"]).delete(pod["metadata"]["name"])
        self.acts["deleted"] += 1

    def _ungate(self) -> None:
        held = [pod for pod in self.living if _foreign(pod)]
        if held:
            pod = self._chance.choice(held)
            self._remove_gate(pod, self._chance.choice(_foreign(pod)))

    def _remove_gate(self, pod: Document, gate: str) -> None:
        Pods(self._api, pod["metadata"]["namespace"]).remove_gate(pod["metadata"]["name"], gate)
        self.acts["foreign gates removed"] += 1

    def _publish(self) -> None:
        self.acts[f"revisions {self._origin.publish()}"] += 1

    def _command(self) -> None:
        gated_pods = [pod for pod in self.living if names.GATE in kubernetes.gates(pod)]
        if gated_pods:
            pod = self._chance.choice(gated_pods)
            reason = kubernetes.condition(pod).get("reason")
            action = {"Paused": "resume", "Cancelled": "retry"}.get(str(reason)) or self._chance.choice(
                ("pause", "retry")
            )
            self._annotate(pod, names.ACTION_ANNOTATION, action)
            self.acts["commands"] += 1

    def _tighten(self) -> None:
        """Add a node selector to a gated Pod that has none, as a queue does."""
        free = [pod for pod in self.living if kubernetes.gates(pod) and "nodeSelector" not in pod["spec"]]
        if free:
            selector = {"kubernetes.io/hostname": self._chance.choice(self._nodes)}
            self._patch(self._chance.choice(free), {"spec": {"nodeSelector": selector}})
            self.acts["tightened"] += 1

    def _annotate(self, pod: Document, key: str, value: str) -> None:
        self._patch(pod, {"metadata": {"annotations": {key: value}}})

    def _patch(self, pod: Document, body: Document) -> None:
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        self._api.request("PATCH", path, body, content_type=MERGE)


def _foreign(pod: Document) -> list[str]:
    return [gate for gate in kubernetes.gates(pod) if gate != names.GATE]
