"""The backoff of all loops: it grows, stays within its bounds, and begins again after a success."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from kube_cache.backoff import Backoff


@pytest.fixture(autouse=True)
def _same_numbers_each_time() -> None:
    random.seed(11)


@pytest.mark.parametrize(("min_s", "max_s"), [(0.1, 10.0), (0.5, 30.0), (1.0, 1.0)])
def test_every_delay_is_within_the_bounds(min_s: float, max_s: float) -> None:
    backoff = Backoff(min_s, max_s)
    assert all(min_s <= backoff.next_s() <= max_s for _ in range(1000))


def test_the_first_delay_is_at_most_three_times_the_minimum() -> None:
    assert all(0.1 <= Backoff(0.1, 20).next_s() <= 0.3 for _ in range(100))


def test_delays_grow_to_the_maximum() -> None:
    backoff = Backoff(0.1, 20)
    delays = [backoff.next_s() for _ in range(100)]
    assert max(delays) == 20
    assert sum(delays[:5]) < sum(delays[-5:])


def test_a_delay_is_at_most_three_times_the_one_before() -> None:
    backoff = Backoff(0.1, 20)
    delays = [backoff.next_s() for _ in range(100)]
    assert all(after <= 3 * before for before, after in pairwise(delays))


def test_two_loops_that_failed_together_do_not_come_back_together() -> None:
    backoffs = [Backoff(0.1, 20) for _ in range(50)]
    assert len({backoff.next_s() for backoff in backoffs}) == 50


def test_a_reset_begins_again() -> None:
    backoff = Backoff(0.1, 20)
    for _ in range(50):
        backoff.next_s()
    backoff.reset()
    assert backoff.next_s() <= 0.3
