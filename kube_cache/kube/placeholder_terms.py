"""What a placeholder Pod asks for, read from the owner's settings: no Pod exists yet from which it could be copied."""

from __future__ import annotations

from typing import Final

from kube_cache.kube.client import Json
from kube_cache.kube.quantities import parse as parse_quantity

_EFFECTS: Final = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def parse_resources(text: str) -> dict[str, str]:
    """Read `resource=quantity,resource=quantity`. Raises ValueError."""
    resources: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, quantity = part.partition("=")
        try:
            is_positive = bool(name and equals) and parse_quantity(quantity) > 0
        except (ValueError, ArithmeticError):
            is_positive = False
        if not is_positive:
            raise ValueError(
                f"{part!r} is no request of a placeholder Pod; write what one Pod of the rush asks for, like"
                " nvidia.com/gpu=8,cpu=32,memory=256Gi"
            )
        resources[name] = quantity
    return resources


def parse_tolerations(text: str) -> list[Json]:
    """Read `key`, `key=value`, `key:Effect` or `key=value:Effect`, with commas between several. Raises ValueError."""
    tolerations: list[Json] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        taint, colon, effect = part.partition(":")
        key, equals, value = taint.partition("=")
        if not key or (colon and effect not in _EFFECTS):
            raise ValueError(
                f"{part!r} is no toleration of a placeholder Pod; write key, key=value or key=value:Effect, where Effect"
                f" is one of {', '.join(_EFFECTS)}"
            )
        found: Json = {"key": key, "operator": "Equal" if equals else "Exists"}
        if equals:
            found["value"] = value
        if colon:
            found["effect"] = effect
        tolerations.append(found)
    return tolerations
