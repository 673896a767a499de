"""Node affinity of a seat: every demand is in every term, and a term that matches nothing goes on matching nothing."""

from __future__ import annotations

from typing import Any

from kube_cache.kube.seat_affinity import named, node_affinity

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def zone(*values: str) -> dict[str, Any]:
    return {"key": "zone", "operator": "In", "values": list(values)}


def pod(*terms: dict[str, Any]) -> dict[str, Any]:
    return {"spec": {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": list(terms)}}}}}


def terms(affinity: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = affinity[REQUIRED]["nodeSelectorTerms"]
    return found


def test_a_term_that_matches_no_node_still_matches_none_beside_demands() -> None:
    made = node_affinity(pod({}, {"matchExpressions": [zone("a")]}), exclude_nodes=["n"], require=[zone("b")])
    assert terms(made) == [
        {},
        {"matchExpressions": [zone("a"), zone("b")], "matchFields": [named("NotIn", "n")]},
    ]


def test_a_pod_without_terms_gets_one() -> None:
    assert terms(node_affinity({"spec": {}}, exclude_nodes=["n"])) == [{"matchFields": [named("NotIn", "n")]}]


def test_a_pod_that_demands_nothing_has_a_seat_that_demands_nothing() -> None:
    assert node_affinity({"spec": {}}) == {}


def test_each_alternative_of_a_volume_is_joined_with_each_term() -> None:
    volume = [{"matchExpressions": [zone("x")]}, {"matchExpressions": [zone("y")]}]
    made = node_affinity(pod({"matchExpressions": [zone("a")]}, {"matchExpressions": [zone("b")]}), volumes=[volume])
    assert [[e["values"][0] for e in term["matchExpressions"]] for term in terms(made)] == [
        ["a", "x"],
        ["a", "y"],
        ["b", "x"],
        ["b", "y"],
    ]


def test_each_node_that_a_seat_may_go_to_is_joined_with_each_term() -> None:
    own = pod({"matchExpressions": [zone("a")]}, {}, {"matchFields": [named("NotIn", "m")]})
    assert terms(node_affinity(own, only_nodes=["n", "o"], require=[zone("b")])) == [
        {"matchExpressions": [zone("a"), zone("b")], "matchFields": [named("In", "n")]},
        {"matchExpressions": [zone("a"), zone("b")], "matchFields": [named("In", "o")]},
        {},
        {},
        {"matchExpressions": [zone("b")], "matchFields": [named("NotIn", "m"), named("In", "n")]},
        {"matchExpressions": [zone("b")], "matchFields": [named("NotIn", "m"), named("In", "o")]},
    ]


def test_the_pods_own_object_stays_as_it_was() -> None:
    before = pod({"matchExpressions": [zone("a")]})
    node_affinity(before, require=[zone("b")], prefer_nodes=["n"])
    assert before == pod({"matchExpressions": [zone("a")]})
