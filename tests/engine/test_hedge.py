"""A connection is slow beside others, or silent alone."""

from __future__ import annotations

from kube_cache.engine.hedge import SlowDetector


def test_slow_is_a_quarter_of_the_median() -> None:
    detector = SlowDetector()
    assert detector.find_slow({"a": 100.0, "b": 110.0, "c": 90.0, "d": 10.0}) == ["d"]
    assert detector.find_slow({"e": 5.0}) == ["e"]  # the last range has no neighbours; the median is remembered
    assert detector.find_slow({"f": 80.0}) == []


def test_one_silent_connection_is_suspicious_without_a_median() -> None:
    assert SlowDetector().find_slow({"a": 0.0}) == ["a"]
    assert SlowDetector().find_slow({"a": 0.0, "b": 0.0, "c": 0.0}) == []
