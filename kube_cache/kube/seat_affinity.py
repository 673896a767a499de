"""Node affinity of a seat: what the Pod demands, what its volumes demand, and what was computed for it.

The terms of a required node affinity are ORed, so a further demand goes into every term. A term without any requirement
matches no node; with a demand of ours it would match nearly all, so it stays as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import product

from kube_cache.kube.client import Json

# The largest weight that `PreferredSchedulingTerm.weight` takes (1 to 100), so that the scheduler's own preferences
# (spreading, free capacity) do not outvote data that is there already.
PREFERENCE = 100
# Terms of one seat. Each is compared with each node; more than a few come only of several volumes with several terms.
MAX_TERMS = 64

_REQUIRED, _PREFERRED = (
    "requiredDuringSchedulingIgnoredDuringExecution",
    "preferredDuringSchedulingIgnoredDuringExecution",
)
_PARTS = ("matchExpressions", "matchFields")


def node_affinity(
    pod: Json,
    *,
    volumes: Sequence[Sequence[Json]] = (),
    require: Sequence[Json] = (),
    prefer_nodes: Sequence[str] = (),
    exclude_nodes: Sequence[str] = (),
    only_nodes: Sequence[str] = (),
) -> Json:
    """Compose the nodeAffinity of the seat; empty if every node will do.

    volumes: for each volume its alternative terms. require: match expressions that every node must fulfil. only_nodes:
    the seat may go to no other; empty = anywhere. Each of them multiplies the terms.
    """
    own: Json = copy.deepcopy(((pod["spec"].get("affinity") or {}).get("nodeAffinity")) or {})
    demand: Json = {}
    if require:
        demand["matchExpressions"] = [*copy.deepcopy(list(require))]
    if exclude_nodes:
        demand["matchFields"] = [named("NotIn", name) for name in exclude_nodes]
    factors = [list(alternatives) for alternatives in volumes]
    if demand:
        factors.append([demand])
    if only_nodes:
        factors.append([{"matchFields": [named("In", node)]} for node in only_nodes])
    terms: list[Json] = (own.get(_REQUIRED) or {}).get("nodeSelectorTerms") or []
    if terms:
        factors.insert(0, terms)
    if factors:
        own[_REQUIRED] = {"nodeSelectorTerms": [_conjunction(chosen) for chosen in product(*factors)]}
    if prefer_nodes:
        preferences = [{"weight": PREFERENCE, "preference": {"matchFields": [named("In", n)]}} for n in prefer_nodes]
        own[_PREFERRED] = [*(own.get(_PREFERRED) or []), *preferences]
    return own


def named(operator: str, node: str) -> Json:
    """Requirement on the node's name; one value, since `ValidateNodeFieldSelectorRequirement` admits no more."""
    return {"key": "metadata.name", "operator": operator, "values": [node]}


def count_terms(pod: Json, volumes: Sequence[Sequence[Json]]) -> int:
    """Number of terms that the seat would have."""
    affinity = ((pod["spec"].get("affinity") or {}).get("nodeAffinity")) or {}
    count = len((affinity.get(_REQUIRED) or {}).get("nodeSelectorTerms") or []) or 1
    for alternatives in volumes:
        count *= len(alternatives)
    return count


def _conjunction(terms: Sequence[Json]) -> Json:
    """Return the term that matches where all of these match; one that matches nowhere if one of them does."""
    if not all(any(term.get(part) for part in _PARTS) for term in terms):
        return {}
    joined = {part: [item for term in terms for item in term.get(part) or []] for part in _PARTS}
    return {part: items for part, items in joined.items() if items}
