"""A server that says how long to wait is asked again no earlier, on a real Temporal server."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.failures import as_application_errors
from kube_cache import names
from kube_cache.kube.client import ApiError
from tests.workflows.fakes import DIGEST
from tests.workflows.workbench import workbench

WAIT_S = 3.0
"""More than the half second after which a local activity is tried again by itself."""


@as_application_errors
def refused() -> None:
    raise ApiError(429, "TooManyRequests", "too many requests", retry_after_s=WAIT_S)


async def test_the_next_attempt_of_an_activity_waits_as_long_as_the_server_asks(temporal_address: str) -> None:
    with pytest.raises(ApplicationError) as raised:
        ActivityEnvironment().run(refused)
    assert raised.value.next_retry_delay == timedelta(seconds=WAIT_S)
    async with workbench(temporal_address) as bench:
        world = bench.world
        world.complete.add(DIGEST)
        world.error[names.PATCH_GATE] = [raised.value]
        times: list[float] = []
        enter = world._enter

        def timed(name: str, arg: Any) -> None:
            if name == names.PATCH_GATE:
                times.append(asyncio.get_running_loop().time())
            enter(name, arg)

        world._enter = timed  # type: ignore[method-assign]
        result = await (await bench.start()).result()
        assert result.outcome == "released"
        assert times[1] - times[0] >= WAIT_S
