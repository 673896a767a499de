"""Limits of requests and of bytes hold for the whole node, and the first ends by itself."""

from __future__ import annotations

import pytest

from kube_cache.engine.throttle import BandwidthLimiter, RequestLimiter


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_rate_is_halved_once_a_second_and_recovers() -> None:
    clock = Clock()
    limiter = RequestLimiter(clock)
    for _ in range(100):
        clock.now += 0.01
        assert limiter.reserve() == 0
    for _ in range(50):
        limiter.slow_down()
    assert limiter.throttled
    waits = [limiter.reserve() for _ in range(50)]
    assert waits == sorted(waits)
    assert 0.8 < waits[-1] - waits[0] < 1.2  # 50 requests: half of the 100 a second
    clock.now += 60  # 5 % a second: more than 4 times after 30 s
    assert not limiter.throttled
    assert limiter.reserve() == 0


def test_retry_after_stops_all_requests() -> None:
    clock = Clock()
    limiter = RequestLimiter(clock)
    limiter.slow_down(retry_after_s=7)
    assert limiter.reserve() == pytest.approx(7)


def test_bytes_go_through_at_the_set_rate() -> None:
    clock = Clock()
    limiter = BandwidthLimiter(1000, clock)
    for _ in range(100):
        clock.now += limiter.reserve(100)
    assert clock.now - 1000 == pytest.approx(10, abs=0.5)
    assert BandwidthLimiter(0).reserve(1 << 40) == 0
