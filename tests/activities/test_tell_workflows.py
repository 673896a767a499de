"""What the reconcile tells workflows: who lives is judged by uid, and one bad workflow harms nobody but itself."""

from __future__ import annotations

import pytest

from activities.cluster import tell_workflows
from kube_cache import names
from kube_cache.contracts.reconcile import SurveyRef
from kube_cache.telemetry import metrics
from tests.activities.cluster_fakes import Cluster, gated, item, seat, warm

A, B = "a" * 64, "b" * 64
GOOD, BAD = f"dataset/gpu-1/disk/{A}", f"dataset/gpu-2/disk/{B}"
PAUSED = ("Paused", "")


def test_a_pod_whose_annotation_was_removed_is_alive_and_one_that_is_not_listed_is_gone() -> None:
    pods = [gated("bare", dataset=""), item("bound", node="gpu-1"), item("ended", phase="Succeeded")]
    cluster = Cluster(pods, warm_pods={warm(uid): PAUSED for uid in ("bare", "bound", "ended", "gone")})
    assert cluster.tell().signalled == 4
    assert sorted(cluster.temporal.signals) == [
        ("pod_bound", warm("bound")),
        ("pod_gone", warm("ended")),
        ("pod_gone", warm("gone")),
        ("resync", warm("bare")),
    ]
    assert cluster.heartbeats > 0


def test_workflows_of_our_types_that_others_started_harm_nobody() -> None:
    before = metrics.REGISTRY.get_sample_value("kube_cache_reconcile_skipped_total", {"kind": "warm_pod"}) or 0
    cluster = Cluster(
        [gated("one")], warm_pods={"foreign": PAUSED, warm("one"): PAUSED}, entities={"foreign": "Ready", GOOD: "Ready"}
    )
    assert cluster.run("survey_cluster").skipped == 2
    cluster.tell()
    assert cluster.temporal.signals == [("resync", warm("one"))]
    assert cluster.temporal.queries == [GOOD]
    assert metrics.REGISTRY.get_sample_value("kube_cache_reconcile_skipped_total", {"kind": "warm_pod"}) > before


def test_an_entity_that_does_not_answer_harms_nobody() -> None:
    cluster = Cluster([gated("one")], entities={BAD: "Ready", GOOD: "Ready"}, consumers={GOOD: ["one", "gone"]})
    assert cluster.tell().skipped == 1
    assert cluster.temporal.signals == [("leave", GOOD)]


def test_a_workflow_that_takes_no_signal_harms_nobody() -> None:
    cluster = Cluster([gated("one"), gated("refused")], warm_pods={warm("refused"): PAUSED, warm("one"): PAUSED})
    assert cluster.tell().skipped == 1
    assert cluster.temporal.signals == [("resync", warm("one"))]


def test_a_seat_without_an_open_workflow_is_deleted() -> None:
    cluster = Cluster([gated("one")], warm_pods={warm("one"): PAUSED}, seats=(seat(warm("one")),))
    assert (cluster.tell().seats_deleted, cluster.kube.deleted) == (0, [])
    cluster = Cluster(seats=(seat(warm("one")),))
    assert (cluster.tell().seats_deleted, cluster.kube.deleted) == (1, ["seat-1"])


@pytest.mark.parametrize("phase", ["Resolving", "Checking", "Warming", "Releasing", "WaitingForDisk"])
def test_a_workflow_that_asks_by_itself_is_not_asked_to(phase: str) -> None:
    cluster = Cluster([gated("one")], warm_pods={warm("one"): (phase, "gpu-1")})
    assert cluster.tell().signalled == 0


@pytest.mark.parametrize(
    "phase",
    ["Placing", "WaitingForCapacity", "WaitingForGates", "WaitingForGroup", "Binding", "AwaitingOperator", "Paused"],
)
def test_a_workflow_that_waits_for_a_signal_is_asked_to_look(phase: str) -> None:
    cluster = Cluster([gated("one")], warm_pods={warm("one"): (phase, "")})
    cluster.tell()
    assert cluster.temporal.signals == [("resync", warm("one"))]


def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tell_workflows, "_RESYNCS", 10)
    monkeypatch.setattr(tell_workflows, "_QUERIES", 10)
    monkeypatch.setattr(tell_workflows, "_SIGNALS_PER_S", 10_000)


def test_each_of_many_that_wait_has_its_turn_and_no_run_asks_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    few_at_once(monkeypatch)
    waiting = {warm(f"pod-{each}") for each in range(100)}
    asked: set[str] = set()
    for turn in range(10):
        cluster = Cluster(
            [gated(f"pod-{each}") for each in range(100)], warm_pods=dict.fromkeys(waiting, ("AwaitingOperator", ""))
        )
        assert cluster.tell(SurveyRef("run", turn)).signalled < 40
        asked |= {workflow_id for _, workflow_id in cluster.temporal.signals}
    assert asked == waiting


def test_each_of_many_entities_has_its_turn_and_no_run_asks_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    few_at_once(monkeypatch)
    entities = {f"dataset/gpu-{each}/disk/{A}": "Ready" for each in range(100)}
    asked: set[str] = set()
    for turn in range(10):
        cluster = Cluster(entities=entities, consumers={each: [] for each in entities})
        cluster.tell(SurveyRef("run", turn))
        assert len(cluster.temporal.queries) < 40
        asked |= set(cluster.temporal.queries)
    assert asked == set(entities)


def test_who_has_missed_a_signal_is_asked_in_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its seat is bound, or gone, or nobody else's gate holds its Pod any more."""
    few_at_once(monkeypatch)
    missed = {
        warm("bound"): ("Placing", ""),
        warm("lost"): ("WaitingForCapacity", ""),
        warm("free"): ("WaitingForGates", ""),
    }
    others = {warm(f"pod-{each}"): ("AwaitingOperator", "") for each in range(100)}
    pods = [gated(uid.rpartition("/")[2]) for uid in [*missed, *others]]
    for turn in range(3):
        cluster = Cluster(pods, warm_pods={**missed, **others}, seats=(seat(warm("bound"), node="gpu-1"),))
        cluster.tell(SurveyRef("run", turn))
        assert {("resync", each) for each in missed} <= set(cluster.temporal.signals)


def test_who_waits_for_a_seat_that_waits_or_for_a_gate_that_is_there_has_missed_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tell_workflows, "in_turn", lambda things, turn, at_once: [*things] if turn == 1 else [])
    pods = [gated("seated"), item("held", gates=(names.GATE, "example.com/held"))]
    warm_pods = {warm("seated"): ("Placing", ""), warm("held"): ("WaitingForGates", "")}
    cluster = Cluster(pods, warm_pods=warm_pods, seats=(seat(warm("seated")),))
    assert cluster.tell(SurveyRef("run", 0)).signalled == 0
    assert cluster.tell(SurveyRef("run", 1)).signalled == 2, "but has its turn"
