"""What the scheduler can enforce for a seat by itself: (anti-)affinity terms to other seats, in translated labels.

With them seats that are asked for at once are told apart by the scheduler, which decides for one after the other. Real
Pods are in the requirements of the seat's node, except those that exclude single nodes: these a term excludes as well
(`apart`), and Karpenter adds a node for a seat with terms, but none for one that requires anything of a host name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from kube_cache import names
from kube_cache.kube.client import Json
from kube_cache.kube.placement.constraints import HOSTNAME, Constraints, Term

REQUIRE_ANNOTATION = f"{names.DOMAIN}/peers"
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_DIGITS = 16


def apart(constraints: Constraints, *, is_last_resort: bool) -> list[Term]:
    """Return what keeps the Pod off single nodes by its peers there.

    is_last_resort: no node that there is can take the Pod, so that one without any peer, which a spread would not ask
    for, is the only kind that is left.
    """
    terms = [term for term in constraints.anti_affinity if term.key == HOSTNAME]
    if is_last_resort:
        spreads = [spread for spread in constraints.spreads if spread.key == HOSTNAME]
        terms += [Term(spread.key, spread.peers) for spread in spreads if not spread.peers.pods.is_empty]
    return terms


def add(seat: Json, constraints: Constraints, require: Sequence[Json], *, join: bool, is_last_resort: bool) -> Json:
    """Write the terms, and a fingerprint of what is asked for, into a seat; return it. is_last_resort: see `apart`.

    join: no real Pod fulfils the Pod's affinity, so that its seat must be the first, or join seats.
    """
    affinity: Json = seat["spec"].setdefault("affinity", {})
    alone = apart(constraints, is_last_resort=is_last_resort)
    among_seats = [*constraints.anti_affinity, *(term for term in alone if term not in constraints.anti_affinity)]
    if terms := [*_among_seats(among_seats), *_among_pods(alone)]:
        affinity.setdefault("podAntiAffinity", {})[_REQUIRED] = terms
    if join and (terms := _among_seats(constraints.affinity)):
        affinity.setdefault("podAffinity", {})[_REQUIRED] = terms
    if not affinity:
        del seat["spec"]["affinity"]
    written = fingerprint(constraints, require, is_last_resort=is_last_resort)
    seat["metadata"].setdefault("annotations", {})[REQUIRE_ANNOTATION] = written
    return seat


def fingerprint(constraints: Constraints, require: Sequence[Json], *, is_last_resort: bool) -> str:
    asked = [*require, *_among_pods(apart(constraints, is_last_resort=is_last_resort))]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def _among_seats(terms: Sequence[Term]) -> list[Json]:
    """A term without a selector means no Pod: it repels nobody, and an affinity with it is never fulfilled."""
    return [{"topologyKey": term.key, "labelSelector": term.peers.seat_json} for term in terms if term.peers.seat_json]


def _among_pods(terms: Sequence[Term]) -> list[Json]:
    return [
        {
            "topologyKey": term.key,
            "labelSelector": term.peers.pod_json,
            **(
                {"namespaceSelector": {}} if (among := term.peers.namespaces) is None else {"namespaces": sorted(among)}
            ),
        }
        for term in terms
        if term.peers.pod_json is not None
    ]
