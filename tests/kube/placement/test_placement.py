"""What a Pod's peers demand of its node: before its seat, after it was bound, and before the release."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from kube_cache.errors import NodeUnfit, PeersFirst, PlacementRaced
from kube_cache.kube.placement import constraints
from kube_cache.kube.placement.evaluation import Evaluation
from kube_cache.kube.placement.peers import Peer
from kube_cache.kube.placement.placement import Plan
from tests.kube.placement.fakes import (
    HOSTNAME,
    SEATS,
    ZONE,
    FakeCluster,
    node,
    pod,
    required,
    seat_name,
    spread,
)

Json = dict[str, Any]


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster([node("n1", "a"), node("n2", "b"), node("n3", "b")])


def plan(cluster: FakeCluster, made: Json) -> Plan:
    found = cluster.placement.plan(made, SEATS, [])
    assert found is not None
    return found


def demands(cluster: FakeCluster, made: Json) -> dict[tuple[str, str], list[str]]:
    return {(one["key"], one["operator"]): one.get("values", []) for one in plan(cluster, made).require}


def repelled_by(cluster: FakeCluster, made: Json) -> list[Json]:
    """The terms by which the seat keeps from Pods, not from seats, on its node."""
    seat = plan(cluster, made).complete({"metadata": {}, "spec": {}})
    terms = seat["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return [term for term in terms if "namespaces" in term or "namespaceSelector" in term]


def check(cluster: FakeCluster, made: Json, where: str) -> None:
    cluster.placement.check_bound(made, where, SEATS, seat_name(made))


def check_release(cluster: FakeCluster, made: Json, where: str) -> bool:
    return cluster.placement.check_release(made, where, SEATS, seat_name(made))


def test_for_a_pod_without_hard_constraints_nothing_is_listed(cluster: FakeCluster) -> None:
    soft = {**spread(whenUnsatisfiable="ScheduleAnyway"), "affinity": {"podAntiAffinity": {}}}
    assert cluster.placement.plan(pod("one", soft), SEATS, []) is None
    check(cluster, pod("one", soft), "n1")
    assert check_release(cluster, pod("one", soft), "n1") is False
    assert cluster.lists == []


def test_a_seat_keeps_from_the_domains_that_are_full_and_may_go_to_new_ones(cluster: FakeCluster) -> None:
    cluster.add(pod("running", node="n1"))
    assert demands(cluster, pod("one", spread())) == {(HOSTNAME, "NotIn"): ["n1"]}
    assert demands(cluster, pod("one", spread(ZONE))) == {(ZONE, "Exists"): [], (ZONE, "NotIn"): ["a"]}


def test_no_seat_names_the_nodes_that_anti_affinity_excludes_so_that_karpenter_adds_one(cluster: FakeCluster) -> None:
    """Karpenter adds no node for a Pod that requires anything of a host name, and obeys terms."""
    alone = pod("one", required("podAntiAffinity"))
    cluster.add(pod("running", node="n1"))
    assert demands(cluster, alone) == {}
    (term,) = repelled_by(cluster, alone)
    written = alone["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]
    assert term == {**written, "namespaces": ["ml"]}


def test_where_a_spread_leaves_no_node_a_seat_names_none_and_asks_for_one_without_peers(cluster: FakeCluster) -> None:
    spec = spread(minDomains=4)
    cluster.add(*(pod(f"running-{name}", node=name) for name in ("n1", "n2")))
    partly = plan(cluster, pod("one", spec))
    assert [one["values"] for one in partly.require] == [["n1", "n2"]]
    cluster.add(pod("running-n3", node="n3"))
    full = plan(cluster, pod("one", spec))
    assert full.nowhere
    assert full.require == []
    (term,) = repelled_by(cluster, pod("one", spec))
    assert term["labelSelector"]["matchLabels"] == {"app": "train"}
    seat = full.complete({"metadata": {}, "spec": {}})
    assert full.is_of(seat)
    cluster.pods.clear()
    assert not plan(cluster, pod("one", spec)).is_of(seat), "it would keep from nodes that the spread allows by now"


def test_seats_of_peers_count_like_the_peers_that_they_stand_for(cluster: FakeCluster) -> None:
    cluster.seat(pod("gated"), node="n2")
    assert demands(cluster, pod("one", spread()))[HOSTNAME, "NotIn"] == ["n2"]
    assert demands(cluster, pod("one", required("podAntiAffinity", ZONE))) == {(ZONE, "NotIn"): ["b"]}
    assert demands(cluster, pod("one", required("podAffinity", ZONE))) == {(ZONE, "In"): ["b"]}
    cluster.seat({**pod("stranger"), "metadata": {**pod("stranger")["metadata"], "namespace": "web"}}, node="n3")
    assert demands(cluster, pod("one", required("podAntiAffinity", ZONE))) == {(ZONE, "NotIn"): ["b"]}


def test_a_pod_that_is_handed_over_is_counted_once(cluster: FakeCluster) -> None:
    peer = pod("peer")
    cluster.add(peer)
    cluster.seat(peer, node="n1")
    peer["status"]["nominatedNodeName"] = "n1"
    assert demands(cluster, pod("one", spread(maxSkew=2))) == {}
    del cluster.seats[seat_name(peer)]
    assert demands(cluster, pod("one", spread()))[HOSTNAME, "NotIn"] == ["n1"]
    cluster.seat(peer)
    cluster.release(peer, "n1")
    assert demands(cluster, pod("one", spread()))[HOSTNAME, "NotIn"] == ["n1"]


def test_a_pod_that_is_being_deleted_still_repels_but_is_not_counted_by_a_spread(cluster: FakeCluster) -> None:
    leaving = pod("leaving", node="n1")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    cluster.add(leaving)
    assert demands(cluster, pod("one", spread())) == {}
    assert demands(cluster, pod("one", required("podAntiAffinity", ZONE))) == {(ZONE, "NotIn"): ["a"]}


def test_the_first_of_a_group_may_go_anywhere_and_the_next_join_it(cluster: FakeCluster) -> None:
    together = required("podAffinity", ZONE)
    first = plan(cluster, pod("first", together))
    assert first.require == [{"key": ZONE, "operator": "Exists"}]
    assert first.join
    cluster.add(pod("running", node="n2"))
    second = plan(cluster, pod("second", together))
    assert second.require == [{"key": ZONE, "operator": "In", "values": ["b"]}]
    assert not second.join


def test_a_pod_whose_friend_is_nowhere_gets_no_seat_but_words(cluster: FakeCluster) -> None:
    lonely = required("podAffinity", ZONE, labelSelector={"matchLabels": {"app": "database"}})
    assert "no Pod that the Pod's affinity requires" in plan(cluster, pod("one", lonely)).impossible


def test_a_pod_for_which_only_a_new_node_would_do_is_said_to_have_none(cluster: FakeCluster) -> None:
    cluster.add(*(pod(f"p{name}", node=name) for name in ("n1", "n2", "n3")))
    found = plan(cluster, pod("one", required("podAntiAffinity")))
    assert found.impossible == ""
    assert found.nowhere.startswith("the Pod's peers leave it none of 3 nodes; on 1 of these a Pod")


def test_many_values_are_cut_and_those_near_the_data_are_kept() -> None:
    cluster = FakeCluster([node(f"n{number}") for number in range(2000)])
    cluster.add(*(pod(f"p{number}", node=f"n{number}") for number in range(900)))
    found = cluster.placement.plan(pod("one", spread()), SEATS, ["n3", "n1234", "n1999"])
    assert found is not None
    (only,) = found.require
    assert only["operator"] == "In"
    assert len(only["values"]) == 500
    assert {"n1234", "n1999"} <= set(only["values"])
    assert not {f"n{number}" for number in range(900)} & set(only["values"])


def test_seats_repel_each_other_by_terms_of_the_schedulers_own(cluster: FakeCluster) -> None:
    first, second = pod("first", required("podAntiAffinity", ZONE)), pod("second", required("podAntiAffinity", ZONE))
    seats = [plan(cluster, one).complete(cluster.seat(one)) for one in (first, second)]
    cluster.bind(seats[0], "n2")
    assert cluster.feasible(seats[1]) == ["n1"]


@pytest.mark.parametrize("uid_order", [False, True])
def test_of_two_seats_that_raced_exactly_one_gives_way(cluster: FakeCluster, uid_order: bool) -> None:
    """Both were bound within one second, so that only the uid tells them apart."""
    one, two = pod("one", spread()), pod("two", spread())
    for first in (one, two) if uid_order else (two, one):
        cluster.seat(first, node="n1")
    check(cluster, one, "n1")
    with pytest.raises(PlacementRaced, match=r"kubernetes\.io/hostname=n1 holds 1 of the Pod's peers"):
        check(cluster, two, "n1")


def test_the_seat_that_was_bound_first_stays_whatever_its_name(cluster: FakeCluster) -> None:
    one, two = pod("one", spread()), pod("two", spread())
    cluster.seat(two, node="n1")
    cluster.second = 1
    cluster.seat(one, node="n1")
    check(cluster, two, "n1")
    with pytest.raises(PlacementRaced):
        check(cluster, one, "n1")


def test_a_release_waits_for_the_peers_that_make_its_place_right(cluster: FakeCluster) -> None:
    cluster.add(pod("running", node="n1"))
    other, third, mine = pod("other"), pod("third"), pod("mine", spread())
    cluster.seat(other, node="n2")
    cluster.seat(third, node="n3")
    cluster.second = 1
    cluster.seat(mine, node="n1")
    check(cluster, mine, "n1")
    cluster.add(other, third)
    with pytest.raises(PeersFirst, match="right once peers that wait for their data are released"):
        check_release(cluster, mine, "n1")
    cluster.release(other, "n2")
    cluster.release(third, "n3")
    assert check_release(cluster, mine, "n1") is False


def test_a_release_does_not_wait_for_what_never_comes(cluster: FakeCluster) -> None:
    cluster.add(pod("running", node="n1"))
    mine = pod("mine", spread())
    cluster.seat(mine, node="n1")
    with pytest.raises(PlacementRaced):
        check_release(cluster, mine, "n1")


def test_a_younger_seat_elsewhere_may_be_what_a_release_waits_for(cluster: FakeCluster) -> None:
    cluster.nodes = [node("n1"), node("n2")]
    cluster.add(pod("running", node="n1"))
    mine = pod("mine", spread())
    cluster.seat(mine, node="n1")
    cluster.second = 1
    cluster.seat(pod("younger"), node="n2")
    with pytest.raises(PeersFirst):
        check_release(cluster, mine, "n1")


def test_a_pod_that_excludes_ours_is_seen_on_the_seats_node(cluster: FakeCluster) -> None:
    loner = pod("loner", required("podAntiAffinity", ZONE), node="n2", app="loner")
    cluster.add(loner)
    mine = pod("mine", spread(ZONE))
    cluster.seat(mine, node="n2")
    with pytest.raises(NodeUnfit, match="Pod ml/loner in zone=b excludes the Pod by its anti-affinity") as caught:
        check(cluster, mine, "n2")
    assert not isinstance(caught.value, PlacementRaced), "its node is to be avoided"


@pytest.mark.parametrize(("namespaces", "excluded"), [({"team": "red"}, True), ({"team": "blue"}, False), ({}, True)])
def test_whom_a_pod_excludes_may_depend_on_labels_of_namespaces(
    cluster: FakeCluster, namespaces: dict[str, str], excluded: bool
) -> None:
    cluster.namespaces = {"ml": {"team": "red"}}
    term = required("podAntiAffinity", ZONE, namespaceSelector={"matchLabels": namespaces} if namespaces else {})
    loner = pod("loner", term, node="n2", app="loner")
    loner["metadata"]["namespace"] = "elsewhere"
    cluster.add(loner)
    mine = pod("mine", spread(ZONE))
    cluster.seat(mine, node="n2")
    if excluded:
        with pytest.raises(NodeUnfit):
            check(cluster, mine, "n2")
    else:
        check(cluster, mine, "n2")


def test_a_pod_that_the_scheduler_would_refuse_when_pinned_must_only_prefer_its_node(cluster: FakeCluster) -> None:
    """`minDomains`: of a pinned Pod the scheduler sees one domain, so that the emptiest counts as empty."""
    cluster.add(*(pod(f"p{name}", node=name) for name in ("n1", "n2", "n3")))
    for fields, prefers in (({"minDomains": 3}, True), ({}, False), ({"nodeAffinityPolicy": "Ignore"}, False)):
        mine = pod("mine", spread(**fields))
        cluster.seat(mine, node="n1")
        assert check_release(cluster, mine, "n1") is prefers


def test_a_node_that_is_gone_is_unfit(cluster: FakeCluster) -> None:
    with pytest.raises(NodeUnfit, match="node n9 is gone"):
        check(cluster, pod("one", spread()), "n9")


def test_namespaces_are_listed_one_by_one_or_all_at_once(cluster: FakeCluster) -> None:
    few = required("podAntiAffinity", namespaces=["a", "b"])
    many = required("podAntiAffinity", namespaces=[f"n{number}" for number in range(9)])
    for spec, listed in ((few, {"a", "b"}), (many, {""})):
        cluster.lists.clear()
        plan(cluster, pod("one", spec))
        assert {namespace for namespace, _, _ in cluster.lists} == {SEATS, *listed}


CONSTRAINTS = [spread(), spread(ZONE), spread(maxSkew=2), required("podAntiAffinity"), required("podAffinity", ZONE)]


@pytest.mark.parametrize("seed", range(40))
def test_however_a_group_is_placed_each_release_is_what_the_scheduler_allows_and_all_come_to_an_end(seed: int) -> None:
    """Pods of one group, gated at once: every step of each may come between any two of another's."""
    random = Random(seed)
    cluster = FakeCluster([node(f"n{number}", random.choice("abc")) for number in range(random.randint(3, 6))])
    spec = random.choice(CONSTRAINTS)
    count = random.randint(2, len(cluster.nodes))
    waiting = [pod(f"p{number}", spec) for number in range(count)]
    cluster.add(*waiting)
    judged: set[str] = set()
    for _ in range(3000):
        if not waiting:
            break
        cluster.second += random.random() < 0.3
        mine = random.choice(waiting)
        seat = cluster.seats.get(seat_name(mine))
        if seat is None:
            found = plan(cluster, mine)
            assert not found.impossible
            found.complete(cluster.seat(mine, found.require))
        elif "nodeName" not in seat["spec"]:
            if feasible := cluster.feasible(seat):
                cluster.bind(seat, random.choice(feasible))
            else:
                del cluster.seats[seat_name(mine)]
        else:
            where = seat["spec"]["nodeName"]
            try:
                if seat_name(mine) not in judged:
                    check(cluster, mine, where)
                    judged.add(seat_name(mine))
                else:
                    check_release(cluster, mine, where)
                    assert scheduler_allows(cluster, mine, where)
                    cluster.release(mine, where)
                    waiting.remove(mine)
            except PlacementRaced:
                judged.discard(seat_name(mine))
                del cluster.seats[seat_name(mine)]
            except PeersFirst:
                pass
    assert not waiting


def scheduler_allows(cluster: FakeCluster, mine: Json, where: str) -> bool:
    wanted = constraints.read(mine, lambda _: [])
    nodes = {node.name: node for node in cluster.nodes}
    others = [Peer.of_pod(other) for other in cluster.pods.values() if other is not mine]
    return not Evaluation(mine, wanted, nodes, [peer for peer in others if peer.node]).violation(nodes[where])


def test_a_selector_of_nothing_lists_nothing(cluster: FakeCluster) -> None:
    term = {"topologyKey": HOSTNAME}
    spec = {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}
    assert plan(cluster, pod("one", spec)).require == []
    assert cluster.lists == []
