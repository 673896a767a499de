"""The count of bytes never falls, whatever is fetched again or was fetched before."""

from __future__ import annotations

from kube_cache.engine.meter import Meter


def test_progress_does_not_fall_when_bytes_are_fetched_again() -> None:
    meter = Meter()
    meter.add(100)
    meter.refetch(60)
    assert meter.total == 100
    meter.add(50)
    assert meter.total == 100
    meter.add(20)
    assert meter.total == 110
    assert meter.rate() > 0


def test_resumed_bytes_count_without_a_rate() -> None:
    meter = Meter()
    meter.resume(100)
    assert meter.total == 100
    assert meter.rate() == 0


def test_resumed_bytes_stand_for_those_that_were_to_be_fetched_again() -> None:
    meter = Meter()
    meter.add(100)
    meter.refetch(100)
    meter.resume(100)
    assert meter.total == 100
