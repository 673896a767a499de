"""Which nodes a prefetch chooses, in what order, and that no plan grows with the cluster."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

import pytest

from activities.cluster.plan_prefetch import Held, matches, plan
from kube_cache.contracts.common import Snapshot
from kube_cache.contracts.prefetch import PlanPrefetchInput, PrefetchPlan, PrefetchSpec
from kube_cache.kube.nodes import NodeFacts

ONE, TWO = Snapshot("s3://b/one", "1" * 64, 1, 100), Snapshot("s3://b/two", "2" * 64, 1, 1000)
NODES = [NodeFacts(f"node-{number}") for number in range(6)]


def spec(**changes: object) -> PrefetchSpec:
    return PrefetchSpec(**{"namespace": "ml", "name": "nightly", "datasets": ["s3://b/one"], **changes})  # type: ignore[arg-type]


def planned(
    held: Mapping[str, Held] | None = None, *, nodes: list[NodeFacts] = NODES, copies: int = 0, **fields: object
) -> PrefetchPlan:
    given = {"snapshots": [ONE, TWO], "missing": 10, "tour": 10, **fields}
    return plan(PlanPrefetchInput(spec(copies=copies), **given), nodes, held or {})  # type: ignore[arg-type]


def whole() -> Held:
    return Held({ONE.digest, TWO.digest})


@pytest.mark.parametrize(
    ("node", "of_spec", "chosen"),
    [
        pytest.param(NodeFacts("a", {"pool": "gpu"}), {"selector": "pool=gpu"}, True, id="label"),
        pytest.param(NodeFacts("a", {"pool": "cpu"}), {"selector": "pool=gpu"}, False, id="another label"),
        pytest.param(NodeFacts("a"), {"nodes": ["a", "b"]}, True, id="named"),
        pytest.param(NodeFacts("c"), {"nodes": ["a", "b"]}, False, id="not named"),
        pytest.param(NodeFacts("a", unschedulable=True), {}, False, id="cordoned"),
        pytest.param(NodeFacts("a", unschedulable=True), {"nodes": ["a"]}, True, id="cordoned and named"),
        pytest.param(NodeFacts("a", ready=False), {"nodes": ["a"]}, False, id="not ready"),
        pytest.param(NodeFacts("a", pressures=("DiskPressure",)), {}, False, id="disk pressure"),
        pytest.param(NodeFacts("a", deleting=True), {}, False, id="being deleted"),
    ],
)
def test_a_node_matches(node: NodeFacts, of_spec: dict[str, object], chosen: bool) -> None:
    assert matches(node, spec(**of_spec)) is chosen


def test_without_copies_every_node_is_wanted() -> None:
    found = planned({"node-2": whole(), "node-4": Held({ONE.digest})})
    assert (found.matched, found.wanted, found.ready, found.ready_bytes) == (6, 6, 1, 1200)
    assert set(found.missing) == {"node-0", "node-1", "node-3", "node-4", "node-5"}
    assert found.missing[0] == "node-4", "what lacks least comes first"
    assert found.tour == ["node-2"]


def test_copies_stay_where_the_data_is() -> None:
    found = planned({"node-5": whole(), "node-3": Held(fetched={TWO.digest})}, copies=2)
    assert (found.wanted, found.ready, found.missing, found.tour) == (2, 1, ["node-3"], ["node-5"])


def test_a_busy_node_keeps_its_choice_and_is_not_named_again() -> None:
    found = planned(copies=2, busy=["node-1", "node-2"])
    assert (found.missing, found.tour, found.wanted) == ([], [], 2)


def test_a_node_that_failed_is_replaced_while_others_match_and_is_left_alone() -> None:
    failed = planned(copies=1).missing[0]
    assert planned(copies=1, avoid=[failed]).missing not in ([failed], [])
    everywhere = planned(avoid=[failed])
    assert (everywhere.wanted, failed in everywhere.missing) == (6, False)
    assert planned({failed: whole()}, avoid=[failed]).ready == 0, "nobody knows what is on its disk"


def test_the_choice_of_equals_is_the_same_each_time_and_another_for_another_prefetch() -> None:
    assert planned(copies=3).missing == planned(copies=3, nodes=NODES[::-1]).missing
    firsts = {
        plan(PlanPrefetchInput(spec(copies=1, name=name), [ONE], missing=1), NODES, {}).missing[0]
        for name in map(str, range(50))
    }
    assert len(firsts) > 1


def test_a_tour_reaches_every_node_once() -> None:
    held = {node.name: whole() for node in NODES}
    first = planned(held, tour=4)
    second = planned(held, tour=4, cursor=first.tour[-1])
    assert ([*first.tour, *second.tour], first.toured, second.toured) == ([n.name for n in NODES], False, True)


def test_at_the_end_every_node_that_holds_some_of_it_is_visited_whether_it_matches_or_not() -> None:
    nodes = [*NODES, NodeFacts("cordoned", unschedulable=True)]
    found = planned({"cordoned": whole(), "node-0": Held({ONE.digest})}, nodes=nodes, ending=True)
    assert (found.tour, found.missing, found.toured) == (["cordoned", "node-0"], [], True)


def test_a_plan_for_5000_nodes_names_as_many_as_it_may() -> None:
    nodes = [NodeFacts(f"ip-10-0-{number:05}.example.internal") for number in range(5000)]
    found = planned({node.name: whole() for node in nodes[:2500]}, nodes=nodes, missing=32, tour=32)
    assert (found.matched, found.ready, len(found.missing), len(found.tour)) == (5000, 2500, 32, 32)
    assert len(json.dumps(asdict(found))) < 4096


def test_for_an_idle_copy_nodes_with_pods_of_other_datasets_come_last() -> None:
    used = {"node-0": ["s3://b/other"], "node-1": ["s3://b/one", "s3://b/other"], "node-2": ["s3://b/other"]}
    held = {"node-0": whole(), "node-1": whole(), "node-3": whole()}

    def chosen(copies: int, *, idle: bool) -> tuple[int, set[str]]:
        arg = PlanPrefetchInput(spec(copies=copies, idle=idle), [ONE, TWO], missing=10, tour=10)
        found = plan(arg, NODES, held, used)
        return found.ready, {*found.missing, *found.tour}

    assert chosen(2, idle=True) == (2, {"node-1", "node-3"}), "what the dataset's own Pods use counts as a copy"
    assert chosen(4, idle=True) == (2, {"node-1", "node-3", "node-4", "node-5"})
    assert chosen(5, idle=True) == (3, {"node-0", "node-1", "node-3", "node-4", "node-5"})
    assert chosen(3, idle=False) == (3, {"node-0", "node-1", "node-3"})
