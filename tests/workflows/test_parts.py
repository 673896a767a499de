"""The parts of a `WarmPod` by themselves, without a server: time, activities and conditions are asyncio's here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace

import pytest
from temporalio import workflow
from temporalio.converter import DataConverter
from temporalio.exceptions import ApplicationError

from kube_cache.contracts.common import (
    BannedNeighbour,
    Consumer,
    ErrorInfo,
    Phase,
    PodRef,
    PodView,
    Policy,
    Snapshot,
    Warming,
)
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
    PodState,
    ReadPodInput,
    ReportInput,
    SeatBound,
    SeatLost,
    SeatUnschedulable,
    WarmPodInput,
)
from kube_cache.contracts.warm_pod_state import (
    DataState,
    MembershipState,
    Pins,
    RejectionState,
    ReleaseState,
    Report,
    ReportState,
    RequestState,
    SeatState,
    WarmPodState,
)
from tests.workflows.workbench import until
from workflows import cluster_calls, node_calls
from workflows.warm_pod import messages, node_data, options, parts, seat
from workflows.warm_pod.exceptions import DiskRejected, NeedsOperator, NodeLost, SeatMoved, SourceChanged
from workflows.warm_pod.parts import Parts
from workflows.warm_pod.requests import Requests, Stop
from workflows.warm_pod.waiting import Pauses

POD = PodRef("ml", "train", "uid-1")
SNAPSHOTS = [Snapshot("s3://b/one", "1" * 64, 1, 100), Snapshot("s3://b/two", "2" * 64, 1, 200)]
START = datetime(2026, 1, 1, tzinfo=UTC)


class Calls:
    """What the activities were given, and what they answer."""

    def __init__(self) -> None:
        self.seats: list[CreateSeatInput] = []
        self.deleted: list[str] = []
        self.checked: list[tuple[str, CheckDiskInput]] = []
        self.joined: list[JoinInput] = []
        self.reports: list[ReportInput] = []
        self.bound = ""
        self.held: list[str] = []
        self.avoids: list[str] = []
        self.found = PodState(gone=False)
        self.failures: dict[str, list[Exception]] = {}
        self.complete: set[str] = set()

    def fail(self, name: str) -> None:
        failures = self.failures.get(name)
        if failures:
            raise failures.pop(0)

    async def create_seat(self, arg: CreateSeatInput) -> CreateSeatResult:
        self.seats.append(arg)
        self.fail("create_seat")
        return CreateSeatResult(f"seat-{arg.pod.uid}-{arg.number}", node=self.bound, held=self.held, avoids=self.avoids)

    async def delete_seat(self, arg: DeleteSeatInput) -> None:
        self.deleted.append(arg.name)

    async def join_dataset(self, arg: JoinInput) -> None:
        self.joined.append(arg)

    async def report_phase(self, arg: ReportInput) -> None:
        self.reports.append(arg)
        self.fail("report_phase")

    async def read_pod(self, _arg: ReadPodInput) -> PodState:
        return self.found

    async def check_disk(self, node: str, arg: CheckDiskInput, _schedule_to_start_s: float) -> CheckDiskResult:
        self.checked.append((node, arg))
        found = [DiskSnapshot(snapshot.digest, snapshot.digest in self.complete, 0) for snapshot in arg.snapshots]
        return CheckDiskResult(f"disk-of-{node}", found)


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
    monkeypatch.setattr(workflow, "random", lambda: random.Random(1))
    monkeypatch.setattr(workflow, "info", lambda: SimpleNamespace(is_continue_as_new_suggested=lambda: False))
    monkeypatch.setattr(workflow, "set_current_details", lambda _text: None)
    monkeypatch.setattr(workflow, "logger", logging.getLogger("test"))  # outside a workflow the SDK's own raises
    monkeypatch.setattr(Pauses, "next_s", lambda _self: 0.01)
    for name in (
        "create_seat",
        "delete_seat",
        "join_dataset",
        "read_pod",
        "report_phase",
    ):
        monkeypatch.setattr(cluster_calls, name, getattr(made, name))
    monkeypatch.setattr(node_calls, "check_disk", made.check_disk)
    return made


def refused(kind: str, message: str = "scripted") -> ApplicationError:
    return ApplicationError(message, type=kind, non_retryable=True)


def failed(kind: str, message: str = "scripted") -> ApplicationError:
    return ApplicationError(message, type=kind)


def made_of(state: WarmPodState | None = None, policy: Policy | None = None, **view: object) -> Parts:
    inp = WarmPodInput(POD, PodView(**{"dataset": "s3://b/x", **view}), policy or Policy())  # type: ignore[arg-type]
    return parts.build(inp, state or WarmPodState(), "warm/ml/train/uid-1")


# Requests and options


def requests(state: RequestState | None = None, **view: object) -> Requests:
    return Requests(
        PodView(**{"dataset": "s3://b/x", **view}),  # type: ignore[arg-type]
        Policy(),
        state or RequestState(),
    )


def test_a_claim_that_the_pod_is_gone_is_replaced_by_nothing_less() -> None:
    asked = requests()
    asked.request_stop(Stop.UNGATED)
    asked.request_stop(Stop.CANCEL)
    assert asked.stop == Stop.UNGATED
    asked.request_stop(Stop.GONE)
    asked.request_stop(Stop.UNGATED)
    assert asked.stop == Stop.GONE
    assert asked.claims_end


@pytest.mark.parametrize(
    ("action", "stop", "retry"),
    [
        ("cancel", Stop.CANCEL, False),
        ("pause", Stop.PAUSE, False),
        ("retry", None, True),
        ("resume", None, True),
        ("retry-2", None, True),
        ("cancel-3", Stop.CANCEL, False),
        ("explode", None, False),
    ],
)
def test_the_action_annotation_does_what_the_signal_does(action: str, stop: Stop | None, retry: bool) -> None:
    asked = requests()
    asked.on_pod_changed(replace(asked.view, action=action))
    assert (asked.stop, asked.retry_requested) == (stop, retry)


def test_an_action_of_the_start_acts_once_though_the_workflow_continues_as_new() -> None:
    state = RequestState()
    first = requests(state, action="pause")
    first.begin()
    assert first.stop == Stop.PAUSE
    first.take_stop()
    again = requests(state, action="pause")
    again.begin()
    assert again.stop is None


@pytest.mark.parametrize(
    ("written", "next_one"), [("", "retry"), ("cancel", "retry"), ("retry", "retry-2"), ("retry-2", "retry-3")]
)
def test_a_second_retry_needs_another_word_and_the_pod_names_it(written: str, next_one: str) -> None:
    assert options.next_action("retry", written) == next_one
    assert options.action(next_one) == "retry"


def test_a_retry_after_a_cancel_counts_and_one_before_does_not() -> None:
    asked = requests()
    asked.request_retry()
    asked.request_stop(Stop.CANCEL)
    assert not asked.retry_requested
    asked.request_retry()
    asked.park(Stop.CANCEL)
    assert asked.retry_requested


def test_a_retry_in_the_same_task_as_the_cancel_button_counts_and_an_older_one_does_not() -> None:
    """The SDK hands over signals before the cancel, whichever came first."""
    for keep in (True, False):
        asked = requests()
        asked.request_retry()
        asked.on_cancel_button(keep_retry=keep)
        assert (asked.stop, asked.retry_requested) == (Stop.CANCEL, keep)


@pytest.mark.parametrize("field", [field.name for field in fields(PodView)])
def test_every_field_of_the_request_but_the_action_the_gates_and_the_end_is_a_new_request(field: str) -> None:
    """A field that is added later is compared too, without anybody thinking of it."""
    before = PodView()
    others: dict[str, object] = {"foreign_gates": ["x"], "gated": False, "deleting": True, "mounts_current": True}
    own = ("action", "gated", "foreign_gates", "requirements", "deleting")
    changed = replace(before, **{field: others.get(field, "x")})  # type: ignore[arg-type]
    assert options.differ(before, changed) == (field not in own)


def test_a_gate_that_others_removed_ends_the_wait_but_not_the_one_that_we_remove() -> None:
    asked = requests()
    asked.releasing = True
    asked.on_pod_changed(replace(asked.view, gated=False))
    assert asked.stop is None
    asked.releasing = False
    asked.on_pod_changed(replace(asked.view, gated=False))
    assert asked.stop == Stop.UNGATED


def test_a_pod_that_is_being_deleted_counts_as_gone() -> None:
    asked = requests()
    asked.on_pod_changed(replace(asked.view, deleting=True))
    assert asked.stop == Stop.GONE


def test_a_dataset_that_is_removed_and_put_back_is_resolved_afresh() -> None:
    asked = requests()
    asked.on_pod_changed(replace(asked.view, dataset=""))
    assert asked.stop == Stop.DATASET_REMOVED
    asked.on_pod_changed(replace(asked.view, dataset="s3://b/x"))
    assert asked.stop == Stop.CHANGED, "nobody had acted on it yet"
    asked.on_pod_changed(replace(asked.view, dataset=""))
    asked.park(asked.take_stop() or Stop.ERROR)
    assert asked.parked == Stop.DATASET_REMOVED
    asked.on_pod_changed(replace(asked.view, dataset="s3://b/x"))
    assert (asked.stop, asked.retry_requested) == (None, True)


def test_after_the_release_only_the_pods_end_is_of_interest() -> None:
    asked = requests()
    asked.note_released()
    for reason in (Stop.CANCEL, Stop.PAUSE, Stop.TIMEOUT, Stop.UNGATED):
        asked.request_stop(reason)
        assert not asked.must_stop
    asked.request_stop(Stop.GONE)
    assert asked.must_stop


# The gate time


def test_gate_time_runs_from_the_start_and_anew_from_a_retry() -> None:
    asked = requests(max_gate_time="10m")
    asked.tick(START)
    later = START + timedelta(minutes=4)
    assert asked.gate_time_left_s(later) == 360
    asked.park(Stop.ERROR)
    asked.unpark(later)
    assert asked.gate_time_left_s(later) == 600
    assert asked.gate_time_left_s(START + timedelta(days=1)) == 0.001
    assert requests().gate_time_left_s(later) is None


@pytest.mark.parametrize("reason", [Stop.PAUSE, Stop.CANCEL, Stop.DATASET_REMOVED])
def test_the_gate_time_stands_still_while_somebody_stopped_us(reason: Stop) -> None:
    asked = requests(max_gate_time="10m")
    asked.tick(START)
    asked.park(reason)
    asked.tick(START + timedelta(minutes=4))
    day = START + timedelta(days=1)
    assert asked.gate_time_left_s(day) is None
    asked.unpark(day)
    asked.tick(day)
    assert asked.gate_time_left_s(day) == (600 if reason == Stop.CANCEL else 360)


def test_the_gate_time_counts_only_while_ours_is_the_last_gate() -> None:
    asked = requests(max_gate_time="10m", foreign_gates=["kueue.x-k8s.io/topology"])
    asked.tick(START)
    day = START + timedelta(days=1)
    assert asked.gate_time_left_s(day) is None
    asked.on_pod_changed(replace(asked.view, foreign_gates=[]))
    asked.tick(day)
    assert asked.gate_time_left_s(day + timedelta(minutes=1)) == 540


def test_a_gate_time_that_is_over_ends_once() -> None:
    asked = requests(max_gate_time="10m")
    asked.tick(START)
    asked.note_timeout()
    assert asked.gate_time_left_s(START + timedelta(hours=1)) is None


# The seat


@contextlib.asynccontextmanager
async def silent() -> AsyncIterator[None]:
    yield


async def unheard(_message: str) -> None:
    raise AssertionError("the scheduler said nothing")


async def test_a_seat_that_is_bound_at_once_is_taken_without_a_signal(calls: Calls) -> None:
    calls.bound = "gpu-1"
    assert await made_of().seat.take(SNAPSHOTS, unheard, silent) == "gpu-1"


async def test_a_late_signal_about_an_earlier_seat_means_nothing(calls: Calls) -> None:
    calls.bound = "gpu-1"
    held = made_of().seat
    await held.take(SNAPSHOTS, unheard, silent)
    await held.give_up()
    await held.take(SNAPSHOTS, unheard, silent)
    held.on_lost(SeatLost("seat-uid-1-1"))
    held.check_stands()
    held.on_lost(SeatLost("seat-uid-1-2", "preempted"))
    with pytest.raises(SeatMoved, match="preempted"):
        held.check_stands()


async def test_a_seat_lost_before_it_is_bound_is_deleted_before_the_next_is_taken(calls: Calls) -> None:
    calls.bound = ""
    held = made_of().seat
    taking = asyncio.ensure_future(held.take(SNAPSHOTS, unheard, silent))
    await asyncio.sleep(0.01)
    held.on_lost(SeatLost("seat-uid-1-1", "preempted"))
    with pytest.raises(SeatMoved):
        await taking
    held.note_loss()
    await held.give_up()
    calls.bound = "gpu-2"
    assert await held.take(SNAPSHOTS, unheard, silent) == "gpu-2"
    assert [arg.number for arg in calls.seats] == [1, 2]
    assert calls.deleted == ["seat-uid-1-1"]


async def test_a_seat_that_stands_is_found_again_by_the_next_run(calls: Calls) -> None:
    calls.bound = "gpu-1"
    state = WarmPodState()
    await made_of(state).seat.take(SNAPSHOTS, unheard, silent)
    assert await made_of(state).seat.take(SNAPSHOTS, unheard, silent) == "gpu-1"
    assert [arg.number for arg in calls.seats] == [1, 1]


async def test_what_the_scheduler_says_is_reported_each_time_that_it_changes(calls: Calls) -> None:
    held = made_of().seat
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


async def test_an_avoided_node_is_tried_again_when_its_time_is_over(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a Pod that waits: its seat was told to keep away from that node, so it needs a new one."""
    held = made_of(policy=Policy(node_exclusion_s=0.05)).seat
    held.avoid("gpu-1")
    taking = asyncio.ensure_future(held.take(SNAPSHOTS, unheard, silent))
    await until(lambda: calls.seats)
    assert calls.seats[0].exclude_nodes == ["gpu-1"]
    monkeypatch.setattr(workflow, "now", lambda: START + timedelta(seconds=1))
    calls.bound = "gpu-1"
    assert await taking == "gpu-1"
    assert calls.seats[-1].exclude_nodes == []
    assert calls.deleted == ["seat-uid-1-1"]


