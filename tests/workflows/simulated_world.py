"""A simulated Pod, its seats, one disk and one entity, for workflows that `simulation` drives: a second a call."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from kube_cache import names
from kube_cache.contracts.common import PodRef, PodView, Policy, Snapshot
from kube_cache.contracts.node import CheckDiskResult, DiskSnapshot
from kube_cache.contracts.warm_pod import (
    CreateSeatResult,
    DatasetReady,
    PatchGateResult,
    PodBound,
    PodState,
    ResolveResult,
    WarmPodInput,
)
from tests.workflows.simulation import Call, Chain, Never, refused
from workflows.warm_pod.workflow import WarmPod

POD = PodRef("ml", "p", "uid-1")
DIGEST = "d" * 64
VIEW = PodView("s3://b/x")
SECOND = timedelta(seconds=1)


class World:
    """A Pod, its seats, one disk and one entity. What an activity does is done when it is called."""

    def __init__(self, view: PodView = VIEW) -> None:
        self.pod = PodState(gone=False, view=view)
        self.seats: set[str] = set()
        self.pins: set[int] = set()
        """Attempts that pinned."""
        self.complete = False
        self.patches = 0
        self.errors: dict[str, list[Exception]] = {}

    def answer(self, call: Call) -> Any:
        failures = self.errors.get(call.name)
        if failures:
            return SECOND, failures.pop(0)
        if self.pod.gone and call.name in (names.CREATE_SEAT, names.PATCH_GATE):
            return SECOND, refused("PodGone")
        result = getattr(self, call.name, lambda _call: None)(call)
        return result if isinstance(result, Never) else (SECOND, result)

    def resolve_dataset(self, call: Call) -> ResolveResult:
        return ResolveResult([Snapshot(call.arg["dataset"], DIGEST, 3, 3000)])

    def create_seat(self, call: Call) -> CreateSeatResult:
        self.seats.add(names.seat_name(POD.uid, call.arg["number"]))
        return CreateSeatResult("seat", 8, "gpu-1")

    def delete_seat(self, call: Call) -> None:
        self.seats.discard(call.arg["name"])

    def check_disk(self, call: Call) -> CheckDiskResult:
        self.pins.add(call.arg["attempt"])
        return CheckDiskResult("disk", [DiskSnapshot(DIGEST, self.complete, 0, "full-object")])

    def unpin(self, call: Call) -> None:
        self._unpin(call.arg["attempt"])

    def join_dataset(self, call: Call) -> None:
        if call.arg["leave"]:
            self._unpin(call.arg["consumer"]["attempt"])
        elif not call.arg["consumer"]["hit"]:
            call.run.signal_later(3 * SECOND, "dataset_ready", DatasetReady(DIGEST, 3000, 3.0))
            self.complete = True

    def _unpin(self, attempt: int) -> None:
        self.pins = {pin for pin in self.pins if pin > attempt}

    def read_pod(self, _call: Call) -> PodState:
        return self.pod

    def patch_gate(self, call: Call) -> PatchGateResult:
        if not self.pod.view.gated:
            return PatchGateResult("already", self.pod.node)
        self.patches += 1
        if call.arg["seat"]:
            self.seats.discard(call.arg["seat"]["name"])
        node = call.arg["node"]
        self.pod = PodState(False, PodView("s3://b/x", gated=False), receipt_node=node)
        call.run.signal_later(SECOND, "pod_bound", PodBound(node or "gpu-9"))
        return PatchGateResult("released")


def start(world: World, view: PodView = VIEW, **options: Any) -> Chain:
    return Chain(WarmPod, WarmPodInput(POD, view, Policy()), world.answer, **options)


def finish(chain: Chain) -> str:
    """Let an hour pass; returns the outcome, or empty while the workflow is open."""
    chain.advance(chain.run.now + timedelta(hours=1))
    ended = chain.run.ended
    if ended is None:
        return ""
    assert ended.kind == "completed", ended
    return str(ended.payload["outcome"])


def phase(chain: Chain) -> str:
    return str(chain.last(names.REPORT_PHASE)["phase"])
