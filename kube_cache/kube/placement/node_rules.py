"""Which nodes a Pod's own node selector, required node affinity and tolerations admit.

Source: kube-scheduler's nodeaffinity helper and `FindMatchingUntoleratedTaint`. Resources are not looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from kube_cache.kube.client import Json
from kube_cache.kube.nodes import NodeFacts, Taint
from kube_cache.kube.placement.selectors import Requirement, parse_all

_REPELLING = ("NoSchedule", "NoExecute")
_NAME_FIELD = "metadata.name"


class NodeRules:
    def __init__(self, pod: Json) -> None:
        self._spec = pod["spec"]

    def admits(self, node: NodeFacts) -> bool:
        """Whether the node selector and the required node affinity match the node."""
        if not all(node.labels.get(key) == value for key, value in self._node_selector.items()):
            return False
        return self._terms is None or any(
            all(requirement.matches(node.labels) for requirement in labels)
            and all(requirement.matches({_NAME_FIELD: node.name}) for requirement in fields)
            for labels, fields in self._terms
        )

    def tolerates(self, node: NodeFacts) -> bool:
        """Whether the Pod tolerates each taint that keeps Pods away."""
        return all(
            any(tolerates(taint) for tolerates in self._tolerations)
            for taint in node.taints
            if taint.effect in _REPELLING
        )

    @cached_property
    def _node_selector(self) -> dict[str, str]:
        return self._spec.get("nodeSelector") or {}

    @cached_property
    def _terms(self) -> list[tuple[tuple[Requirement, ...], tuple[Requirement, ...]]] | None:
        """Alternatives, each of requirements of labels and of fields. None: every node will do."""
        affinity = (self._spec.get("affinity") or {}).get("nodeAffinity") or {}
        required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
        if required is None:
            return None
        return [
            (parse_all(term.get("matchExpressions")), parse_all(term.get("matchFields")))
            for term in required.get("nodeSelectorTerms") or []
            if term.get("matchExpressions") or term.get("matchFields")  # an empty term matches no node
        ]

    @cached_property
    def _tolerations(self) -> list[Callable[[Taint], bool]]:
        return [_tolerates(toleration) for toleration in self._spec.get("tolerations") or []]


def _tolerates(toleration: Json) -> Callable[[Taint], bool]:
    effect, key = toleration.get("effect") or "", toleration.get("key") or ""
    operator, value = toleration.get("operator") or "Equal", toleration.get("value") or ""

    def tolerates(taint: Taint) -> bool:
        if (effect and effect != taint.effect) or (key and key != taint.key):
            return False
        return operator == "Exists" or (operator == "Equal" and value == taint.value)

    return tolerates
