"""Every waiting state for thirty simulated days: the history of each run, the Events and the reports are bounded.

Three days in `make test`, thirty in `make test-long`: of a reconcile each five minutes, of a scheduler whose numbers
change as often, and of an API that fails. The clock and the server are simulated (simulation.py), the workflow is the
real one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from kube_cache import names
from kube_cache.contracts.common import PodRef, PodView, Policy, Snapshot
from kube_cache.contracts.group import GroupTold, Verdict
from kube_cache.contracts.node import CheckDiskResult, DiskSnapshot
from kube_cache.contracts.warm_pod import (
    CreateSeatResult,
    DatasetReady,
    PatchGateResult,
    PodState,
    PodUnschedulable,
    ResolveResult,
    SeatLost,
    SeatUnschedulable,
    WarmPodInput,
)
from tests.workflows.simulation import START, Call, Chain, Never, failed, refused
from workflows.warm_pod.workflow import WarmPod

pytestmark = pytest.mark.slow
POD = PodRef("ml", "p", "uid-1")
DIGEST = "d" * 64
DAYS = int(os.environ.get("KUBE_CACHE_TEST_DAYS", "3"))
NOISE_MINUTES = 5
"""Minutes between two reconciles, and between two messages of the scheduler or losses of a seat."""
SUGGESTED_AT = 1500
MAX_EVENTS = 2000
"""Of one run. A run goes on past the suggestion only to the end of what is in flight."""


@dataclass
class Outside:
    """What the activities answer: by name a value, an exception, or a function of input and time."""

    answers: dict[str, Any] = field(default_factory=dict)
    view: PodView = field(default_factory=lambda: PodView("s3://b/x"))
    found: PodState | None = None

    def answer(self, call: Call) -> Any:
        name, arg = call.name, call.arg
        scripted = self.answers.get(name)
        if callable(scripted):
            return scripted(call)
        if scripted is not None:
            return scripted
        match name:
            case names.RESOLVE_DATASET:
                return ResolveResult([Snapshot(arg["dataset"], DIGEST, 3, 3000)])
            case names.CREATE_SEAT:
                fits = "gpu-1" not in arg["exclude_nodes"]
                return CreateSeatResult("seat", 8, "gpu-1" if fits else "", [DIGEST] if fits else [])
            case names.CHECK_DISK:
                return timedelta(seconds=0.1), checked(complete=True)
            case names.READ_POD:
                return self.found or PodState(gone=False, view=self.view)
            case names.PATCH_GATE:
                return PatchGateResult("released")
        return None


def checked(*, complete: bool) -> CheckDiskResult:
    return CheckDiskResult("disk", [DiskSnapshot(DIGEST, complete, 0, "full-object" if complete else "")])


def complete_once() -> Callable[[Call], Any]:
    """The first disk has the data, every later one fails."""
    answers = iter([checked(complete=True)])
    return lambda _call: next(answers, failed("DiskFault", "EIO"))


UNBOUND = CreateSeatResult("seat", 8, "")
API_AWAY = failed("ApiError", "dial tcp 10.0.0.1:443: connect: connection refused")


Noise = Callable[[Chain, int], None]


def scheduler_speaks(chain: Chain, minute: int) -> None:
    number = last_seat(chain)
    words = f"0/5000 nodes are available: {4000 + minute % 700} Insufficient nvidia.com/gpu, {minute % 9} cordoned"
    chain.run.signal("seat_unschedulable", SeatUnschedulable(names.seat_name(POD.uid, number), words))


def scheduler_cannot_bind(chain: Chain, minute: int) -> None:
    chain.run.signal("pod_unschedulable", PodUnschedulable(f"0/5000 nodes are available: {minute} did not match"))


def seat_is_lost(chain: Chain, _minute: int) -> None:
    chain.run.signal("seat_lost", SeatLost(names.seat_name(POD.uid, last_seat(chain)), "UnexpectedAdmissionError"))


def every_download_is_damaged(chain: Chain, _minute: int) -> None:
    chain.run.signal("dataset_ready", DatasetReady(DIGEST, 3000, 1.0))


def group_speaks(chain: Chain, minute: int) -> None:
    chain.run.signal("group_told", GroupTold("train", Verdict.WAIT, f"7 of 8 ready; waiting for t-{minute} (Warming)"))


def only_the_excluded_node_fits(chain: Chain, minute: int) -> None:
    if chain.last(names.CREATE_SEAT)["exclude_nodes"]:
        scheduler_speaks(chain, minute)


def last_seat(chain: Chain) -> int:
    return int(chain.last(names.CREATE_SEAT)["number"])


@dataclass
class Case:
    outside: Outside
    phase: str
    """In which the Pod waits."""
    noise: Noise | None = None
    before: Callable[[Chain], None] | None = None
    view: PodView | None = None
    max_events: int = 24
    """Kubernetes Events in that time."""
    max_reports: int = 50


def paused(chain: Chain) -> None:
    chain.run.signal("pause")


def cancelled(chain: Chain) -> None:
    chain.run.cancel()


def dataset_removed(chain: Chain) -> None:
    chain.run.signal("pod_changed", PodView(""))


GATED = PodView("s3://b/x", foreign_gates=["kueue.x-k8s.io/topology"])
GROUPED = PodView("s3://b/x", group="train", group_size="8")
COLD = PodView("s3://b/x", max_gate_time="10m", on_timeout="release")
MINUTES = DAYS * 24 * 60
HOURS = DAYS * 24 + 1

CASES = {
    "resolving": Case(
        Outside({names.RESOLVE_DATASET: lambda call: failed("SourceUnavailable") if call.is_local else Never()}),
        "Resolving",
    ),
    "waiting for the gates of others": Case(Outside(view=GATED), "WaitingForGates", view=GATED),
    "placing, while the numbers change": Case(
        Outside({names.CREATE_SEAT: UNBOUND}),
        "WaitingForCapacity",
        scheduler_speaks,
        max_events=HOURS,
        max_reports=MINUTES,
    ),
    "placing, and the seat is forbidden": Case(
        Outside({names.CREATE_SEAT: failed("SeatForbidden", "exceeded quota")}),
        "Placing",
        max_events=HOURS,
        max_reports=12 * HOURS,
    ),
    "placing, and the kubelet rejects each seat": Case(
        Outside({names.CHECK_DISK: checked(complete=False)}),
        "Placing",
        seat_is_lost,
        max_events=3 * HOURS,  # a download begins, its seat is lost, and so is one that was not bound yet
        max_reports=24 * HOURS,
    ),
    "warming, and the entity is paused": Case(Outside({names.CHECK_DISK: checked(complete=False)}), "Warming"),
    "warming, and each download is damaged": Case(
        Outside({names.CHECK_DISK: checked(complete=False)}),
        "WaitingForDisk",
        every_download_is_damaged,
        max_events=12 * HOURS,
        max_reports=MINUTES,
    ),
    "waiting for the only disk": Case(
        Outside({names.CHECK_DISK: failed("DiskFault", "EIO"), names.AWAIT_DISK: Never()}),
        "WaitingForDisk",
        only_the_excluded_node_fits,
        max_events=12 * HOURS,
        max_reports=MINUTES,
    ),
    "waiting for its group": Case(
        Outside(view=GROUPED), "WaitingForGroup", group_speaks, view=GROUPED, max_events=1, max_reports=MINUTES
    ),
    "awaiting the operator": Case(Outside({names.RESOLVE_DATASET: refused("AccessDenied", "no")}), "AwaitingOperator"),
    "paused": Case(Outside({names.CREATE_SEAT: UNBOUND}), "Paused", before=paused),
    "cancelled by the button": Case(Outside({names.CREATE_SEAT: UNBOUND}), "Cancelled", before=cancelled),
    "the annotation was removed": Case(
        Outside({names.CREATE_SEAT: UNBOUND}, view=PodView("")), "DatasetRemoved", before=dataset_removed
    ),
    "releasing, and the server forbids it": Case(
        Outside({names.PATCH_GATE: failed("ApiError", "403 Forbidden: policy")}),
        "Releasing",
        max_events=HOURS,
        max_reports=12 * HOURS,
    ),
    "releasing, and others hold gates that nobody sees": Case(
        Outside({names.PATCH_GATE: refused("ForeignGates", "held")}),
        "Resolving",
        max_events=HOURS,
        max_reports=12 * HOURS,
    ),
    "released cold, which is refused": Case(
        Outside({names.CREATE_SEAT: UNBOUND, names.PATCH_GATE: refused("ReleaseRefused", "policy")}),
        "AwaitingOperator",
        view=COLD,
    ),
    "released cold, while others hold gates that nobody sees": Case(
        Outside({names.CREATE_SEAT: UNBOUND, names.PATCH_GATE: refused("ForeignGates", "held")}),
        "Placing",
        view=COLD,
        max_reports=12 * HOURS,
    ),
    "binding, and the scheduler finds no place": Case(
        Outside(found=PodState(False, PodView("s3://b/x", gated=False), receipt_node="gpu-1")),
        "Binding",
        scheduler_cannot_bind,
        max_events=HOURS + 24,
        max_reports=MINUTES,
    ),
    "bound elsewhere, where the disk fails": Case(
        Outside({names.CHECK_DISK: complete_once(), names.PATCH_GATE: PatchGateResult("released", "gpu-9")}),
        "Warming",
        view=PodView("s3://b/x", mounts_cache=True),
        max_events=2 * HOURS,
        max_reports=13 * HOURS,
    ),
    "the whole API is away": Case(
        Outside(dict.fromkeys((names.CREATE_SEAT, names.DELETE_SEAT, names.READ_POD, names.REPORT_PHASE), API_AWAY)),
        "Placing",
        max_events=MINUTES,
        max_reports=2 * MINUTES,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_long_wait_is_bounded(name: str) -> None:
    case = CASES[name]
    outside = replace(case.outside, view=case.view or case.outside.view)
    policy = Policy(watch_wait_s=4)
    chain = Chain(
        WarmPod,
        WarmPodInput(POD, case.view or PodView("s3://b/x"), policy),
        outside.answer,
        suggested_at=SUGGESTED_AT,
    )
    chain.run.settle()
    if case.before is not None:
        case.before(chain)
    for minute in range(0, MINUTES, NOISE_MINUTES):
        chain.advance(START + timedelta(minutes=minute))
        chain.run.signal("resync")
        if case.noise is not None:
            case.noise(chain, minute)
    chain.run.settle()
    run = chain.run
    assert run.ended is None, "it still waits"
    longest = max(run.events for run in chain.runs)
    reports = chain.arguments(names.REPORT_PHASE)
    events = [report for report in reports if report["event_reason"]]
    print(
        f"{name}: {len(chain.runs)} runs, {sum(run.events for run in chain.runs)} events, at most {longest} in a run;"
        f" {len(reports)} reports, {len(events)} Events; {dict(chain.called)}"
    )
    assert longest < MAX_EVENTS
    assert len(reports) <= case.max_reports
    assert len(events) <= case.max_events
