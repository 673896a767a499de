"""Demand is counted in nodes, from the watches, and told by the leading operator alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kube_cache import names
from kube_cache.kube.pods import PodFacts, SeatFacts, pod_facts, seat_facts
from kube_cache.telemetry import forecast_metrics
from tests.telemetry.scrape import value
from tests.watcher.fakes import pod, released, seat
from watcher.demand import DemandIndex, DemandMetric

URI = "s3://models/gpt"


def seen(item: dict[str, Any], uid: str = "uid-1") -> PodFacts:
    item["metadata"]["uid"] = uid
    found = pod_facts(item)
    assert found is not None
    return found


def on(node: str, uid: str = "uid-1") -> PodFacts:
    return seen(released(**{names.NODE_ANNOTATION: node}), uid)


def bound(node: str, uid: str = "seat-uid") -> SeatFacts:
    item = seat(node=node)
    item["metadata"]["uid"] = uid
    found = seat_facts(item)
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def _clear() -> Iterator[None]:
    forecast_metrics.DEMAND.clear()
    yield
    forecast_metrics.DEMAND.clear()


def test_pods_of_one_node_use_one_copy() -> None:
    index = DemandIndex()
    for uid, node in (("uid-1", "gpu-1"), ("uid-2", "gpu-1"), ("uid-3", "gpu-2")):
        index.see_pod(on(node, uid))
    assert index.used() == {"gpu-1": {URI}, "gpu-2": {URI}}


def test_a_pod_that_waits_counts_where_its_seat_is_and_without_one_nowhere() -> None:
    index = DemandIndex()
    index.see_pod(seen(pod()))
    assert index.used() == {}
    index.see_seat(bound("gpu-3"))
    assert index.used() == {"gpu-3": {URI}}
    index.end_seat(bound("gpu-3", "another"))
    assert index.used() == {"gpu-3": {URI}}, "another seat ended"
    index.end_seat(bound("gpu-3"))
    assert index.used() == {}


def test_a_pod_that_is_gone_uses_nothing() -> None:
    index = DemandIndex()
    index.see_pod(on("gpu-1"))
    index.forget_pod(on("gpu-1"))
    assert index.used() == {}


def test_who_follows_or_does_not_know_all_pods_tells_nothing_and_what_ended_is_zero() -> None:
    index, leads = DemandIndex(), [False]
    metric = DemandMetric(index, lambda: leads[0])
    index.see_pod(on("gpu-1"))
    metric.look()
    assert value("kube_cache_demand_copies", dataset=URI) is None
    leads[0] = True
    metric.look()
    assert value("kube_cache_demand_copies", dataset=URI) == 1
    index.forget_pod(on("gpu-1"))
    metric.look()
    assert value("kube_cache_demand_copies", dataset=URI) == 0
    leads[0] = False
    metric.look()
    assert value("kube_cache_demand_copies", dataset=URI) is None


def test_the_metric_is_bounded_and_what_is_in_use_comes_before_what_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast_metrics, "MAX_DEMANDED", 2)
    index = DemandIndex()
    metric = DemandMetric(index, lambda: True)

    def use(number: int) -> PodFacts:
        used = seen(released(**{names.DATASET_ANNOTATION: f"s3://models/{number}"}), f"uid-{number}")
        index.see_pod(used)
        metric.look()
        return used

    def shown() -> list[float | None]:
        return [value("kube_cache_demand_copies", dataset=f"s3://models/{number}") for number in range(4)]

    first = use(0)
    use(1)
    use(2)
    assert shown() == [1, 1, None, None]
    index.forget_pod(first)
    use(3)
    assert shown() == [None, 1, 1, None], "one in use has taken the place of one that is not"
