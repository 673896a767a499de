"""What the watch tells an activity instead of a workflow, and when it must not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from kube_cache.contracts.warm_pod import PodBound, SeatBound
from kube_cache.kube.expectations import Expectations
from kube_cache.kube.pods import pod_facts, seat_facts
from tests.watcher.test_pods import WARM, Kube, Starter, pod, released, seat
from watcher.pods import PodWatcher

FAR_S = 30.0


def play(scenario: Callable[[PodWatcher, Expectations, Starter], Awaitable[None]], kube: Kube | None = None) -> Starter:
    starter, expectations = Starter(), Expectations()

    async def run() -> None:
        watcher = PodWatcher(kube or Kube(), starter, expectations)  # type: ignore[arg-type]
        await asyncio.wait_for(scenario(watcher, expectations, starter), 5)
        await asyncio.gather(*watcher._confirming)

    asyncio.run(run())
    return starter


def on_pod(watcher: PodWatcher, kind: str, item: dict[str, Any]) -> None:
    facts = pod_facts(item)
    assert facts is not None
    watcher.on_pod(kind, facts)


def on_seat(watcher: PodWatcher, kind: str, item: dict[str, Any]) -> None:
    facts = seat_facts(item)
    assert facts is not None
    watcher.on_seat(kind, facts)


def test_a_waiting_activity_is_told_and_the_workflow_is_spared() -> None:
    async def scenario(watcher: PodWatcher, expectations: Expectations, starter: Starter) -> None:
        with expectations.expect(WARM, SeatBound) as expected:
            on_seat(watcher, "ADDED", seat())
            on_seat(watcher, "MODIFIED", seat(node="gpu-2"))
            assert await expected.wait(FAR_S) == SeatBound("seat-uid-1-1", "gpu-2")

    assert play(scenario).said == []


def test_what_came_before_the_wait_is_not_lost() -> None:
    """The watch may be quicker than the answer to the request that caused it."""

    async def scenario(watcher: PodWatcher, expectations: Expectations, starter: Starter) -> None:
        with expectations.expect(WARM, PodBound) as expected:
            on_pod(watcher, "ADDED", released(node="gpu-1"))
            await asyncio.sleep(0)
            assert await expected.wait(0) == PodBound("gpu-1")

    assert play(scenario).said == []


def test_what_comes_after_the_wait_is_signalled() -> None:
    async def scenario(watcher: PodWatcher, expectations: Expectations, starter: Starter) -> None:
        with expectations.expect(WARM, SeatBound) as expected:
            on_seat(watcher, "ADDED", seat())
            assert await expected.wait(0.01) is None
        on_seat(watcher, "MODIFIED", seat(node="gpu-2"))

    assert play(scenario).said == [("seat_bound", WARM)]


def test_it_is_told_once_and_then_signalled() -> None:
    async def scenario(watcher: PodWatcher, expectations: Expectations, starter: Starter) -> None:
        with expectations.expect(WARM, SeatBound) as expected:
            assert expectations.tell(WARM, SeatBound("seat", "gpu-1"))
            assert not expectations.tell(WARM, SeatBound("seat", "gpu-2"))
            assert await expected.wait(FAR_S) == SeatBound("seat", "gpu-1")
        assert not expectations.is_expected(WARM)

    play(scenario)


def test_other_news_ends_the_wait_and_is_signalled() -> None:
    """Else the Pod's deletion would wait for the scheduler."""

    async def scenario(watcher: PodWatcher, expectations: Expectations, starter: Starter) -> None:
        on_pod(watcher, "ADDED", pod())
        with expectations.expect(WARM, SeatBound) as expected:
            on_pod(watcher, "MODIFIED", pod(gates=()))
            assert await expected.wait(FAR_S) is None

    assert [said[0] for said in play(scenario).said] == ["start", "pod_changed"]


def test_a_seat_that_finds_no_node_ends_the_wait() -> None:
    async def scenario(watcher: PodWatcher, expectations: Expectations, starter: Starter) -> None:
        unschedulable = seat()
        unschedulable["status"]["conditions"] = [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
        ]
        with expectations.expect(WARM, SeatBound) as expected:
            on_seat(watcher, "ADDED", unschedulable)
            assert await expected.wait(FAR_S) is None

    assert play(scenario).said == [("seat_unschedulable", WARM)]


def test_only_the_workflow_that_is_waited_for_is_spared() -> None:
    async def scenario(watcher: PodWatcher, expectations: Expectations, starter: Starter) -> None:
        with expectations.expect("warm/ml/other/uid-2", PodBound):
            on_pod(watcher, "ADDED", released(node="gpu-1"))

    assert play(scenario).said == [("pod_bound", WARM)]


def test_a_gated_pod_is_at_hand_until_it_is_released_or_gone() -> None:
    async def scenario(watcher: PodWatcher, expectations: Expectations, starter: Starter) -> None:
        item = pod()
        item["metadata"]["managedFields"] = [{"manager": "kubectl"}]
        on_pod(watcher, "ADDED", item)
        kept = expectations.gated_pod("uid-1")
        assert kept is not None
        assert kept["spec"] == item["spec"]
        assert "managedFields" not in kept["metadata"]
        on_pod(watcher, "MODIFIED", released())
        assert expectations.gated_pod("uid-1") is None
        on_pod(watcher, "ADDED", pod())
        on_pod(watcher, "DELETED", pod())
        await asyncio.gather(*watcher._confirming)
        assert expectations.gated_pod("uid-1") is None

    play(scenario)


def test_a_pod_that_crosses_from_one_watch_to_the_other_is_not_looked_up() -> None:
    class NeverAsked(Kube):
        def get_pod(self, namespace: str, name: str) -> dict[str, Any]:
            raise AssertionError("asked for a Pod that the other watch has")

    async def scenario(watcher: PodWatcher, expectations: Expectations, starter: Starter) -> None:
        on_pod(watcher, "ADDED", pod())
        with expectations.expect(WARM, PodBound):
            on_pod(watcher, "DELETED", pod())  # first it leaves the one …
            await asyncio.sleep(0)
            on_pod(watcher, "ADDED", released())  # … then it enters the other
            await asyncio.gather(*watcher._confirming)
        on_pod(watcher, "DELETED", pod())  # or the other way round
        assert not watcher._confirming

    assert [said[0] for said in play(scenario, NeverAsked()).said] == ["start"]


def test_an_older_state_from_the_slower_watch_is_ignored() -> None:
    async def scenario(watcher: PodWatcher, expectations: Expectations, starter: Starter) -> None:
        old, new = pod(), released(node="gpu-1")
        old["metadata"]["resourceVersion"], new["metadata"]["resourceVersion"] = "99", "100"
        on_pod(watcher, "ADDED", new)
        on_pod(watcher, "MODIFIED", old)

    assert [said[0] for said in play(scenario).said] == ["pod_bound"]
