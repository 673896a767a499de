"""Lines that are logged while an activity runs say what it is about, and those after it do not."""

from __future__ import annotations

import asyncio
import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from structlog.contextvars import bound_contextvars
from structlog.testing import capture_logs
from temporalio.testing import ActivityEnvironment

from activities.log_context import LogContext
from kube_cache import names
from kube_cache.contracts.common import PodRef
from kube_cache.contracts.warm_pod import PatchGateInput

WORKFLOW = names.warm_pod_id("default", "gpt", "uid")


@pytest.fixture
def merged() -> Any:
    """Log as a process does, with what is bound in the context."""
    before = structlog.get_config()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars], cache_logger_on_first_use=False)
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        yield lines
    structlog.configure(**before)


async def run(*args: object) -> None:
    async def execute_activity(_input: object) -> None:
        log = structlog.get_logger()
        log.info("in the activity")
        await asyncio.to_thread(log.info, "in its thread")

    env = ActivityEnvironment()
    env.info = dataclasses.replace(env.info, activity_type=names.PATCH_GATE, workflow_id=WORKFLOW)
    interceptor = LogContext().intercept_activity(SimpleNamespace(execute_activity=execute_activity))  # type: ignore[arg-type]
    await env.run(interceptor.execute_activity, SimpleNamespace(args=args))  # type: ignore[arg-type]


async def test_its_lines_name_pod_node_activity_and_workflow(merged: list[dict[str, Any]]) -> None:
    await run(PatchGateInput(PodRef("default", "gpt", "uid"), "gpu-1"))
    expected = {"pod": "default/gpt", "node": "gpu-1", "activity": names.PATCH_GATE, "workflow": WORKFLOW}
    for line in merged:
        assert expected.items() <= line.items()
    assert [line["event"] for line in merged] == ["in the activity", "in its thread"]


async def test_a_trace_id_that_is_bound_before_stays(merged: list[dict[str, Any]]) -> None:
    with bound_contextvars(trace_id="4bf92f35"):
        await run()
    assert {line["trace_id"] for line in merged} == {"4bf92f35"}


async def test_lines_after_it_name_nothing(merged: list[dict[str, Any]]) -> None:
    await run(PatchGateInput(PodRef("default", "gpt", "uid"), "gpu-1"))
    structlog.get_logger().info("after")
    assert "pod" not in merged[-1]
    assert "workflow" not in merged[-1]
