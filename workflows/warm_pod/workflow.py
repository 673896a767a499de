"""`WarmPod`: one workflow per gated Pod, from the first sight of it until it is bound to a node that holds its data.

The Pod's life (`life`) runs as a task of its own, and the main path (`main_path`) as a task of that, so that a signal
can stop it at any await: the Pod is gone, its owner cancels or pauses, its gate time is over. Whatever stops it, the
Pod leaves the entities that it joined and the seat is deleted. The gate is removed by `patch_gate` alone, and once that
has succeeded, nothing but the Pod's end stops it.

Each part owns its section of one state (kube_cache.contracts.warm_pod_state), with which the workflow continues as new
from wherever it waits. A signal is a hint, not the truth: the reconcile sends `resync` and repeats the others, so a
lost signal costs time and nothing else, and a wrong one a look at the API server.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from kube_cache import names
    from kube_cache.contracts.common import PodView
    from kube_cache.contracts.group import GroupTold
    from kube_cache.contracts.warm_pod import (
        DatasetFailed,
        DatasetReady,
        PodBound,
        PodUnschedulable,
        SeatBound,
        SeatLost,
        SeatUnschedulable,
        WarmPodInput,
        WarmPodResult,
        WarmPodStatus,
    )
    from workflows.warm_pod import parts
    from workflows.warm_pod.life import Life
    from workflows.warm_pod.requests import Stop
    from workflows.warm_pod.timeline import Timeline
    from workflows.warm_pod.waiting import wait


@workflow.defn(name=names.WARM_POD)
class WarmPod:
    @workflow.init
    def __init__(self, inp: WarmPodInput) -> None:
        self._inp = inp
        self._state = inp.state
        self._state.started_at = self._state.started_at or workflow.now().timestamp()
        self._parts = parts.build(inp, self._state, workflow.info().workflow_id)
        self._requests = self._parts.requests
        self._retried_at: datetime | None = None
        self._life = Life(inp, self._parts, self._state)

    @workflow.run
    async def run(self, _inp: WarmPodInput) -> WarmPodResult:
        life = asyncio.create_task(self._life.live())
        while not life.done():
            try:
                await wait(life.done)
            except asyncio.CancelledError:
                if task := asyncio.current_task():
                    task.uncancel()
                self._requests.on_cancel_button(keep_retry=self._retried_at == workflow.now())
        result = life.result()
        if result is None:
            workflow.continue_as_new(replace(self._inp, view=self._requests.view, state=self._state))
        return result

    @property
    def timeline(self) -> Timeline:
        """The phases of this run, for the trace of the Pod."""
        return self._parts.reporter.timeline

    @property
    def started_at(self) -> float:
        """Start of the first run, in seconds since the epoch."""
        return self._state.started_at

    # Signals and the query. Each is handed to the part that owns the state.

    @workflow.signal(description="Try again now: after an error was mended, or after cancel.")
    def retry(self) -> None:
        self._retried_at = workflow.now()
        self._requests.request_retry()

    @workflow.signal(description="Stop warming, give the seat back; the Pod stays gated.")
    def cancel(self) -> None:
        self._requests.request_stop(Stop.CANCEL)

    @workflow.signal(description="Stop for now and keep what was fetched.")
    def pause(self) -> None:
        self._requests.request_stop(Stop.PAUSE)

    @workflow.signal(description="Go on after pause.")
    def resume(self) -> None:
        self._retried_at = workflow.now()
        self._requests.request_retry()

    @workflow.signal(description="From the watcher: the Pod's gates or annotations changed.")
    def pod_changed(self, view: PodView) -> None:
        self._requests.on_pod_changed(view)
        self._parts.seat.on_requirements(view.requirements)

    @workflow.signal(description="From the watcher: the Pod was deleted or has ended.")
    def pod_gone(self) -> None:
        self._requests.request_stop(Stop.GONE)

    @workflow.signal(description="From the watcher: the Pod is bound to a node.")
    def pod_bound(self, bound: PodBound) -> None:
        self._parts.release.on_bound(bound)

    @workflow.signal(description="From the watcher: the scheduler finds no place for the released Pod.")
    def pod_unschedulable(self, unschedulable: PodUnschedulable) -> None:
        self._parts.release.on_unschedulable(unschedulable)

    @workflow.signal(description="From the watcher: our seat is bound to a node.")
    def seat_bound(self, bound: SeatBound) -> None:
        self._parts.seat.on_bound(bound)

    @workflow.signal(description="From the watcher: our seat was preempted or deleted, or its node is gone.")
    def seat_lost(self, lost: SeatLost) -> None:
        self._parts.seat.on_lost(lost)

    @workflow.signal(description="From the watcher: the scheduler finds no node for the seat.")
    def seat_unschedulable(self, unschedulable: SeatUnschedulable) -> None:
        self._parts.seat.on_unschedulable(unschedulable)

    @workflow.signal(description="From the reconcile: do not rely on signals, look how the seat and the Pod stand.")
    def resync(self) -> None:
        self._requests.resync_requested = True

    @workflow.signal(description="From the Pod's group: wait, go, resolve again, or give the seat back.")
    def group_told(self, told: GroupTold) -> None:
        self._parts.group.on_told(told)

    @workflow.signal(description="From the entity: the snapshot is complete on the node.")
    def dataset_ready(self, ready: DatasetReady) -> None:
        self._parts.reporter.timeline.link(ready.span)
        self._parts.data.on_ready(ready)

    @workflow.signal(description="From the entity: the download failed for good.")
    def dataset_failed(self, failed: DatasetFailed) -> None:
        self._parts.data.on_failed(failed)

    @workflow.query(description="Phase, node, datasets and last error.")
    def status(self) -> WarmPodStatus:
        return self._parts.reporter.status()
