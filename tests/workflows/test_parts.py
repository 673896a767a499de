"""The parts of a `WarmPod` by themselves, without a server: time, activities and conditions are asyncio's here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pytest
from temporalio import workflow
from temporalio.converter import DataConverter

from kube_cache.contracts.common import Consumer, ErrorInfo, PodRef, PodView, Policy, Snapshot
from kube_cache.contracts.node import (
    CheckDiskInput,
    CheckDiskResult,
    DatasetOnNodeInput,
    DatasetState,
    DiskSnapshot,
    JoinInput,
)
from kube_cache.contracts.warm_pod import (
    CreateSeatInput,
    CreateSeatResult,
    DatasetFailed,
    DatasetReady,
    DeleteSeatInput,
    PublishProgressInput,
    ReportInput,
    SeatBound,
    SeatLost,
    SeatUnschedulable,
)
from tests.workflows.workbench import until
from workflows import activity_calls
from workflows.warm_pod import messages, node_data, options
from workflows.warm_pod.exceptions import DiskRejected, NeedsOperator, NodeLost, SeatMoved, SourceChanged
from workflows.warm_pod.node_data import NodeData
from workflows.warm_pod.reporter import Reporter
from workflows.warm_pod.requests import Requests, Stop
from workflows.warm_pod.seat import Seat

POD = PodRef("ml", "train", "uid-1")
SNAPSHOTS = [Snapshot("s3://b/one", "1" * 64, 1, 100), Snapshot("s3://b/two", "2" * 64, 1, 200)]
START = datetime(2026, 1, 1, tzinfo=UTC)


class Calls:
    """What the activities were given, and what they answer."""

    def __init__(self) -> None:
        self.seats: list[CreateSeatInput] = []
        self.deleted: list[str] = []
        self.joined: list[JoinInput] = []
        self.reports: list[ReportInput] = []
        self.bound = ""
        self.complete: set[str] = set()

    async def create_seat(self, arg: CreateSeatInput) -> CreateSeatResult:
        self.seats.append(arg)
        return CreateSeatResult(f"seat-{arg.pod.uid}-{arg.number}", node=self.bound)

    async def delete_seat(self, arg: DeleteSeatInput) -> None:
        self.deleted.append(arg.name)

    async def join_dataset(self, arg: JoinInput) -> None:
        self.joined.append(arg)

    async def report_phase(self, arg: ReportInput) -> None:
        self.reports.append(arg)

    async def check_disk(self, node: str, arg: CheckDiskInput, _schedule_to_start_s: float) -> CheckDiskResult:
        found = [DiskSnapshot(snapshot.digest, snapshot.digest in self.complete, 0) for snapshot in arg.snapshots]
        return CheckDiskResult(f"disk-of-{node}", found)

    def publish_progress(self, _arg: PublishProgressInput) -> asyncio.Task[None]:
        return asyncio.ensure_future(asyncio.Event().wait())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    async def wait_condition(
        condition: Callable[[], bool],
        *,
        timeout: timedelta | None = None,  # noqa: ASYNC109 -- Temporal's signature
    ) -> None:
        async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
            while True:
                if condition():
                    return
                await asyncio.sleep(0)

    made = Calls()
    monkeypatch.setattr(workflow, "wait_condition", wait_condition)
    monkeypatch.setattr(workflow, "now", lambda: START)
    for name in ("create_seat", "delete_seat", "join_dataset", "report_phase", "check_disk", "publish_progress"):
        monkeypatch.setattr(activity_calls, name, getattr(made, name))
    return made


# Requests and options


def requests(**view: object) -> Requests:
    return Requests(PodView(**{"dataset": "s3://b/x", **view}), Policy(), START)


@pytest.mark.parametrize("final", [Stop.GONE, Stop.UNGATED, Stop.COLD])
def test_nothing_replaces_a_final_stop(final: Stop) -> None:
    asked = requests()
    asked.request_stop(final)
    asked.request_stop(Stop.CANCEL)
    assert asked.stop == final
    assert asked.have_ended


@pytest.mark.parametrize(
    ("action", "stop", "retry"),
    [("cancel", Stop.CANCEL, False), ("pause", Stop.PAUSE, False), ("retry", None, True), ("resume", None, True)],
)
def test_the_action_annotation_does_what_the_signal_does(action: str, stop: Stop | None, retry: bool) -> None:
    asked = requests()
    asked.on_pod_changed(replace(asked.view, action=action))
    assert (asked.stop, asked.retry_requested) == (stop, retry)


def test_an_unknown_action_does_nothing() -> None:
    asked = requests()
    asked.act_on("explode")
    assert (asked.stop, asked.retry_requested) == (None, False)


@pytest.mark.parametrize("field", [field.name for field in fields(PodView)])
def test_every_field_of_the_request_but_the_action_and_the_gates_is_a_new_request(field: str) -> None:
    """A field that is added later is compared too, without anybody thinking of it."""
    before = PodView()
    changed = replace(before, **{field: ["x"] if field == "foreign_gates" else False if field == "gated" else "x"})
    assert options.differ(before, changed) == (field not in ("action", "gated", "foreign_gates"))


def test_a_gate_that_others_removed_ends_the_wait_but_not_the_one_that_we_remove() -> None:
    asked = requests()
    asked.releasing = True
    asked.on_pod_changed(replace(asked.view, gated=False))
    assert asked.stop is None
    asked.releasing = False
    asked.on_pod_changed(replace(asked.view, gated=False))
    assert asked.stop == Stop.UNGATED


def test_gate_time_runs_from_the_start_and_anew_from_a_retry() -> None:
    asked = requests(max_gate_time="10m")
    later = START + timedelta(minutes=4)
    assert asked.gate_time_left(later) == timedelta(minutes=6)
    asked.restart_gate_time(later)
    assert asked.gate_time_left(later) == timedelta(minutes=10)
    assert asked.gate_time_left(START + timedelta(days=1)) == timedelta(milliseconds=1)
    assert requests().gate_time_left(later) is None


# The seat


def seat() -> Seat:
    return Seat(POD, Policy(), "warm/ml/train/uid-1")


@contextlib.asynccontextmanager
async def silent() -> AsyncIterator[None]:
    yield


async def unheard(_message: str) -> None:
    raise AssertionError("the scheduler said nothing")


async def test_a_seat_that_is_bound_at_once_is_taken_without_a_signal(calls: Calls) -> None:
    calls.bound = "gpu-1"
    assert await seat().take(SNAPSHOTS, unheard, silent) == "gpu-1"


async def test_a_late_signal_about_an_earlier_seat_means_nothing(calls: Calls) -> None:
    calls.bound = "gpu-1"
    held = seat()
    await held.take(SNAPSHOTS, unheard, silent)
    await held.give_up()
    await held.take(SNAPSHOTS, unheard, silent)
    held.on_lost(SeatLost("seat-uid-1-1"))
    held.check_stands()
    held.on_lost(SeatLost("seat-uid-1-2", "preempted"))
    with pytest.raises(SeatMoved, match="preempted"):
        held.check_stands()


async def test_a_seat_lost_before_it_is_bound_is_taken_again_under_the_next_number(calls: Calls) -> None:
    held = seat()
    taking = asyncio.ensure_future(held.take(SNAPSHOTS, unheard, silent))
    await asyncio.sleep(0.01)
    held.on_lost(SeatLost("seat-uid-1-1", "preempted"))
    await asyncio.sleep(0.01)
    held.on_bound(SeatBound("seat-uid-1-2", "gpu-2"))
    assert await taking == "gpu-2"
    assert [arg.number for arg in calls.seats] == [1, 2]


async def test_what_the_scheduler_says_is_reported_once(calls: Calls) -> None:
    held = seat()
    said: list[str] = []

    async def report(message: str) -> None:
        said.append(message)

    taking = asyncio.ensure_future(held.take(SNAPSHOTS, report, silent))
    for message in ("0/3 nodes", "0/3 nodes", "0/4 nodes"):
        await asyncio.sleep(0.01)
        held.on_unschedulable(SeatUnschedulable("seat-uid-1-1", message))
    await asyncio.sleep(0.01)
    held.on_bound(SeatBound("seat-uid-1-1", "gpu-1"))
    await taking
    assert said == ["0/3 nodes", "0/4 nodes"]


async def test_an_avoided_node_is_excluded_until_its_time_is_over(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls.bound = "gpu-2"
    held = seat()
    held.avoid("gpu-1")
    await held.resync()
    monkeypatch.setattr(workflow, "now", lambda: START + timedelta(seconds=Policy().node_exclusion_s + 1))
    await held.resync()
    assert [arg.exclude_nodes for arg in calls.seats] == [["gpu-1"], []]


# The data on the node


def data(asked: Requests, held: Seat) -> NodeData:
    made = NodeData(POD, Policy(), "warm/ml/train/uid-1", asked, held)
    made.snapshots = SNAPSHOTS
    return made


async def test_only_what_is_missing_is_fetched(calls: Calls) -> None:
    calls.complete = {SNAPSHOTS[0].digest}
    wanted = data(requests(priority="7"), seat())
    await wanted.check("gpu-1")
    assert (wanted.hits, wanted.missing) == (SNAPSHOTS[:1], SNAPSHOTS[1:])
    fetching = asyncio.ensure_future(wanted.fetch_missing())
    await asyncio.sleep(0.01)
    (join,) = calls.joined
    assert join.dataset.snapshot == SNAPSHOTS[1]
    assert (join.consumer.priority, join.consumer.hit, join.leave) == (7, False, False)
    wanted.on_ready(DatasetReady(SNAPSHOTS[1].digest, fetched_bytes=200))
    assert await fetching == 200


async def test_every_disk_on_which_something_was_pinned_is_left(calls: Calls) -> None:
    wanted = data(requests(), seat())
    await wanted.check("gpu-1")
    await wanted.check("gpu-2")
    await wanted.leave_all()
    await wanted.leave_all()
    left = {(arg.dataset.cache_id, arg.dataset.snapshot.digest) for arg in calls.joined if arg.leave}
    assert left == {(disk, one.digest) for disk in ("disk-of-gpu-1", "disk-of-gpu-2") for one in SNAPSHOTS}
    assert len(calls.joined) == 4, "once each"


async def test_a_lost_seat_ends_the_wait_for_the_data(calls: Calls) -> None:
    calls.bound = "gpu-1"
    held = seat()
    await held.take(SNAPSHOTS, unheard, silent)
    wanted = data(requests(), held)
    await wanted.check("gpu-1")
    fetching = asyncio.ensure_future(wanted.fetch_missing())
    await asyncio.sleep(0.01)
    held.on_lost(SeatLost("seat-uid-1-1", "preempted"))
    with pytest.raises(SeatMoved, match="preempted"):
        await fetching


async def test_an_entity_that_does_not_answer_is_joined_again(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_data, "_RESYNC", timedelta(seconds=0.01))
    wanted = data(requests(), seat())
    wanted.snapshots = SNAPSHOTS[:1]
    await wanted.check("gpu-1")
    fetching = asyncio.ensure_future(wanted.fetch_missing())
    await until(lambda: len(calls.joined) >= 3)
    wanted.on_ready(DatasetReady(SNAPSHOTS[0].digest))
    await fetching


@pytest.mark.parametrize(
    ("error", "consequence"),
    [
        ("AgentLost", NodeLost),
        ("NodeUnsuitable", SeatMoved),
        ("InsufficientDisk", DiskRejected),
        ("PersistentDiskFault", DiskRejected),
        ("SourceChanged", SourceChanged),
        ("AccessDenied", NeedsOperator),
    ],
)
async def test_what_a_failed_download_means(calls: Calls, error: str, consequence: type[Exception]) -> None:
    wanted = data(requests(), seat())
    await wanted.check("gpu-1")
    fetching = asyncio.ensure_future(wanted.fetch_missing())
    await asyncio.sleep(0.01)
    wanted.on_failed(DatasetFailed(SNAPSHOTS[0].digest, ErrorInfo(error, "why")))
    with pytest.raises(consequence):
        await fetching


# What is shown


async def test_a_phase_is_reported_only_when_it_takes_long(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "set_current_details", lambda _text: None)
    asked = requests()
    reporter = Reporter(POD, Policy(slow_phase_after_s=0.02), asked, data(asked, seat()))
    async with reporter.report_if_slow():
        pass
    await asyncio.sleep(0.05)
    assert calls.reports == []
    async with reporter.report_if_slow():
        await until(lambda: calls.reports)
    assert calls.reports[0].message == "listing s3://b/x"


def test_a_stopped_pod_is_told_how_it_goes_on() -> None:
    assert "=resume" in messages.stopped(Stop.PAUSE, None, "warm/x").message
    assert "=retry" in messages.stopped(Stop.CANCEL, None, "warm/x").message
    assert "--workflow-id warm/x --name retry" in messages.stopped(Stop.TIMEOUT, None, "warm/x").message
    failed = messages.stopped(None, ErrorInfo("AccessDenied", "no"), "warm/x")
    assert (failed.event, failed.message.splitlines()[0]) == ("AccessDenied", "AccessDenied: no")


# The entity's state


async def test_the_whole_state_of_an_entity_crosses_temporal() -> None:
    consumer = Consumer("warm/x", POD, priority=3)
    state = DatasetState({"warm/x": consumer}, ["warm/x"], ["warm/x"], [POD], True, True, ErrorInfo("X", "y"))
    assert all(getattr(state, field.name) != getattr(DatasetState(), field.name) for field in fields(DatasetState))
    given = DatasetOnNodeInput("gpu-1", "disk", SNAPSHOTS[0], state=state)
    converter = DataConverter.default
    (returned,) = await converter.decode(await converter.encode([given]), [DatasetOnNodeInput])
    assert returned == given
