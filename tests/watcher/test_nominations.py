"""A nomination that a release has left on a gated Pod is withdrawn, and one that a release uses is not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kube_cache import names
from kube_cache.kube.pods import PodFacts, pod_facts
from kube_cache.telemetry import metrics
from tests.watcher.fakes import FakeKube, pod
from watcher.nominations import Nominations


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Kube(FakeKube):
    """Obeys patches of the Pod's status."""

    def patch(self, _path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert self.pod is not None
        self.pod["status"] |= body["status"]
        return self.pod


def nominated(phase: str = "", *, gates: tuple[str, ...] = (names.GATE,)) -> dict[str, Any]:
    item = pod(gates=gates)
    item["metadata"]["resourceVersion"] = "7"
    item["status"] |= {"nominatedNodeName": "gpu-1"}
    if phase:
        item["status"]["conditions"] = [{"type": names.CONDITION, "status": "False", "reason": phase, "message": "-"}]
    return item


def facts(item: dict[str, Any]) -> PodFacts:
    found = pod_facts(item)
    assert found is not None
    return found


def found_after(seconds: float, item: dict[str, Any]) -> list[PodFacts]:
    clock = Clock()
    left = Nominations(Kube(item), clock)  # type: ignore[arg-type]
    assert left.find_left([facts(item)]) == [], "a release may be using it"
    clock.now = seconds
    return left.find_left([facts(item)])


def counted() -> float:
    return metrics.REGISTRY.get_sample_value("kube_cache_nominations_withdrawn_total") or 0


@pytest.mark.parametrize("phase", ["", "Paused", "Cancelled", "AwaitingOperator", "Warming", "Resolving"])
def test_a_nomination_that_no_release_uses_is_found_after_a_minute_and_withdrawn(phase: str) -> None:
    item = nominated(phase)
    (left,) = found_after(61, item)
    before = counted()
    kube = Kube(item)
    asyncio.run(Nominations(kube).withdraw(left))  # type: ignore[arg-type]
    assert item["status"]["nominatedNodeName"] is None
    assert counted() == before + 1


def test_a_nomination_of_a_release_that_is_tried_again_stays() -> None:
    assert found_after(3600, nominated("Releasing")) == []


def test_a_nomination_that_was_gone_for_a_while_counts_anew() -> None:
    clock, item = Clock(), nominated()
    left = Nominations(Kube(item), clock)  # type: ignore[arg-type]
    left.find_left([facts(item)])
    clock.now = 50
    left.find_left([facts(pod())])
    clock.now = 61
    assert left.find_left([facts(item)]) == []


def test_a_pod_that_was_released_meanwhile_keeps_its_nomination() -> None:
    (left,) = found_after(61, nominated())
    released = nominated(gates=())
    before = counted()
    asyncio.run(Nominations(Kube(released)).withdraw(left))  # type: ignore[arg-type]
    assert released["status"]["nominatedNodeName"] == "gpu-1"
    assert counted() == before