async def test_a_node_that_is_avoided_and_deleted_is_named_by_the_seat_no_more(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An autoscaler that adds no node for a Pod that names one waits for that."""
    monkeypatch.setattr(seat, "_NAMED_LOOK_S", 0.01)
    held = made_of().seat
    held.avoid("gpu-1")
    calls.avoids = ["gpu-1"]
    taking = asyncio.ensure_future(held.take(SNAPSHOTS, unheard, silent))
    await until(lambda: held.avoided)
    assert list(held.avoided) == ["gpu-1"]
    await until(lambda: len(calls.seats) > 3)
    assert {arg.number for arg in calls.seats} == {1}, "a node that is there is named by one seat"
    calls.avoids = []
    await until(lambda: calls.seats[-1].number == 2)
    assert calls.deleted == ["seat-uid-1-1"]
    assert held.avoided == {}
    held.on_bound(SeatBound("seat-uid-1-2", "gpu-2"))
    assert await taking == "gpu-2"


async def test_losses_back_off_and_a_node_that_lost_two_is_avoided(calls: Calls) -> None:
    calls.bound = "gpu-1"
    held = made_of().seat
    pauses = []
    for _ in range(12):
        await held.take(SNAPSHOTS, unheard, silent)
        pauses.append(held.note_loss())
        await held.give_up()
    assert pauses[0] == 0, "what pushed the first seat out may be over"
    assert calls.seats[1].prefer_nodes == ["gpu-1"], "it holds what was fetched"
    assert [arg.exclude_nodes for arg in calls.seats[:3]] == [[], [], ["gpu-1"]]
    assert calls.seats[2].prefer_nodes == []
    assert all(later > earlier for earlier, later in pairwise(pauses[:8]))
    assert pauses[-1] > 200
    assert len(calls.deleted) == 12, "each lost seat is deleted"


# Patience


async def test_a_seat_that_the_server_forbids_is_told_in_its_words_and_tried_again(calls: Calls) -> None:
    calls.bound = "gpu-1"
    calls.failures["create_seat"] = [failed("SeatForbidden", "exceeded quota: seats") for _ in range(5)]
    assert await made_of().seat.take(SNAPSHOTS, unheard, silent) == "gpu-1"
    assert len(calls.seats) == 6
    (report,) = calls.reports
    assert "SeatForbidden: exceeded quota: seats" in report.message
    assert report.event_reason == "SeatForbidden"


async def test_a_seat_that_the_server_refuses_is_not_tried_again(calls: Calls) -> None:
    calls.failures["create_seat"] = [refused("SeatRefused", "spec.containers[0]: Invalid value")]
    with pytest.raises(ApplicationError, match="Invalid value"):
        await made_of().seat.take(SNAPSHOTS, unheard, silent)


async def test_a_report_that_fails_holds_nobody_up_and_is_made_up_for(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls.failures["report_phase"] = [failed("ApiError") for _ in range(2)]
    reporter = made_of().reporter
    await reporter.report(Phase.PLACING, "first")
    await reporter.report(Phase.PLACING, "second")
    await reporter.report(Phase.PLACING, "third")
    assert len(calls.reports) == 1, "one call at a time finds out when the server answers again"
    await until(lambda: reporter._state.owed is None)
    assert calls.reports[-1].message == "third", "what is owed is what is true now"
    assert len(calls.reports) == 3


# The data on the node


async def placed(calls: Calls, node: str = "gpu-1", **view: object) -> Parts:
    calls.bound = node
    made = made_of(**view)
    made.data._state.snapshots = SNAPSHOTS
    made.data.begin_attempt()
    await made.seat.take(SNAPSHOTS, unheard, silent)
    return made


async def test_only_what_is_missing_is_fetched(calls: Calls) -> None:
    calls.complete = {SNAPSHOTS[0].digest}
    wanted = (await placed(calls, priority="7")).data
    await wanted.check("gpu-1")
    assert wanted.missing == SNAPSHOTS[1:]
    fetching = asyncio.ensure_future(wanted.fetch_missing())
    await asyncio.sleep(0.01)
    (join,) = calls.joined
    assert join.dataset.snapshot == SNAPSHOTS[1]
    assert (join.consumer.priority, join.consumer.hit, join.leave) == (7, False, False)
    wanted.on_ready(DatasetReady(SNAPSHOTS[1].digest, fetched_bytes=200))
    assert await fetching == 200


async def test_what_neighbours_sent_is_added_up_over_the_datasets_of_a_placement(calls: Calls) -> None:
    wanted = (await placed(calls)).data
    await wanted.check("gpu-1")
    fetching = asyncio.ensure_future(wanted.fetch_missing())
    await asyncio.sleep(0.01)
    for snapshot, sent, neighbours in zip(SNAPSHOTS, (100, 22), (7, 3), strict=True):
        wanted.on_ready(DatasetReady(snapshot.digest, fetched_bytes=100, neighbour_bytes=sent, neighbours=neighbours))
    assert await fetching == 200
    assert (wanted._state.neighbour_bytes, wanted._state.neighbours) == (122, 7)
    release = ReleaseState("gpu-1", 1000, 200, 4.0, neighbour_bytes=122, neighbours=7)
    assert messages.warmed(release, datasets=2).endswith(", 61 % from at least 7 neighbours")
    wanted.begin_attempt()
    assert (wanted._state.neighbour_bytes, wanted._state.neighbours) == (0, 0)


async def test_every_disk_on_which_something_was_pinned_is_left_by_the_number_of_its_placement(calls: Calls) -> None:
    wanted = (await placed(calls)).data
    await wanted.check("gpu-1")
    wanted.begin_attempt()
    await wanted.check("gpu-2")
    checked = {node: arg.attempt for node, arg in calls.checked}
    assert checked["gpu-2"] > checked["gpu-1"] > 0
    await wanted.leave_all()
    await wanted.leave_all()
    left = {
        (arg.dataset.cache_id, arg.dataset.snapshot.digest, arg.consumer.attempt) for arg in calls.joined if arg.leave
    }
    assert left == {(f"disk-of-{node}", one.digest, checked[node]) for node in checked for one in SNAPSHOTS}
    assert len(calls.joined) == 4, "once each"


async def test_pins_are_left_also_by_the_run_after_a_continue_as_new(calls: Calls) -> None:
    wanted = await placed(calls)
    await wanted.data.check("gpu-1")
    state = WarmPodState(data=wanted.data._state)
    await made_of(state).data.leave_all()
    assert {arg.dataset.snapshot.digest for arg in calls.joined if arg.leave} == {one.digest for one in SNAPSHOTS}


async def test_a_lost_seat_ends_the_wait_for_the_data(calls: Calls) -> None:
    made = await placed(calls)
    await made.data.check("gpu-1")
    fetching = asyncio.ensure_future(made.data.fetch_missing())
    await asyncio.sleep(0.01)
    made.seat.on_lost(SeatLost("seat-uid-1-1", "preempted"))
    with pytest.raises(SeatMoved, match="preempted"):
        await fetching


async def test_an_entity_that_does_not_answer_is_joined_again_ever_more_seldom(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_data, "_FIRST_RESYNC_S", 0.01)
    wanted = (await placed(calls)).data
    wanted._state.snapshots = SNAPSHOTS[:1]
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
    wanted = (await placed(calls)).data
    await wanted.check("gpu-1")
    fetching = asyncio.ensure_future(wanted.fetch_missing())
    await asyncio.sleep(0.01)
    wanted.on_failed(DatasetFailed(SNAPSHOTS[0].digest, ErrorInfo(error, "why")))
    with pytest.raises(consequence):
        await fetching


async def test_a_pod_that_mounts_current_asks_for_that_link_to_be_kept(calls: Calls) -> None:
    await (await placed(calls, mounts_current=True)).data.check("gpu-1")
    ((_, arg),) = calls.checked
    assert arg.keep_current


# What is shown


async def test_a_phase_is_reported_only_when_it_takes_long(calls: Calls) -> None:
    reporter = made_of(policy=Policy(slow_phase_after_s=0.02)).reporter
    reporter.set_phase(Phase.RESOLVING)
    async with reporter.report_if_slow():
        pass
    await asyncio.sleep(0.05)
    assert calls.reports == []
    async with reporter.report_if_slow():
        await until(lambda: calls.reports)
    assert calls.reports[0].message == "listing s3://b/x"


async def test_the_slow_phase_is_silent_once_something_was_told(calls: Calls) -> None:
    reporter = made_of(policy=Policy(slow_phase_after_s=0.02)).reporter
    reporter.set_phase(Phase.PLACING)
    async with reporter.report_if_slow():
        await reporter.report(Phase.PLACING, "no node fits yet: 0/3 nodes", noisy=True)
        await asyncio.sleep(0.06)
    assert [report.message for report in calls.reports] == ["no node fits yet: 0/3 nodes"]


async def test_numbers_alone_are_told_once_a_minute_and_are_one_event(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter = made_of().reporter
    for second in range(300):
        now = START + timedelta(seconds=second)
        monkeypatch.setattr(workflow, "now", lambda now=now: now)
        words = f"0/5000 nodes are available: {4000 + second} Insufficient nvidia.com/gpu"
        await reporter.report(Phase.PLACING, words, event="NoNodeFits", warning=True, noisy=True)
    assert len(calls.reports) == 5
    assert [report.event_reason for report in calls.reports] == ["NoNodeFits", "", "", "", ""]


async def test_the_same_words_are_not_written_twice_unless_somebody_wrote_between(calls: Calls) -> None:
    reporter = made_of().reporter
    await reporter.report(Phase.PAUSED, "paused")
    await reporter.report(Phase.PAUSED, "paused")
    assert len(calls.reports) == 1
    reporter.forget_told()
    await reporter.report(Phase.PAUSED, "paused")
    assert len(calls.reports) == 2


async def test_a_pod_in_trouble_has_a_dozen_events_an_hour_and_no_more(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter = made_of().reporter
    for minute in range(120):
        now = START + timedelta(minutes=minute)
        monkeypatch.setattr(workflow, "now", lambda now=now: now)
        word = "abcdefghijklmnopqrstuvwxyz"[minute % 26] * (1 + minute // 26)
        await reporter.report(Phase.PLACING, word, event="SeatLost", warning=True)
    assert len(calls.reports) == 120
    assert sum(bool(report.event_reason) for report in calls.reports) <= 26


@pytest.mark.parametrize(
    ("reason", "phase", "words"),
    [
        (Stop.PAUSE, Phase.PAUSED, ["=resume-2", "stands still"]),
        (Stop.CANCEL, Phase.CANCELLED, ["=retry", "stands still"]),
        (Stop.TIMEOUT, Phase.AWAITING_OPERATOR, ["=retry", "--workflow-id warm/x --name retry"]),
        (Stop.DATASET_REMOVED, Phase.DATASET_REMOVED, ["Put it back, or remove the gate"]),
    ],
)
def test_a_stopped_pod_is_told_how_it_goes_on(reason: Stop, phase: Phase, words: list[str]) -> None:
    stopped = messages.stopped(reason, None, "warm/x", "resume")
    assert stopped.phase == phase
    assert all(word in stopped.message for word in words)


def test_an_error_is_told_with_its_name() -> None:
    failed = messages.stopped(Stop.ERROR, ErrorInfo("AccessDenied", "no"), "warm/x")
    assert failed.event == "AccessDenied"
    assert failed.message.startswith("AccessDenied: no. When it is mended: ")


# The states


async def test_the_whole_state_of_an_entity_crosses_temporal() -> None:
    consumer = Consumer("warm/x", POD, priority=3)
    state = DatasetState(
        consumers={"warm/x": consumer},
        waiting=["warm/x"],
        repairing=["warm/x"],
        unpin=[POD],
        unpin_attempts={POD.uid: 1},
        done_bytes=1,
        ready=True,
        paused=True,
        error=ErrorInfo("X", "y"),
    )
    assert all(getattr(state, field.name) != getattr(DatasetState(), field.name) for field in fields(DatasetState))
    given = DatasetOnNodeInput("gpu-1", "disk", SNAPSHOTS[0], state=state)
    converter = DataConverter.default
    (returned,) = await converter.decode(await converter.encode([given]), [DatasetOnNodeInput])
    assert returned == given


async def test_the_whole_state_of_a_pod_crosses_temporal() -> None:
    error = ErrorInfo("X", "y", 1, 2)
    report = Report("Placing", "words", True, "Event", True, Warming("gpu-1", "disk", ["d"], 2, 1))
    banned = BannedNeighbour("gpu-3", "sent other bytes")
    state = WarmPodState(
        1.5,
        RequestState("cancel", "error", error, True, True, True, 3.5, 4.5, True, "pause"),
        SeatState(
            *(3, True, "gpu-1", "why", 8, ["d"], "0/3", ["gpu-2"], {"gpu-2": 5.5}, {"gpu-2": 2}, 6.5),
            reach="required",
            unreserved=["a claim"],
            requirements="f",
            recalled=True,
            lost_as="NodeUnfit",
            depends_on_peers=True,
            judged=True,
            peers="0/3",
            told_lower=True,
            preferred="gpu-1",
            named=["gpu-2"],
        ),
        DataState(SNAPSHOTS, 7.5, 2, 99, [Pins("gpu-1", "disk", 99, SNAPSHOTS)], 8.5, True, 1, 10, 5, 3, [banned]),
        RejectionState(4, {"gpu-1": 2}, {"gpu-1": error}, True),
        ReportState("Placing", "m", report, report, {"a": 1.5}, {"b": 2.5}),
        ReleaseState("gpu-1", 1, 2, 3.5, 4.5, True, True, "gpu-1", "0/3", True, "gpu-9", 1, 2),
        MembershipState("train", "arrived", "8,d", "train", True, 5.5, "m", True, True),
    )
    for part in (state, *(getattr(state, field.name) for field in fields(state) if field.name != "started_at")):
        unset = [field.name for field in fields(part) if getattr(part, field.name) == getattr(type(part)(), field.name)]
        assert unset == [], "a field that is added later is carried over too"
    given = WarmPodInput(POD, state=state)
    converter = DataConverter.default
    (returned,) = await converter.decode(await converter.encode([given]), [WarmPodInput])
    assert returned == given
