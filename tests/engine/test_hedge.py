"""A connection is slow beside others, or silent alone."""

from __future__ import annotations

from kube_cache.engine.hedge import SlowDetector


def find_slow(detector: SlowDetector, rates: dict[str, float]) -> list[str]:
    return detector.find_slow(rates, rates.values())


def test_slow_is_a_quarter_of_the_median() -> None:
    detector = SlowDetector()
    assert find_slow(detector, {"a": 100.0, "b": 110.0, "c": 90.0, "d": 10.0}) == ["d"]
    assert find_slow(detector, {"e": 5.0}) == ["e"]  # the last range has no neighbours; the median is remembered
    assert find_slow(detector, {"f": 80.0}) == []


def test_one_silent_connection_is_suspicious_without_a_median() -> None:
    assert find_slow(SlowDetector(), {"a": 0.0}) == ["a"]
    assert find_slow(SlowDetector(), {"a": 0.0, "b": 0.0, "c": 0.0}) == []


def test_one_that_trickles_is_slow_beside_those_that_fetch_object_after_object() -> None:
    assert SlowDetector().find_slow({"a": 10.0}, [10.0, 100.0, 110.0, 90.0]) == ["a"]
