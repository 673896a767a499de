"""What the cluster's admission made of a seat: a seat that asks for something else than its Pod proves nothing for it.

LimitRanges, webhooks and admission policies may change any Pod that is created. Compared is what the scheduler reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kube_cache.kube.client import Json
from kube_cache.kube.quantities import effective_requests, host_ports


def differences(asked: Json, stored: Json, *, is_new: bool = True) -> list[str]:
    """Name what differs between the seat that was asked for and the one that the server stored.

    is_new: False for a seat of an earlier request, whose affinity named what was to be avoided and preferred then.
    """
    return list(_differences(asked["spec"], stored["spec"], ("affinity",) if is_new else ()))


def added_gates(asked: Json, stored: Json) -> list[str]:
    """Names of gates that somebody put on the seat; with them it is never scheduled."""
    gates = {gate["name"] for gate in stored["spec"].get("schedulingGates") or []}
    return sorted(gates - {gate["name"] for gate in asked["spec"].get("schedulingGates") or []})


def _differences(asked: Json, stored: Json, more: Sequence[str]) -> Iterator[str]:
    before, after = effective_requests(asked), effective_requests(stored)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield f"{name} {before.get(name, '0')} became {after.get(name, '0')}"
    if host_ports(asked) != host_ports(stored):
        yield "host ports were changed"
    for field in ("nodeSelector", "topologySpreadConstraints", *more):
        if (asked.get(field) or {}) != (stored.get(field) or {}):
            yield f"{field} was changed"
    tolerated, tolerates = asked.get("tolerations") or [], stored.get("tolerations") or []
    if not (_cover(tolerated, tolerates) and _cover(tolerates, tolerated)):
        yield "tolerations were changed"
    for field, default in (("schedulerName", "default-scheduler"), ("runtimeClassName", "")):
        if (asked.get(field) or default) != (stored.get(field) or default):
            yield f"{field} was changed"


def _cover(some: list[Json], others: list[Json]) -> bool:
    """Whether each of the other tolerations is covered by one of these: admission drops and repeats covered ones."""
    return all(any(_covers(one, other) for one in some) for other in others)


def _covers(one: Json, other: Json) -> bool:
    if one.get("key") and one["key"] != other.get("key"):
        return False
    if one.get("effect") and one["effect"] != other.get("effect"):
        return False
    return one.get("operator") == "Exists" or _value(one) == _value(other)


def _value(toleration: Json) -> tuple[str, str]:
    return toleration.get("operator") or "Equal", toleration.get("value") or ""
