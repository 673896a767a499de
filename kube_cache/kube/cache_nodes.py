"""Which nodes have a cache: those with the labels by which the agents' DaemonSet selects them.

A seat asks for these labels beside what its Pod asks for, or the scheduler would choose nodes without an agent, from
which the Pod goes elsewhere after a while, and an autoscaler would make such nodes.
"""

from __future__ import annotations

from collections.abc import Mapping

from kube_cache.kube.client import Json


def parse_selector(text: str) -> dict[str, str]:
    """Read `key=value,key=value`. Raises ValueError."""
    selector: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if not (key and equals):
            raise ValueError(f"{part!r} is no label; write key=value, with commas between several")
        selector[key] = value
    return selector


def restrict(pod: Json, selector: Mapping[str, str]) -> Json:
    """Return the Pod as it would be with the selector's labels; what the Pod itself says of a label counts."""
    if not selector:
        return pod
    spec = pod["spec"]
    return {**pod, "spec": {**spec, "nodeSelector": {**selector, **(spec.get("nodeSelector") or {})}}}
