"""Delivery: to the activity that waits, else to Temporal; in order for each workflow, again until Temporal answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kube_cache import names
from kube_cache.contracts.common import Policy
from kube_cache.contracts.warm_pod import PodBound, SeatBound
from kube_cache.kube.expectations import Expectations
from kube_cache.kube.pods import pod_facts, seat_facts
from tests.watcher.fakes import WARM, FakeKube, FakeReporter, FakeTemporal, no_namespace, pod, released, seat
from watcher import starter as starter_module
from watcher.pods import PodWatcher
from watcher.starter import Starter
from watcher.warm_pods import WarmPods

FAR_S = 600.0
PATIENCE_S = 0.05


class Bench:
    """A watcher with its starter, an API server and a Temporal that are fakes."""

    def __init__(self, temporal: FakeTemporal, kube: FakeKube) -> None:
        self.expectations = Expectations()
        self.reporter = FakeReporter()
        warm_pods = WarmPods(temporal, Policy(), self.reporter)  # type: ignore[arg-type]
        self.starter = Starter(temporal, warm_pods, self.expectations, patience_s=PATIENCE_S)  # type: ignore[arg-type]
        self.starter.leading = True
        self.watcher = PodWatcher(kube, self.starter)  # type: ignore[arg-type]

    def on_pod(self, event: str, item: dict[str, Any]) -> None:
        facts = pod_facts(item)
        assert facts is not None
        self.watcher.on_pod(event, facts)

    def on_seat(self, event: str, item: dict[str, Any]) -> None:
        facts = seat_facts(item)
        assert facts is not None
        self.watcher.on_seat(event, facts)

    async def settle(self) -> None:
        await asyncio.gather(*self.watcher._confirming)
        while self.starter._tasks:
            await asyncio.gather(*self.starter._tasks)


def play(
    scenario: Callable[[Bench], Awaitable[None]],
    *,
    temporal: FakeTemporal | None = None,
    kube: FakeKube | None = None,
) -> FakeTemporal:
    temporal = temporal or FakeTemporal()

    async def run() -> None:
        bench = Bench(temporal, kube or FakeKube())
        await asyncio.wait_for(scenario(bench), 90)
        await bench.settle()

    asyncio.run(run())
    return temporal


def test_a_waiting_activity_takes_the_fact_and_the_workflow_gets_no_signal() -> None:
    async def scenario(bench: Bench) -> None:
        with bench.expectations.expect(WARM, SeatBound) as expected:
            bench.on_seat("ADDED", seat())
            bench.on_seat("MODIFIED", seat(node="gpu-2"))
            assert await expected.wait(FAR_S) == SeatBound("seat-uid-1-1", "gpu-2")

    assert play(scenario).said == []


def test_a_fact_before_the_wait_is_not_lost() -> None:
    """The watch may be quicker than the answer to the request that caused the event."""

    async def scenario(bench: Bench) -> None:
        with bench.expectations.expect(WARM, PodBound) as expected:
            bench.on_pod("ADDED", released(node="gpu-1"))
            await asyncio.sleep(0)
            assert await expected.wait(0) == PodBound("gpu-1")

    assert play(scenario).said == []


def test_a_fact_after_the_wait_is_signalled() -> None:
    async def scenario(bench: Bench) -> None:
        with bench.expectations.expect(WARM, SeatBound) as expected:
            bench.on_seat("ADDED", seat())
            assert await expected.wait(0.01) is None
        bench.on_seat("MODIFIED", seat(node="gpu-2"))

    assert play(scenario).said == [("seat_bound", WARM)]


def test_other_news_ends_the_wait_and_is_signalled() -> None:
    """Else the Pod's deletion would wait for the scheduler."""

    async def scenario(bench: Bench) -> None:
        bench.on_pod("ADDED", pod())
        with bench.expectations.expect(WARM, SeatBound) as expected:
            bench.on_pod("MODIFIED", pod(gates=()))
            assert await expected.wait(FAR_S) is None

    assert play(scenario).said == [("start", WARM), ("pod_changed", WARM)]


def test_a_changed_pod_ends_the_wait_and_is_signalled_to_the_workflow_that_runs() -> None:
    async def scenario(bench: Bench) -> None:
        bench.on_pod("ADDED", pod())
        with bench.expectations.expect(WARM, SeatBound) as expected:
            bench.on_pod("MODIFIED", pod(gates=("kube-cache.openai.com/gate", "other")))
            assert await expected.wait(FAR_S) is None

    temporal = play(scenario)
    assert temporal.said == [("start", WARM), ("pod_changed", WARM)]
    assert temporal.args[1].foreign_gates == ["other"]


