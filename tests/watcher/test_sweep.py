"""The sweep: a gated Pod without an open workflow is always found, and told about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowExecutionStatus
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.service import RPCError, RPCStatusCode

from kube_cache import names
from kube_cache.contracts.common import Policy
from kube_cache.kube.pods import pod_facts, seat_facts
from kube_cache.telemetry import metrics
from kube_cache.temporal.search_attributes import PHASE
from tests.telemetry.scrape import value
from tests.watcher.fakes import WARM, FakeKube, FakeReporter, FakeStarter, pod, released, seat
from tests.workflows.workbench import until
from watcher.pods import PodWatcher
from watcher.sweep import Sweep
from watcher.warm_pods import WarmPods

Status = WorkflowExecutionStatus


class Run:
    """The last run of a workflow, as Temporal lists and describes it."""

    def __init__(
        self, status: Status, *, generation: int | None = names.WARM_POD_GENERATION, listed: bool | None = None
    ) -> None:
        self.id = WARM
        self.run_id = "run-1"
        self.status = status
        self.close_time = None if status == Status.RUNNING else datetime.now(UTC)
        self.listed = status == Status.RUNNING if listed is None else listed
        self._generation = generation
        self.typed_search_attributes = TypedSearchAttributes([SearchAttributePair(PHASE, "Warming")])

    async def memo_value(self, key: str, default: Any) -> Any:
        return default if self._generation is None else self._generation


class Temporal:
    """One workflow or none."""

    def __init__(self, run: Run | None, *, identity: str = "admin@laptop", reason: str = "by mistake") -> None:
        self.run = run
        self.starts: list[dict[str, Any]] = []
        self.terminated: list[str] = []
        self.refusal = ""
        self._identity, self._reason = identity, reason

    async def list_workflows(self, query: str) -> AsyncIterator[Run]:
        if self.run is not None and self.run.listed:
            yield self.run

    def get_workflow_handle(self, workflow_id: str, **_: Any) -> Any:
        async def describe(**_: Any) -> Run:
            if self.run is None:
                raise RPCError("no such workflow", RPCStatusCode.NOT_FOUND, b"")
            return self.run

        async def history(**_: Any) -> AsyncIterator[HistoryEvent]:
            event = HistoryEvent()
            if self.run is not None and self.run.status == Status.TERMINATED:
                event.workflow_execution_terminated_event_attributes.identity = self._identity
                event.workflow_execution_terminated_event_attributes.reason = self._reason
            yield event

        async def terminate(*, reason: str) -> None:
            self.terminated.append(workflow_id)

        return SimpleNamespace(describe=describe, fetch_history_events=history, terminate=terminate)

    async def start_workflow(self, workflow: str, arg: Any, **options: Any) -> None:
        self.starts.append(options)
        if self.refusal:
            raise RPCError(self.refusal, RPCStatusCode.INVALID_ARGUMENT, b"")


class Bench:
    def __init__(
        self,
        temporal: Temporal,
        known: dict[str, Any] | None,
        *,
        now: dict[str, Any] | None,
        seats: Sequence[dict[str, Any]] = (),
        interval_s: float = 30,
    ) -> None:
        """known: the Pod as the watch has it; now: as the API server has it."""
        self.temporal = temporal
        self.reporter = FakeReporter()
        self.deleted: list[str] = []
        kube = FakeKube(now)
        kube.delete = lambda path, _body: self.deleted.append(path.rpartition("/")[2])  # type: ignore[attr-defined]
        self.watcher = PodWatcher(kube, FakeStarter())  # type: ignore[arg-type]
        if known is not None:
            facts = pod_facts(known)
            assert facts is not None
            self.watcher.on_pod("ADDED", facts)
        for item in seats:
            its = seat_facts(item)
            assert its is not None
            self.watcher.on_seat("ADDED", its)
        self.sweep = Sweep(
            temporal,  # type: ignore[arg-type]
            kube,  # type: ignore[arg-type]
            self.watcher,
            FakeStarter(),  # type: ignore[arg-type]
            WarmPods(temporal, Policy(), self.reporter),  # type: ignore[arg-type]
            self.reporter,  # type: ignore[arg-type]
            seat_namespace="seats",
            interval_s=interval_s,
        )


def swept(run: Run | None, *, known: dict[str, Any] | None = None, now: dict[str, Any] | None = None) -> Bench:
    async def play() -> Bench:
        bench = Bench(Temporal(run), known or pod(), now=now)
        await bench.sweep.sweep()
        return bench

    return asyncio.run(play())


@pytest.mark.parametrize(
    "status", [Status.TERMINATED, Status.FAILED, Status.CANCELED, Status.TIMED_OUT, Status.COMPLETED]
)
def test_a_gated_pod_whose_workflow_ended_gets_another_however_it_ended(status: Status) -> None:
    bench = swept(Run(status), now=pod())
    (start,) = bench.temporal.starts
    assert start["id"] == WARM
    assert start["id_reuse_policy"] == WorkflowIDReusePolicy.ALLOW_DUPLICATE
    ((reason, message),) = bench.reporter.told
    assert reason == "WorkflowRestarted"
    assert message.startswith(("its workflow had ", "its workflow was "))
    assert metrics.REGISTRY.get_sample_value("kube_cache_unattended_pods", {"operator": "leader"}) == 0


MOUNTED = {
    "containers": [{"name": "main", "volumeMounts": [{"name": "kube-cache", "mountPath": "/kube-cache/0"}]}],
    "volumes": [{"name": "kube-cache", "hostPath": {"path": "/var/lib/kube-cache/snapshots"}}],
}


def bound_to(node: str, *, mounted: bool = True, phase: str = "Pending") -> dict[str, Any]:
    """A Pod that was released to gpu-1."""
    item = released(node=node, phase=phase)
    item["spec"] |= MOUNTED if mounted else {}
    return item


@pytest.mark.parametrize("node", ["gpu-9", ""], ids=["bound elsewhere", "not bound yet"])
def test_a_released_pod_that_is_not_yet_where_its_data_is_gets_another_workflow(node: str) -> None:
    """Its containers wait for data that nobody fetches any more, or nobody says that no node takes it."""
    bench = swept(Run(Status.TERMINATED), known=bound_to(node), now=bound_to(node))
    (start,) = bench.temporal.starts
    assert start["id"] == WARM
    assert [reason for reason, _ in bench.reporter.told] == ["WorkflowRestarted"]


@pytest.mark.parametrize(
    "pod_now",
    [
        pytest.param(bound_to("gpu-1"), id="where its data is"),
        pytest.param(bound_to("gpu-9", mounted=False), id="without a mount, so it started"),
        pytest.param(bound_to("gpu-9", phase="Succeeded"), id="ended"),
    ],
)
def test_a_released_pod_that_waits_for_nothing_needs_no_workflow(pod_now: dict[str, Any]) -> None:
    assert swept(Run(Status.COMPLETED), known=pod_now, now=pod_now).temporal.starts == []


def test_a_released_pod_that_was_bound_since_the_watch_showed_it_is_left_alone() -> None:
    bench = swept(Run(Status.COMPLETED), known=bound_to(""), now=bound_to("gpu-1"))
    assert bench.temporal.starts == []


def test_who_terminated_the_workflow_and_why_is_told() -> None:
    ((_, message),) = swept(Run(Status.TERMINATED), now=pod()).reporter.told
    assert "terminated by admin@laptop: by mistake" in message


def test_a_gated_pod_that_temporal_knows_nothing_of_is_started() -> None:
    bench = swept(None, now=pod())
    assert len(bench.temporal.starts) == 1


def test_a_workflow_that_the_visibility_store_does_not_show_yet_is_left_alone() -> None:
    bench = swept(Run(Status.RUNNING, listed=False), now=pod())
    assert bench.temporal.starts == []
    assert bench.reporter.told == []


@pytest.mark.parametrize(
    "now",
    [
        pytest.param(None, id="gone"),
        pytest.param(released(node="gpu-1"), id="released"),
        pytest.param({**pod(), "metadata": {**pod()["metadata"], "uid": "uid-2"}}, id="another of that name"),
    ],
)
def test_a_pod_that_the_api_server_no_longer_shows_gated_is_not_started(now: dict[str, Any] | None) -> None:
    bench = swept(Run(Status.COMPLETED), now=now)
    assert bench.temporal.starts == []
    assert bench.reporter.told == []


@pytest.mark.parametrize("generation", [None, names.WARM_POD_GENERATION - 1, names.WARM_POD_GENERATION + 1])
def test_an_open_workflow_of_another_generation_is_replaced(generation: int | None) -> None:
    bench = swept(Run(Status.RUNNING, generation=generation), now=pod())
    (start,) = bench.temporal.starts
    assert start["id_conflict_policy"] == WorkflowIDConflictPolicy.TERMINATE_EXISTING
    assert start["memo"] == {names.GENERATION_MEMO: names.WARM_POD_GENERATION}
    assert bench.temporal.terminated == []


def test_a_workflow_of_another_generation_ends_when_its_pod_is_not_gated() -> None:
    bench = swept(Run(Status.RUNNING, generation=1), known=released(node="gpu-1"), now=released(node="gpu-1"))
    assert bench.temporal.starts == []
    assert bench.temporal.terminated == [WARM]


def test_an_open_workflow_of_this_generation_is_left_alone() -> None:
    bench = swept(Run(Status.RUNNING), now=pod())
    assert bench.temporal.starts == []
    assert bench.temporal.terminated == []


def test_seats_that_the_last_run_left_are_deleted_but_the_one_that_the_next_takes_over() -> None:
    async def play() -> Bench:
        first, third = seat(node="gpu-1"), seat(node="gpu-2")
        third["metadata"] |= {"name": "seat-uid-1-3", "uid": "seat-uid-3"}
        bench = Bench(Temporal(Run(Status.TERMINATED)), pod(), now=pod(), seats=[first, third])
        await bench.sweep.sweep()
        return bench

    assert asyncio.run(play()).deleted == ["seat-uid-1-3"]


def test_a_workflow_that_ends_each_time_is_started_ever_more_seldom() -> None:
    async def play() -> Bench:
        bench = Bench(Temporal(Run(Status.FAILED)), pod(), now=pod(), interval_s=1000)
        for _ in range(5):
            await bench.sweep.sweep()
        return bench

    assert len(asyncio.run(play()).temporal.starts) == 1


def test_a_pod_whose_start_is_refused_stays_in_the_count_and_is_told() -> None:
    async def play() -> Bench:
        bench = Bench(Temporal(None), pod(), now=pod())
        bench.temporal.refusal = "too long"
        await bench.sweep.sweep()
        return bench

    assert [reason for reason, _ in asyncio.run(play()).reporter.told] == ["WorkflowRestarted", "StartRefused"]
    assert metrics.REGISTRY.get_sample_value("kube_cache_unattended_pods", {"operator": "leader"}) == 1


def test_one_pod_that_cannot_be_read_does_not_keep_the_sweep_from_the_others() -> None:
    class Broken(FakeKube):
        def get_pod(self, namespace: str, name: str) -> dict[str, Any]:
            if name == "train":
                raise ValueError("unreadable")
            return other

    other = pod()
    other["metadata"] |= {"name": "other", "uid": "uid-2"}

    async def play() -> list[dict[str, Any]]:
        bench = Bench(Temporal(None), pod(), now=None)
        bench.sweep._kube = Broken()  # type: ignore[assignment]
        facts = pod_facts(other)
        assert facts is not None
        bench.watcher.on_pod("ADDED", facts)
        await bench.sweep.sweep()
        return bench.temporal.starts

    assert [start["id"] for start in asyncio.run(play())] == ["warm/ml/other/uid-2"]


def test_the_oldest_gated_pod_is_measured_whether_it_has_a_workflow_or_not() -> None:
    old = pod()
    old["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    swept(Run(Status.RUNNING), known=old, now=old)
    age = metrics.REGISTRY.get_sample_value("kube_cache_oldest_gated_pod_seconds", {"operator": "leader"})
    assert age is not None
    assert age > 86_400


def test_gated_pods_and_open_workflows_are_counted_by_phase() -> None:
    swept(Run(Status.RUNNING), known=pod(), now=pod())
    assert value("kube_cache_gated_pods", phase="other") == 1, "its condition is yet to come"
    assert value("kube_cache_workflows", phase="Warming") == 1
    swept(None, known=released(), now=released())
    assert value("kube_cache_gated_pods", phase="other") == 0
    assert value("kube_cache_workflows", phase="Warming") == 0


def test_a_workflow_that_cannot_be_ended_keeps_no_pod_from_its_own() -> None:
    """A server may forbid to terminate, for instance; each sweep would stop there."""

    async def play() -> Bench:
        bench = Bench(Temporal(None), pod(), now=pod(), interval_s=0.01)

        async def refuse() -> None:
            raise RPCError("not yours to terminate", RPCStatusCode.PERMISSION_DENIED, b"")

        bench.sweep._unreplayable.end = refuse  # type: ignore[method-assign]
        running = asyncio.create_task(bench.sweep.run())
        await until(lambda: bench.temporal.starts)
        running.cancel()
        return bench

    assert asyncio.run(play()).temporal.starts[0]["id"] == WARM


def test_prefetches_are_counted_by_phase() -> None:
    class Prefetches(Temporal):
        async def list_workflows(self, query: str) -> AsyncIterator[Any]:
            assert "WorkflowType = 'Prefetch'" in query
            for name, phase in (("ml/a", "Ready"), ("ml/b", "Waiting"), ("web/c", "Ready"), ("web/d", "Later")):
                found = TypedSearchAttributes([SearchAttributePair(PHASE, phase)])
                yield SimpleNamespace(id=f"prefetch/{name}", typed_search_attributes=found)

    sweep = Sweep.__new__(Sweep)
    sweep._client = Prefetches(None)  # type: ignore[assignment]
    asyncio.run(sweep.count_prefetches())
    seen = {phase: value("kube_cache_prefetches", phase=phase) for phase in ("Ready", "Waiting", "Warming", "other")}
    assert seen == {"Ready": 2, "Waiting": 1, "Warming": 0, "other": 1}
