"""What others tell a `WarmPod`, and what it makes of it: signal handlers and the few fields that they set.

Handlers only note; the main path acts. `_stop` is why it should stop, or why there is nothing more to do; `_go` is the
leave to try again.
"""

from __future__ import annotations

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from kube_cache.contracts.common import ErrorInfo, PodView
    from kube_cache.contracts.warm_pod import (
        DatasetFailed,
        DatasetReady,
        PodBound,
        PodUnschedulable,
        SeatBound,
        SeatLost,
        SeatUnschedulable,
        WarmPodInput,
    )
    from workflows.warm_pod import options
    from workflows.warm_pod.seat import Seat

# Why there is nothing left to do for a Pod: it is gone; somebody else removed the gate; it was released cold.
GONE, UNGATED, COLD = "gone", "ungated", "cold"
CANCEL, PAUSE, TIMEOUT = "cancel", "pause", "timeout"


class PodSignals:
    def __init__(self, inp: WarmPodInput) -> None:
        self._view = inp.view
        self._seat = Seat(inp.pod, workflow.info().workflow_id, inp.policy.operator_namespace, inp.policy.watch_wait_s)
        self._outcomes: dict[str, DatasetReady | DatasetFailed] = {}
        self._error: ErrorInfo | None = None
        self._stop = ""
        self._go = False
        self._releasing = False
        self._bound_node = ""
        self._unschedulable = ""

    def _has_ended(self) -> bool:
        return self._stop in (GONE, UNGATED, COLD) or (self._error is not None and self._error.type == "PodGone")

    def _request_stop(self, reason: str) -> None:
        if not self._has_ended():
            self._stop = reason

    def _act_on(self, action: str) -> None:
        if action in ("retry", "resume"):
            self._go = True
        elif action in (CANCEL, PAUSE):
            self._request_stop(action)

    @workflow.signal(description="Try again now: after an error was mended, or after cancel.")
    def retry(self) -> None:
        self._go = True

    @workflow.signal(description="Stop warming, give the seat back; the Pod stays gated.")
    def cancel(self) -> None:
        self._request_stop(CANCEL)

    @workflow.signal(description="Stop for now and keep what was fetched.")
    def pause(self) -> None:
        self._request_stop(PAUSE)

    @workflow.signal(description="Go on after pause.")
    def resume(self) -> None:
        self._go = True

    @workflow.signal(description="From the watcher: the Pod's gates or annotations changed.")
    def pod_changed(self, view: PodView) -> None:
        before, self._view = self._view, view
        if view.action != before.action:
            self._act_on(view.action)
        if options.differ(before, view):
            self._go = True  # whoever mends the annotation need not signal as well
        if not view.gated and not self._releasing:
            self._request_stop(UNGATED)

    @workflow.signal(description="From the watcher: the Pod was deleted or has ended.")
    def pod_gone(self) -> None:
        self._stop = GONE

    @workflow.signal(description="From the watcher: the Pod is bound to a node.")
    def pod_bound(self, bound: PodBound) -> None:
        self._bound_node = bound.node

    @workflow.signal(description="From the watcher: the scheduler finds no place for the released Pod.")
    def pod_unschedulable(self, why: PodUnschedulable) -> None:
        self._unschedulable = why.message

    @workflow.signal(description="From the watcher: our seat is bound to a node.")
    def seat_bound(self, bound: SeatBound) -> None:
        self._seat.on_bound(bound)

    @workflow.signal(description="From the watcher: our seat was preempted or deleted, or its node is gone.")
    def seat_lost(self, lost: SeatLost) -> None:
        self._seat.on_lost(lost)

    @workflow.signal(description="From the watcher: the scheduler finds no node for the seat.")
    def seat_unschedulable(self, why: SeatUnschedulable) -> None:
        self._seat.on_unschedulable(why)

    @workflow.signal(description="From the reconcile: do not rely on signals, look how the seat stands.")
    def resync(self) -> None:
        self._seat.on_resync()

    @workflow.signal(description="From the entity: the snapshot is whole on the node.")
    def dataset_ready(self, ready: DatasetReady) -> None:
        self._outcomes[ready.digest] = ready

    @workflow.signal(description="From the entity: the download failed for good.")
    def dataset_failed(self, failed: DatasetFailed) -> None:
        self._outcomes[failed.digest] = failed
