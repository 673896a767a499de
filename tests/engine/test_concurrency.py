"""Connections grow while they bring bytes, and only then."""

from __future__ import annotations

import pytest

from kube_cache.engine.concurrency import ConcurrencyController, Window


def window(rate: float, **change: object) -> Window:
    return Window(**{"bytes_per_s": rate, "idle": 0, "disk": 0.1, "cpu": 0.1, "throttled": False, **change})  # type: ignore[arg-type]


def test_a_number_that_is_known_to_help_is_taken_at_once() -> None:
    controller = ConcurrencyController(8, 64)
    controller.raise_to(16)
    assert controller.connections == 16
    controller.raise_to(4)
    assert controller.connections == 16
    controller.raise_to(100)
    assert controller.connections == 64


def test_connections_grow_while_they_bring_bytes() -> None:
    controller = ConcurrencyController(8, 256)
    for _ in range(40):
        controller.step(window(min(controller.connections, 60) * 20e6))
    assert 60 <= controller.connections <= 90


def test_what_brings_nothing_is_taken_back_and_not_tried_for_a_while() -> None:
    controller = ConcurrencyController(8, 256)
    numbers = [controller.step(window(1e9)) for _ in range(12)]
    assert numbers[:2] == [11, 8]
    assert set(numbers[1:11]) == {8}


@pytest.mark.parametrize("change", [{"idle": 2}, {"disk": 0.6}, {"cpu": 0.9}, {"throttled": True}], ids=str)
def test_no_growth_when_something_else_is_the_limit(change: dict[str, object]) -> None:
    controller = ConcurrencyController(8, 256)
    for step in range(10):
        controller.step(window(1e8 * (step + 1), **change))
    assert controller.connections == 8


def test_never_more_than_the_maximum() -> None:
    controller = ConcurrencyController(8, 12)
    for step in range(20):
        assert controller.step(window(1e8 * 2**step)) <= 12
