"""A workflow's steps are sent once, when a run ends, and never while a history is replayed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from activities.tracing import Tracing
from kube_cache import names
from kube_cache.contracts.common import Phase, PodRef
from kube_cache.contracts.node import DatasetOnNodeStatus
from kube_cache.telemetry import spans
from kube_cache.telemetry.spans import Span
from tests.workflows.record import HISTORIES
from tests.workflows.workbench import _BRISK, WORKFLOWS, Workbench, until, workbench
from workflows.tracing import WorkflowTracing
from workflows.warm_pod.timeline import Timeline


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in sorted(HISTORIES.glob("*.json"))])
def test_a_history_without_traces_replays_with_them_and_sends_nothing(path: object, sent: list[Span]) -> None:
    """So tracing may be switched on, or off, under workflows that run."""
    history = WorkflowHistory.from_json("", path.read_text())
    history = replace(history, workflow_id=history.events[0].workflow_execution_started_event_attributes.workflow_id)
    replayer = Replayer(
        workflows=WORKFLOWS,
        interceptors=[WorkflowTracing()],
        workflow_runner=UnsandboxedWorkflowRunner(),
        debug_mode=True,
    )
    asyncio.run(replayer.replay_workflow(history))
    assert not sent


async def test_a_trace_is_whole_though_a_download_is_shared(
    temporal_address: str, sent: list[Span], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {
        **_BRISK,
        "interceptors": [Tracing(), WorkflowTracing()],
        "workflow_runner": UnsandboxedWorkflowRunner(),
    }
    monkeypatch.setattr("tests.workflows.workbench._BRISK", limits)
    seen_at = float(int(time.time()) - 60)  # as if Temporal had been away
    async with workbench(temporal_address) as bench:
        bench.world.finish_stream.clear()
        bench.seen_at = seen_at
        first = await bench.start()
        await bench.world.streaming.wait()
        second = await bench.start()
        await until(lambda: waiting(bench, 2))
        bench.world.finish_stream.set()
        pods = [(await handle.result(), handle.id.rsplit("/", 1)[1])[1] for handle in (first, second)]

    for uid in pods:
        its = [span for span in sent if span.place.trace == spans.pod_place(uid).trace]
        ids = [span.place.span for span in its]
        assert len(ids) == len(set(ids)), "each span is sent once"
        assert {span.parent for span in its} <= {0, *ids}
        (root,) = [span for span in its if not span.parent]
        steps = [span for span in its if span.parent == root.place.span]
        assert {"start", "resolve", "seat", "check", "stream", "release"} <= {step.name for step in steps}
        (start,) = [step for step in steps if step.name == "start"]
        assert root.start_ns == start.start_ns == int(seen_at * 1e9), "the trace begins with the watcher's sight"
        assert start.end_ns > start.start_ns
        seconds = sum(step.end_ns - step.start_ns for step in steps)
        assert seconds == pytest.approx(root.end_ns - root.start_ns, abs=len(steps) * 1000)
    (download,) = [span for span in sent if span.name == names.STREAM_DATASET]
    assert download.place.trace == spans.pod_place(pods[0]).trace, "of the Pod that has waited longest"
    assert [span.links for span in sent if span.name == "stream"] == [(download.place,)] * 2


async def waiting(bench: Workbench, count: int) -> bool:
    status = await bench.entity().query("status", result_type=DatasetOnNodeStatus)
    return len(status.waiting) == count


def test_the_step_of_a_placement_s_first_download_follows_from_its_number() -> None:
    timeline = Timeline(PodRef("ml", "pod", "uid"))
    for phase in (Phase.CHECKING, Phase.WARMING, Phase.WARMING, Phase.CHECKING, Phase.WARMING):
        timeline.enter(phase, 1.0, 7)
    assert [entry.key for entry in timeline.entries] == ["1.0/0", "7", "1.0/2", "1.0/3"]


def test_a_pod_that_moves_for_weeks_keeps_a_bounded_timeline() -> None:
    timeline = Timeline(PodRef("ml", "pod", "uid"))
    for number in range(10_000):
        timeline.enter(Phase.PLACING if number % 2 else Phase.CHECKING, number, number)
        timeline.link("1-1")
    assert len(timeline.entries) == 500
    assert len(timeline.entries[-1].links) == 16