def test_a_seat_that_finds_no_node_ends_the_wait() -> None:
    async def scenario(bench: Bench) -> None:
        unschedulable = seat()
        unschedulable["status"]["conditions"] = [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
        ]
        with bench.expectations.expect(WARM, SeatBound) as expected:
            bench.on_seat("ADDED", unschedulable)
            assert await expected.wait(FAR_S) is None

    assert play(scenario).said == [("seat_unschedulable", WARM)]


def test_only_the_workflow_that_is_waited_for_is_spared() -> None:
    async def scenario(bench: Bench) -> None:
        with bench.expectations.expect("warm/ml/other/uid-2", PodBound):
            bench.on_pod("ADDED", released(node="gpu-1"))

    assert play(scenario).said == [("pod_bound", WARM)]


def test_a_pod_that_crosses_from_one_watch_to_the_other_is_not_looked_up() -> None:
    class NeverAsked(FakeKube):
        def get_pod(self, namespace: str, name: str) -> dict[str, Any]:
            raise AssertionError("asked for a Pod that the other watch has")

    async def scenario(bench: Bench) -> None:
        bench.on_pod("ADDED", pod())
        with bench.expectations.expect(WARM, PodBound):
            bench.on_pod("DELETED", pod())  # first it leaves the one …
            await asyncio.sleep(0)
            bench.on_pod("ADDED", released())  # … then it enters the other
            await asyncio.gather(*bench.watcher._confirming)
        bench.on_pod("DELETED", pod())  # or the other way round
        assert not bench.watcher._confirming

    assert play(scenario, kube=NeverAsked()).said == [("start", WARM)]


def test_deliveries_for_one_workflow_keep_their_order_while_temporal_is_away() -> None:
    async def scenario(bench: Bench) -> None:
        bench.starter.signal(WARM, "first")
        bench.starter.signal(WARM, "second", 2)
        bench.starter.signal(WARM, "third")

    temporal = play(scenario, temporal=FakeTemporal(failures=2))
    assert temporal.said == [("first", WARM), ("second", WARM), ("third", WARM)]
    assert temporal.args == [None, 2, None]


def test_a_workflow_is_told_when_its_pod_was_seen_however_late_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("watcher.starter.time.time", lambda: 1234.5)

    async def scenario(bench: Bench) -> None:
        bench.on_pod("ADDED", pod())
        monkeypatch.undo()

    (given,) = play(scenario, temporal=FakeTemporal(failures=2)).args
    assert given.seen_at == 1234.5


def test_a_workflow_that_has_ended_needs_no_signal_and_holds_nothing_up() -> None:
    async def scenario(bench: Bench) -> None:
        bench.starter.signal(WARM, "pod_gone")
        bench.starter.signal("warm/ml/other/uid-2", "pod_gone")

    temporal = play(scenario, temporal=FakeTemporal(absent=(WARM,)))
    assert temporal.said == [("pod_gone", "warm/ml/other/uid-2")]


def test_a_fact_that_another_operators_activity_may_take_is_signalled_late() -> None:
    """A signal at once would meet that activity's open workflow task, which the server then has done again."""

    async def scenario(bench: Bench) -> None:
        bench.on_seat("ADDED", seat(node="gpu-1"))
        bench.starter.signal(WARM, "later")
        await asyncio.sleep(0)

    assert play(scenario).said == [("later", WARM), ("seat_bound", WARM)]


def test_a_seat_that_is_gone_by_then_is_not_told() -> None:
    """Its Pod was released meanwhile: the signal would cost a workflow task, or meet the last one."""

    async def scenario(bench: Bench) -> None:
        bench.on_seat("ADDED", seat(node="gpu-1"))
        bench.on_seat("DELETED", seat(node="gpu-1", deleted=True))

    assert play(scenario).said == []


def test_an_operator_that_does_not_lead_tells_its_activities_and_nobody_else() -> None:
    async def scenario(bench: Bench) -> None:
        bench.starter.leading = False
        with bench.expectations.expect(WARM, SeatBound) as expected:
            bench.on_pod("ADDED", pod())
            assert await expected.wait(0) is None, "other news ends the wait"
        with bench.expectations.expect(WARM, SeatBound) as expected:
            bench.on_seat("ADDED", seat(node="gpu-1"))
            assert await expected.wait(0) == SeatBound("seat-uid-1-1", "gpu-1")
        bench.on_seat("MODIFIED", seat(node="gpu-1"))

    assert play(scenario).said == []


def test_an_operator_that_begins_to_lead_tells_everything_that_it_knows() -> None:
    async def scenario(bench: Bench) -> None:
        bench.starter.leading = False
        bench.on_pod("ADDED", pod())
        bench.on_seat("ADDED", seat(node="gpu-1"))
        bench.starter.leading = True
        bench.watcher.tell_all()

    assert sorted(play(scenario).said) == [("seat_bound", WARM), ("start", WARM)]


