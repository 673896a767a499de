"""Delivery: to the activity that waits, else to Temporal; in order for each workflow, again until Temporal answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from kube_cache.contracts.common import Policy
from kube_cache.contracts.warm_pod import PodBound, SeatBound
from kube_cache.kube.expectations import Expectations
from kube_cache.kube.pods import pod_facts, seat_facts
from tests.watcher.fakes import WARM, FakeKube, FakeTemporal, pod, released, seat
from watcher.pods import PodWatcher
from watcher.starter import Starter

FAR_S = 30.0


class Bench:
    """A watcher with its starter, an API server and a Temporal that are fakes."""

    def __init__(self, temporal: FakeTemporal, kube: FakeKube) -> None:
        self.expectations = Expectations()
        self.starter = Starter(temporal, Policy(), self.expectations)  # type: ignore[arg-type]
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
        await asyncio.wait_for(scenario(bench), 5)
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


def test_a_workflow_that_has_ended_needs_no_signal_and_holds_nothing_up() -> None:
    async def scenario(bench: Bench) -> None:
        bench.starter.signal(WARM, "pod_gone")
        bench.starter.signal("warm/ml/other/uid-2", "pod_gone")

    temporal = play(scenario, temporal=FakeTemporal(absent=(WARM,)))
    assert temporal.said == [("pod_gone", "warm/ml/other/uid-2")]
