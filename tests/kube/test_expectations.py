"""Delivery of a fact to the activity that waits for it, and the end of a wait by any other fact."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from kube_cache.contracts.warm_pod import PodBound, SeatBound
from kube_cache.kube.expectations import Expectations

WARM = "warm/ml/train/uid-1"
FAR_S = 600.0


def play(scenario: Callable[[Expectations], Awaitable[None]]) -> None:
    async def run() -> None:
        await asyncio.wait_for(scenario(Expectations()), 90)

    asyncio.run(run())


def test_a_fact_is_taken_once() -> None:
    async def scenario(expectations: Expectations) -> None:
        with expectations.expect(WARM, SeatBound) as expected:
            assert expectations.notify(WARM, SeatBound("seat", "gpu-1"))
            assert not expectations.notify(WARM, SeatBound("seat", "gpu-2"))
            assert await expected.wait(FAR_S) == SeatBound("seat", "gpu-1")
        assert not expectations.is_expected(WARM)

    play(scenario)


def test_a_fact_of_another_kind_ends_the_wait_and_is_not_taken() -> None:
    async def scenario(expectations: Expectations) -> None:
        with expectations.expect(WARM, SeatBound) as expected:
            assert not expectations.notify(WARM, PodBound("gpu-1"))
            assert await expected.wait(FAR_S) is None

    play(scenario)


def test_a_fact_of_either_kind_is_taken() -> None:
    async def scenario(expectations: Expectations) -> None:
        with expectations.expect(WARM, SeatBound, PodBound) as expected:
            assert expectations.notify(WARM, PodBound("gpu-1"))
            assert await expected.wait(FAR_S) == PodBound("gpu-1")

    play(scenario)


def test_after_the_time_the_fact_is_nobodys() -> None:
    async def scenario(expectations: Expectations) -> None:
        with expectations.expect(WARM, SeatBound) as expected:
            assert await expected.wait(0.01) is None
        assert not expectations.notify(WARM, SeatBound("seat", "gpu-1"))

    play(scenario)


def test_a_second_wait_for_the_same_workflow_survives_the_end_of_the_first() -> None:
    """An activity that Temporal has given up may still run beside its retry."""

    async def scenario(expectations: Expectations) -> None:
        first = expectations.expect(WARM, SeatBound)
        first.__enter__()
        with expectations.expect(WARM, SeatBound) as expected:
            first.__exit__(None, None, None)
            assert expectations.is_expected(WARM)
            assert expectations.notify(WARM, SeatBound("seat", "gpu-1"))
            assert await expected.wait(FAR_S) == SeatBound("seat", "gpu-1")

    play(scenario)