def test_a_start_names_its_generation_and_fits_in_what_temporal_admits() -> None:
    many = ",".join(f"s3://models/gpt-{'x' * 1000}-{number}" for number in range(200))

    async def scenario(bench: Bench) -> None:
        bench.on_pod("ADDED", pod(**{names.DATASET_ANNOTATION: "ß" + many}))

    (options,) = play(scenario).starts
    assert options["memo"] == {names.GENERATION_MEMO: names.WARM_POD_GENERATION}
    assert len(options["static_summary"].encode()) <= 200
    values = {pair.key.name: pair.value for pair in options["search_attributes"]}
    assert len(values["KcDataset"].encode()) <= 255


def test_an_annotation_that_is_removed_from_a_gated_pod_is_told() -> None:
    async def scenario(bench: Bench) -> None:
        bench.on_pod("ADDED", pod())
        bare = pod()
        del bare["metadata"]["annotations"][names.DATASET_ANNOTATION]
        bench.on_pod("MODIFIED", bare)

    temporal = play(scenario)
    assert temporal.said == [("start", WARM), ("pod_changed", WARM)]
    assert temporal.args[1].dataset == ""
    assert temporal.args[1].gated


def test_a_gated_pod_that_is_being_deleted_is_told_and_not_started() -> None:
    """A finalizer may hold the Pod for hours; nothing is warmed for it."""

    async def scenario(bench: Bench) -> None:
        leaving = pod()
        leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        bench.on_pod("ADDED", leaving)

    temporal = play(scenario)
    assert temporal.said == [("pod_changed", WARM)]
    assert temporal.args[0].deleting


def test_a_signal_outlives_a_moment_in_which_temporal_does_not_know_the_namespace() -> None:
    """Seen of a server on a machine with far too much to do. It tells of no workflow."""

    async def scenario(bench: Bench) -> None:
        bench.starter.signal(WARM, "pod_gone")

    temporal = play(scenario, temporal=FakeTemporal(failures=2, failure=no_namespace()))
    assert temporal.said == [("pod_gone", WARM)]


def test_a_start_that_temporal_refuses_is_told_on_the_pod_and_holds_nothing_up() -> None:
    told: list[tuple[str, str]] = []

    async def scenario(bench: Bench) -> None:
        bench.reporter.told = told
        bench.on_pod("ADDED", pod())
        bench.starter.signal(WARM, "pod_gone")

    temporal = play(scenario, temporal=FakeTemporal(refusal="too long"))
    assert len(temporal.starts) == 1, "the sweep tries again"
    assert temporal.said == [("pod_gone", WARM)]
    ((reason, message),) = told
    assert reason == "StartRefused"
    assert "INVALID_ARGUMENT: too long" in message


class BusyTemporal(FakeTemporal):
    """Starts no workflow before it is allowed to."""

    def __init__(self) -> None:
        super().__init__()
        self.allowed = asyncio.Event()

    async def start_workflow(self, *args: Any, **options: Any) -> None:
        await self.allowed.wait()
        await super().start_workflow(*args, **options)


def add_pods(bench: Bench, count: int) -> None:
    for number in range(count):
        item = pod()
        item["metadata"] |= {"name": f"train-{number}", "uid": f"uid-{number}"}
        bench.on_pod("ADDED", item)


def test_work_yields_to_a_burst_of_starts_until_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter_module, "_MAX_YIELD_S", FAR_S)
    temporal = BusyTemporal()

    async def scenario(bench: Bench) -> None:
        await bench.starter.yield_to_starts()
        add_pods(bench, 100)
        yielding = asyncio.create_task(bench.starter.yield_to_starts())
        await asyncio.sleep(0)
        assert not yielding.done()
        temporal.allowed.set()
        await yielding
        assert len(temporal.said) > 90
        await bench.settle()
        await bench.starter.yield_to_starts()

    play(scenario, temporal=temporal)


def test_work_does_not_yield_to_a_few_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter_module, "_MAX_YIELD_S", FAR_S)
    temporal = BusyTemporal()

    async def scenario(bench: Bench) -> None:
        add_pods(bench, 3)
        await bench.starter.yield_to_starts()
        temporal.allowed.set()

    play(scenario, temporal=temporal)


def test_work_goes_on_while_temporal_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter_module, "_MAX_YIELD_S", 0.01)
    temporal = BusyTemporal()

    async def scenario(bench: Bench) -> None:
        add_pods(bench, 100)
        await bench.starter.yield_to_starts()
        assert temporal.said == []
        temporal.allowed.set()

    play(scenario, temporal=temporal)


def test_an_operator_that_does_not_lead_has_no_starts_to_yield_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter_module, "_MAX_YIELD_S", FAR_S)

    async def scenario(bench: Bench) -> None:
        bench.starter.leading = False
        add_pods(bench, 100)
        await bench.starter.yield_to_starts()

    play(scenario)
