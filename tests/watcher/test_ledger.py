"""What the watches show is counted once: by the leader, at the transition, and not again after a restart."""

from __future__ import annotations

from typing import Any

import pytest

from kube_cache.kube.pods import PodFacts, pod_facts, seat_facts
from tests.telemetry.scrape import Changes
from tests.watcher.fakes import pod, released, seat
from watcher.ledger import Ledger


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def facts(item: dict[str, Any], *, created: str = "") -> PodFacts:
    if created:
        item["metadata"]["creationTimestamp"] = created
    found = pod_facts(item)
    assert found is not None
    return found


def test_a_pod_is_counted_when_it_is_seen_bound_and_never_again() -> None:
    changes, clock = Changes(), Clock()
    ledger = Ledger(lambda: True, clock)
    ledger.see_pod(facts(pod()))
    clock.now += 30
    ledger.see_pod(facts(released()))
    clock.now += 2
    for _ in range(3):
        ledger.see_pod(facts(released(node="gpu-1")))
    assert changes.of("kube_cache_pod_warmup_seconds_count") == 1
    assert changes.of("kube_cache_pod_warmup_seconds_sum") == pytest.approx(32)
    assert changes.of("kube_cache_stage_seconds_count", stage="bind") == 1
    assert changes.of("kube_cache_stage_seconds_sum", stage="bind") == pytest.approx(2)


def test_an_operator_that_starts_again_does_not_count_what_it_finds_done() -> None:
    changes = Changes()
    Ledger(lambda: True, Clock()).see_pod(facts(released(node="gpu-1")))
    assert not changes.any_of("kube_cache_pod_warmup_seconds_count")


def test_a_follower_counts_nothing_and_a_new_leader_knows_the_pods_times() -> None:
    changes, clock = Changes(), Clock()
    leading = False
    ledger = Ledger(lambda: leading, clock)
    ledger.see_pod(facts(pod()))
    clock.now += 10
    leading = True
    ledger.see_pod(facts(released()))
    ledger.see_pod(facts(released(node="gpu-1")))
    assert changes.of("kube_cache_pod_warmup_seconds_sum") == pytest.approx(10)
    leading = False
    ledger.see_pod(facts(pod()))
    ledger.see_pod(facts(released(node="gpu-1")))
    assert changes.of("kube_cache_pod_warmup_seconds_count") == 1


@pytest.mark.parametrize(
    ("created", "seconds"),
    [
        pytest.param("2027-01-15T07:59:59Z", 5, id="seen in the second of its creation"),
        pytest.param("2027-01-15T07:50:00Z", 604, id="seen long after"),
        pytest.param("2027-01-15T08:00:03Z", 2, id="by a clock that is ahead of ours"),
    ],
)
def test_the_age_of_a_pod_is_right_to_a_second(created: str, seconds: float) -> None:
    changes, clock = Changes(), Clock()
    ledger = Ledger(lambda: True, clock)
    ledger.see_pod(facts(pod(), created=created))
    clock.now += 5
    ledger.see_pod(facts(released(node="gpu-1")))
    assert changes.of("kube_cache_pod_warmup_seconds_sum") == pytest.approx(seconds)


def test_a_pod_that_goes_unbound_is_forgotten() -> None:
    changes, ledger = Changes(), Ledger(lambda: True, Clock())
    ledger.see_pod(facts(pod()))
    ledger.forget_pod(facts(pod()))
    ledger.see_pod(facts(released(node="gpu-1")))
    assert not changes.any_of("kube_cache_pod_warmup_seconds_count")


@pytest.mark.parametrize(
    ("reason", "cause"),
    [("PreemptionByScheduler", "preempted"), ("DeletionByPodGC", "node_gone"), ("NewInKubernetes", "other")],
)
def test_a_seat_that_others_took_is_lost_by_their_reason(reason: str, cause: str) -> None:
    changes, item = Changes(), seat(node="gpu-1", disrupted=True)
    item["status"]["conditions"][0]["reason"] = reason
    found = seat_facts(item)
    assert found is not None
    ledger = Ledger(lambda: True, Clock())
    ledger.see_seat(found)
    ledger.end_seat(found)
    assert changes.of("kube_cache_seats_lost_total", cause=cause) == 1


def test_the_gpus_that_a_seat_reserved_are_counted_when_it_goes() -> None:
    changes, clock, item = Changes(), Clock(), seat(node="gpu-1")
    item["spec"]["containers"] = [{"name": "seat", "resources": {"requests": {"nvidia.com/gpu": "8"}}}]
    found = seat_facts(item)
    assert found is not None
    ledger = Ledger(lambda: True, clock)
    ledger.see_seat(found)
    clock.now += 10
    ledger.see_seat(found)
    clock.now += 5
    ledger.end_seat(found)
    assert changes.of("kube_cache_seat_gpu_seconds_total") == pytest.approx(8 * 15)
    assert not changes.any_of("kube_cache_seats_lost_total"), "it was given back"
