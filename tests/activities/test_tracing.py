"""Each attempt of an activity is a span below the step of its Pod, and its log lines name the trace."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from temporalio.api.common.v1 import Payload
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.tracing import Tracing
from kube_cache import names
from kube_cache.contracts.common import Consumer, PodRef, Snapshot
from kube_cache.contracts.node import StreamInput
from kube_cache.telemetry import spans
from kube_cache.telemetry.spans import Place, Span

STEP = spans.step_place("uid", "check", "run/3")


async def traced(arg: object, header: str | None = None, outcome: object = None, *, attempt: int = 1) -> Any:
    """Run an activity by way of the interceptor; return what its log lines would name."""
    seen: dict[str, Any] = {}

    async def execute_activity(_input: object) -> object:
        seen.update(structlog.contextvars.get_contextvars())
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    env = ActivityEnvironment()
    env.info = dataclasses.replace(env.info, activity_type="check_disk", attempt=attempt)
    headers = {} if header is None else {names.SPAN_HEADER: Payload(data=header.encode())}
    interceptor = Tracing().intercept_activity(SimpleNamespace(execute_activity=execute_activity))  # type: ignore[arg-type]
    await env.run(interceptor.execute_activity, SimpleNamespace(args=[arg], headers=headers))  # type: ignore[arg-type]
    return seen


async def test_the_span_is_below_the_step_that_the_header_names(sent: list[Span]) -> None:
    seen = await traced(None, str(STEP), attempt=3)
    (span,) = sent
    assert (span.name, span.place.trace, span.parent) == ("check_disk", STEP.trace, STEP.span)
    assert span.attributes["kube_cache.attempt"] == 3
    assert seen["trace_id"] == spans.trace_id("uid")
    assert "trace_id" not in structlog.contextvars.get_contextvars(), "the next activity of the thread is another's"


async def test_a_failure_is_told(sent: list[Span]) -> None:
    with pytest.raises(ApplicationError):
        await traced(None, str(STEP), ApplicationError("full", type="InsufficientDisk"))
    assert "InsufficientDisk" in sent[0].error


@pytest.mark.parametrize("header", [None, "of somebody else"])
async def test_an_activity_that_no_pod_waits_for_is_not_traced(sent: list[Span], header: str | None) -> None:
    assert "trace_id" not in await traced(None, header)
    assert not sent


async def test_a_download_is_in_the_trace_of_the_pod_that_waits_longest(sent: list[Span]) -> None:
    consumer = Consumer("workflow", PodRef("ml", "pod", "uid"), attempt=7)
    await traced(StreamInput("disk", Snapshot("s3://b/k", "d", 1, 1), consumer=consumer))
    assert (sent[0].place.trace, sent[0].parent) == spans.step_place("uid", "stream", "7")


async def test_a_repair_has_a_trace_of_its_own(sent: list[Span]) -> None:
    await traced(StreamInput("disk", Snapshot("s3://b/k", "d", 1, 1)))
    assert sent[0].parent == 0
    assert sent[0].place != Place(0, 0)
