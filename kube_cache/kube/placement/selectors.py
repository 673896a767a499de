"""Label selectors as Kubernetes evaluates them, and as the text that selects objects of a list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kube_cache.kube.client import Json


@dataclass(frozen=True, slots=True)
class Requirement:
    key: str
    operator: str
    """`In`, `NotIn`, `Exists` or `DoesNotExist`; of nodes also `Gt` and `Lt`."""
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value is not None and value in self.values
            case "NotIn":
                return value is None or value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case "Gt" | "Lt":
                return value is not None and self._compare(value)
        return False

    def _compare(self, value: str) -> bool:
        try:
            mine, wanted = int(value), int(self.values[0])
        except (ValueError, IndexError):
            return False
        return mine > wanted if self.operator == "Gt" else mine < wanted

    def text(self) -> str:
        values = ",".join(sorted(self.values))
        match self.operator:
            case "In":
                return f"{self.key} in ({values})"
            case "NotIn":
                return f"{self.key} notin ({values})"
            case "Exists":
                return self.key
        return f"!{self.key}"


@dataclass(frozen=True, slots=True)
class Selector:
    requirements: tuple[Requirement, ...] = ()
    """All must match; with none of them every object matches."""
    nothing: bool = False
    """No object matches: there was no selector at all."""

    @property
    def is_empty(self) -> bool:
        """Whether every object matches."""
        return not self.requirements and not self.nothing

    def matches(self, labels: Mapping[str, str]) -> bool:
        return not self.nothing and all(requirement.matches(labels) for requirement in self.requirements)

    def text(self) -> str:
        """Return the `labelSelector` of a list. Meaningless for a selector of nothing."""
        return ",".join(sorted(requirement.text() for requirement in self.requirements))

    def also(self, labels: Mapping[str, str]) -> Selector:
        """Return the selector with these labels demanded, too."""
        if self.nothing:
            return self
        return Selector((*self.requirements, *(Requirement(key, "In", (value,)) for key, value in labels.items())))


def parse(selector: Json | None) -> Selector:
    """Parse a labelSelector. None, as in Kubernetes, matches nothing, and an empty one everything."""
    if selector is None:
        return Selector(nothing=True)
    labels = (selector.get("matchLabels") or {}).items()
    return Selector(
        (*(Requirement(key, "In", (value,)) for key, value in labels), *parse_all(selector.get("matchExpressions")))
    )


def parse_all(expressions: list[Json] | None) -> tuple[Requirement, ...]:
    return tuple(
        Requirement(expression["key"], expression["operator"], tuple(expression.get("values") or ()))
        for expression in expressions or []
    )
