"""Each attempt of an activity is metered: its wait in the queue, its stage, its error; and nothing else changes."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.metering import Metering
from kube_cache import names
from tests.telemetry.scrape import Changes


async def metered(outcome: object, *, name: str, queue: str, waited_s: float = 0, is_local: bool = False) -> Any:
    """Run an activity that returns or raises `outcome`, by way of the interceptor."""

    async def execute_activity(_input: object) -> object:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    env = ActivityEnvironment()
    now = env.info.started_time
    env.info = dataclasses.replace(
        env.info,
        activity_type=name,
        task_queue=queue,
        is_local=is_local,
        current_attempt_scheduled_time=now - timedelta(seconds=waited_s),
    )
    interceptor = Metering().intercept_activity(SimpleNamespace(execute_activity=execute_activity))  # type: ignore[arg-type]
    return await env.run(interceptor.execute_activity, None)  # type: ignore[arg-type]


async def test_the_wait_in_the_queue_and_the_stage_are_observed() -> None:
    changes = Changes()
    assert await metered("done", name=names.CHECK_DISK, queue=names.node_queue("gpu-1"), waited_s=3) == "done"
    assert changes.of("kube_cache_queue_seconds_sum", queue="node") == pytest.approx(3)
    assert changes.of("kube_cache_stage_seconds_count", stage="check") == 1
    await metered("done", name=names.STREAM_DATASET, queue=names.node_stream_queue("gpu-1"))
    assert changes.of("kube_cache_queue_seconds_count", queue="downloads") == 1


async def test_a_local_activity_has_no_queue() -> None:
    changes = Changes()
    await metered("done", name=names.CREATE_SEAT, queue=names.OPERATOR_QUEUE, is_local=True)
    assert not changes.any_of("kube_cache_queue_seconds_count")
    assert changes.of("kube_cache_stage_seconds_count", stage="seat") == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param(ApplicationError("full", type="InsufficientDisk"), "InsufficientDisk", id="ours"),
        pytest.param(ApplicationError("?", type="s3://a/b"), "other", id="of an unknown type"),
        pytest.param(KeyError("x"), "Unexpected", id="a bug"),
    ],
)
async def test_an_error_is_counted_by_its_reason_and_passes_unchanged(error: Exception, reason: str) -> None:
    changes = Changes()
    with pytest.raises(type(error)) as raised:
        await metered(error, name=names.PING, queue=names.node_queue("gpu-1"))
    assert raised.value is error
    assert changes.of("kube_cache_errors_total", reason=reason) == 1


async def test_a_cancelled_activity_is_no_error() -> None:
    changes = Changes()
    with pytest.raises(asyncio.CancelledError):
        await metered(asyncio.CancelledError(), name=names.PING, queue=names.node_queue("gpu-1"))
    assert not changes.any_of("kube_cache_errors_total")
