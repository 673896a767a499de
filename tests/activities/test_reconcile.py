"""What a reconcile wants of each node: by a survey in memory, in messages that do not grow with the cluster."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict

import pytest

from activities.cluster import shards
from activities.cluster import survey as survey_module
from activities.cluster.survey import Survey, Surveys
from kube_cache.contracts.common import Consumer, PodRef
from kube_cache.contracts.reconcile import (
    Entity,
    NodePlan,
    SettleInput,
    SettleResult,
    ShardInput,
    ShardPlan,
    SurveyRef,
)
from kube_cache.kube.pods import receipt_annotations
from kube_cache.telemetry import metrics
from tests.activities.cluster_fakes import RUN, Cluster, gated, item, warm

A, B = "a" * 64, "b" * 64
WHOLE = ShardInput(RUN, 0, 1)


def plans(cluster: Cluster) -> dict[str, NodePlan]:
    plan: ShardPlan = cluster.run("plan_shard", WHOLE)
    return {node.node: node for node in plan.nodes}


def settle(cluster: Cluster, *doubtful: str, lost: tuple[str, ...] = ()) -> SettleResult:
    settled: SettleResult = cluster.run("settle_node", SettleInput(WHOLE, "gpu-1", list(doubtful), list(lost)))
    return settled


def skipped_pods() -> float:
    return metrics.REGISTRY.get_sample_value("kube_cache_reconcile_skipped_total", {"kind": "pod"}) or 0


def test_a_node_is_told_of_its_own_pods_and_of_no_others() -> None:
    both = receipt_annotations("gpu-1", "disk", [B, A])
    cluster = Cluster(
        [
            item("two", node="gpu-1", receipt=both),
            item("unbound", receipt=receipt_annotations("gpu-1", "disk", [A])),
            item("bare", node="gpu-1", dataset="", receipt=receipt_annotations("gpu-1", "disk", [A])),
            item("edited", node="gpu-1"),
            item("other", node="gpu-2", receipt=receipt_annotations("gpu-2", "disk", [A])),
            item("ended", node="gpu-1", phase="Failed", receipt=both),
            gated("placed"),
            gated("waits"),
        ],
        warm_pods={
            warm("placed"): ("Warming", "gpu-1"),
            warm("waits"): ("Placing", ""),
            warm("gone"): ("Warming", "gpu-1"),
        },
    )
    plan = plans(cluster)["gpu-1"]
    assert plan.receipts == {"two": [B, A], "unbound": [A], "bare": [A]}
    assert plan.living == ["bare", "edited", "placed", "two", "unbound"]


def test_an_entity_of_a_node_is_expected_to_be_whole_unless_it_is_being_fetched() -> None:
    cluster = Cluster(
        entities={
            f"dataset/gpu-1/disk/{A}": "Ready",
            f"dataset/gpu-1/disk/{B}": "Warming",
            f"dataset/removed/disk/{A}": "AwaitingOperator",
        }
    )
    found = plans(cluster)
    assert found["gpu-1"].entities == [Entity("disk", A, ready=True), Entity("disk", B, ready=False)]
    assert (found["removed"].exists, found["removed"].entities) == (False, [Entity("disk", A, ready=True)])
    assert (found["gpu-2"].idle, found["gpu-1"].idle) == (True, False)


@pytest.mark.parametrize(
    ("uid", "goes"),
    [
        pytest.param("gone", True, id="not listed"),
        pytest.param("ended", True, id="ended"),
        pytest.param("elsewhere", True, id="bound to another node"),
        pytest.param("sent-elsewhere", True, id="released to another node"),
        pytest.param("waits", False, id="gated"),
        pytest.param("edited", False, id="bound here, with its annotations removed"),
        pytest.param("foreign", False, id="not bound, and neither gated nor released"),
    ],
)
def test_who_may_hold_a_pin_on_a_node_is_judged_by_uid(uid: str, goes: bool) -> None:
    cluster = Cluster(
        [
            item("ended", node="gpu-1", phase="Succeeded"),
            item("elsewhere", node="gpu-2"),
            item("sent-elsewhere", receipt=receipt_annotations("gpu-2", "disk", [A])),
            gated("waits"),
            item("edited", node="gpu-1", dataset=""),
            item("foreign", dataset=""),
        ]
    )
    assert settle(cluster, uid).ended == ([uid] if goes else [])


def test_the_entities_of_a_node_are_told_of_a_pod_that_left_its_pin_there() -> None:
    """However many entities there are: those of the other nodes are asked in turn."""
    here, there = f"dataset/gpu-1/disk/{A}", f"dataset/gpu-2/disk/{A}"
    cluster = Cluster(
        [gated("waits")],
        entities={here: "Ready", there: "Ready"},
        consumers={here: ["gone", "waits"], there: ["gone"]},
    )
    assert settle(cluster, "gone", "waits").ended == ["gone"]
    assert cluster.temporal.signals == [("leave", here)]


def test_an_entity_that_does_not_answer_does_not_keep_the_pins_of_a_pod_that_is_gone() -> None:
    cluster = Cluster(entities={f"dataset/gpu-1/disk/{A}": "Ready"})
    assert settle(cluster, "gone") == SettleResult(["gone"], skipped=1)


def test_who_runs_on_a_snapshot_that_was_lost_is_known_by_the_receipts() -> None:
    pods = [
        item("one", node="gpu-1", receipt=receipt_annotations("gpu-1", "disk", [A, B])),
        item("other", node="gpu-1", receipt=receipt_annotations("gpu-1", "disk", [B])),
        item("there", node="gpu-2", receipt=receipt_annotations("gpu-2", "disk", [A])),
    ]
    assert settle(Cluster(pods), lost=(A,)).consumers == {A: [Consumer(warm("one"), PodRef("ml", "one", "one"))]}


def test_a_receipt_that_is_not_ours_is_not_believed() -> None:
    mine = receipt_annotations("gpu-1", "disk", [A])
    pods = [
        item("traversal", node="gpu-1", receipt=receipt_annotations("gpu-1", "disk", ["../../etc"])),
        gated("gated", receipt=mine),
        item("elsewhere", node="gpu-2", receipt=mine),
        item("honest", node="gpu-1", receipt=mine),
    ]
    before = skipped_pods()
    cluster = Cluster(pods)
    assert cluster.run("survey_cluster").skipped == 1
    assert skipped_pods() == before + 1
    plan = plans(cluster)["gpu-1"]
    assert plan.receipts == {"honest": [A]}
    assert "traversal" in plan.living, "it may run on data"


def test_a_pod_that_cannot_be_read_harms_nobody() -> None:
    cluster = Cluster([{"metadata": {"name": "ill", "uid": "ill"}, "status": {}}, gated("one")])
    assert (cluster.run("survey_cluster").skipped, cluster.run("survey_cluster").pods) == (1, 1)


def test_a_receipt_that_names_thousands_of_snapshots_is_left_out_and_its_pod_keeps_its_pins() -> None:
    forged = receipt_annotations("gpu-1", "disk", [A] * 3900)
    honest = receipt_annotations("gpu-1", "disk", [B])
    cluster = Cluster([item("forged", node="gpu-1", receipt=forged), item("one", node="gpu-1", receipt=honest)])
    plan: ShardPlan = cluster.run("plan_shard", WHOLE)
    node = next(each for each in plan.nodes if each.node == "gpu-1")
    assert (plan.skipped, list(node.receipts), node.living) == (1, ["one"], ["forged", "one"])


def test_the_lists_are_made_once_a_run_however_many_activities_read_them() -> None:
    cluster = Cluster([gated("one")])

    async def read() -> list[Survey]:
        surveys = Surveys(cluster.kube, cluster.temporal, seat_namespace="seats")  # type: ignore[arg-type]
        found = [*await asyncio.gather(*(surveys.get(RUN) for _ in range(5)))]
        return [*found, await surveys.get(SurveyRef("run-2"))]

    *same, other = asyncio.run(read())
    assert all(each is same[0] for each in same)
    assert other is not same[0]
    assert cluster.kube.lists == 2 * 3, "of seats, Pods and nodes"


def test_a_survey_that_nobody_asks_any_more_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "_KEEP_S", 0.05)
    cluster = Cluster([gated("one")])

    async def forgotten() -> bool:
        surveys = Surveys(cluster.kube, cluster.temporal, seat_namespace="seats")  # type: ignore[arg-type]
        made = await surveys.get(RUN)
        async with asyncio.timeout(60):
            while surveys._survey is made:  # noqa: ASYNC110 -- nobody is told
                await asyncio.sleep(0.01)
        return await surveys.get(RUN) is not made

    assert asyncio.run(forgotten())


def big(nodes: int, pods: int) -> Survey:
    """A cluster in which each node has Pods with two datasets each, and three entities."""
    survey = Survey(nodes=frozenset(f"node-{each}" for each in range(nodes)))
    for node in survey.nodes:
        survey.entities[node] = [Entity("disk", f"{each:064x}", ready=True) for each in range(3)]
        for number in range(pods):
            uid = f"{node}-{number}-aaaa-bbbb-cccccccccccc"
            survey.pods.nodes[uid] = node
            survey.pods.receipts.setdefault(node, {})[uid] = (A, B)
    return survey


@pytest.mark.parametrize(("nodes", "pods", "turns"), [(100, 110, 1), (1000, 20, 1), (5000, 4, 4)])
def test_no_message_grows_with_the_cluster_and_every_used_node_has_its_turn_in_one(
    nodes: int, pods: int, turns: int
) -> None:
    survey = big(nodes, pods)
    seen: list[str] = []
    for turn in range(turns):
        ref = SurveyRef(f"run-{turn}", turn)
        survey.shards = []
        number = shards.count_shards(survey, ref)
        found = [shards.plan(survey, ShardInput(ref, each, number)) for each in range(number)]
        assert max(len(json.dumps(asdict(plan))) for plan in found) < 1_500_000, "Temporal takes 2 MB"
        assert max(len(plan.nodes) for plan in found) < 130
        assert sum(plan.skipped for plan in found) == 0
        assert sum(len(plan.nodes) for plan in found) < 1700, "a run's length does not follow the cluster's size"
        seen += [node.node for plan in found for node in plan.nodes]
    assert sorted(seen) == sorted(survey.nodes)


def test_each_idle_node_has_its_turn_and_no_run_visits_them_all() -> None:
    survey = Survey(nodes=frozenset(f"node-{each}" for each in range(5000)))
    seen: set[str] = set()
    for turn in range(10):
        visited = shards.visited_nodes(survey, turn)
        assert len(visited) < 700
        seen |= visited
    assert seen == survey.nodes


@pytest.mark.parametrize("turn", range(4))
def test_what_is_known_to_be_wrong_with_a_node_is_not_kept_waiting_for_its_turn(turn: int) -> None:
    """A node that was deleted and has an entity, and one on which a repair has failed."""
    survey = big(5000, 4)
    survey.entities["deleted"] = [Entity("disk", A, ready=True)]
    survey.failed.add("node-7")
    assert {"deleted", "node-7"} <= shards.visited_nodes(survey, turn)


@pytest.mark.parametrize("turn", range(4))
def test_a_node_whose_agent_asks_for_a_reconcile_is_visited_by_the_next_run(turn: int) -> None:
    survey = big(5000, 4)
    survey.asked |= {f"node-{each}" for each in range(100)}
    assert survey.asked <= shards.visited_nodes(survey, turn)


def test_agents_that_all_ask_at_once_have_their_turns() -> None:
    survey = big(5000, 4)
    survey.asked |= survey.nodes
    seen: set[str] = set()
    for turn in range(4):
        visited = shards.visited_nodes(survey, turn)
        assert len(visited) < 3200, "a run ends"
        seen |= visited
    assert seen == survey.nodes


def test_who_asks_is_known_by_the_open_requests_and_one_that_cannot_be_read_is_left_out() -> None:
    cluster = Cluster(asking=("gpu-1", "gone", "not/a/node"))
    found = plans(cluster)
    assert {node.node: (node.asked, node.exists) for node in found.values()} == {
        "gpu-1": (True, True),
        "gpu-2": (False, True),
        "gone": (True, False),
    }


def test_a_failed_repair_is_known_by_its_entity() -> None:
    entities = {f"dataset/gpu-1/disk/{A}": "AwaitingOperator", f"dataset/gpu-2/disk/{A}": "Ready"}
    cluster = Cluster(entities=entities)

    async def survey() -> Survey:
        return await Surveys(cluster.kube, cluster.temporal, seat_namespace="seats").get(RUN)  # type: ignore[arg-type]

    assert asyncio.run(survey()).failed == {"gpu-1"}


def test_a_node_with_a_seated_pod_is_no_idle_one() -> None:
    cluster = Cluster([gated("one")], warm_pods={warm("one"): ("Warming", "gpu-2")})
    assert [name for name, plan in plans(cluster).items() if not plan.idle] == ["gpu-2"]
