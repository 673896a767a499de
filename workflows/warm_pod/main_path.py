"""The main path of a `WarmPod`: resolve, wait for foreign gates, take a seat, check the disk, warm, release, bind.

It runs as a task that `workflow` cancels when a request stops it, at any await. What it holds then, a seat and pins, is
given back by `withdraw`.
"""

from __future__ import annotations

import asyncio
import contextlib

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from kube_cache.contracts.common import ErrorInfo, Phase
    from kube_cache.contracts.warm_pod import PatchGateInput, ResolveInput, WarmPodInput, WarmPodResult
    from kube_cache.errors import InvalidRequest
    from workflows import activity_calls
    from workflows.failures import error_info
    from workflows.warm_pod import messages, options
    from workflows.warm_pod.disk_wait import DiskRejections
    from workflows.warm_pod.exceptions import (
        DiskRejected,
        NeedsOperator,
        NoAlternativeNode,
        NodeLost,
        RetryRequested,
        SeatMoved,
        SourceChanged,
    )
    from workflows.warm_pod.node_data import NodeData
    from workflows.warm_pod.release import Release
    from workflows.warm_pod.reporter import Reporter
    from workflows.warm_pod.requests import Requests
    from workflows.warm_pod.seat import Seat

# A source that changes faster than it can be read is for a person to mend; six is arbitrary, and is reached in minutes.
_MAX_RESOLVES = 6


class MainPath:
    def __init__(
        self, inp: WarmPodInput, requests: Requests, seat: Seat, data: NodeData, reporter: Reporter, release: Release
    ) -> None:
        self._inp = inp
        self._requests = requests
        self._seat = seat
        self._data = data
        self._reporter = reporter
        self._release = release
        self._rejections = DiskRejections(inp.policy)

    async def run(self) -> WarmPodResult:
        """Warm and release the Pod. Raises NeedsOperator; CancelledError when it was cancelled."""
        changes = 0
        while changes < _MAX_RESOLVES:
            try:
                return await self._resolve_and_place()
            except RetryRequested:
                continue
            except SourceChanged as changed:
                changes += 1
                await self.withdraw()
                if changes < _MAX_RESOLVES:
                    message = messages.source_changed(str(changed))
                    await self._reporter.report(Phase.RESOLVING, message, event="SourceChanged")
            except FailureError as error:
                raise NeedsOperator(error_info(error, node=self._data.node)) from error
            except InvalidRequest as error:
                raise NeedsOperator(ErrorInfo(type(error).__name__, error.message)) from error
        raise NeedsOperator(ErrorInfo("SourceChanged", messages.source_keeps_changing(changes)))

    async def _resolve_and_place(self) -> WarmPodResult:
        self._reporter.set_phase(Phase.RESOLVING)
        options.check(self._requests.view)
        await self._resolve()
        await self._wait_for_foreign_gates()
        while True:
            self._reporter.set_phase(Phase.PLACING)
            try:
                node = await self._seat.take(
                    self._data.snapshots, self._report_unschedulable, self._reporter.report_if_slow
                )
            except NoAlternativeNode:
                await self._seat.give_up()
                await self._wait_for_disk()
                continue
            try:
                return await self._warm_and_release(node)
            except NodeLost:
                self._seat.avoid(node)
                event, message = "NodeLost", messages.node_lost(node)
            except DiskRejected as rejected:
                self._rejections.add(node, rejected.error)
                self._seat.avoid(node)
                event, message = rejected.error.type, messages.disk_rejected(node, rejected.error)
            except SeatMoved as moved:
                event, message = "SeatLost", messages.seat_lost(node, str(moved))
            await self._reporter.report(Phase.PLACING, message, event=event, warning=True)
            await self._seat.give_up()
            await self._data.leave()

    async def _resolve(self) -> None:
        request = ResolveInput(self._inp.pod, self._requests.view.dataset)
        resolved = await activity_calls.resolve_quickly(request)
        if resolved is None:
            async with self._reporter.report_if_slow():
                resolved = await activity_calls.resolve_dataset(request)
        self._data.snapshots = resolved.snapshots

    async def _wait_for_foreign_gates(self) -> None:
        requests = self._requests
        while requests.view.foreign_gates and requests.view.gated:
            gates = list(requests.view.foreign_gates)
            self._reporter.set_phase(Phase.WAITING_FOR_GATES, save=True)
            message = messages.waiting_for_gates(gates)
            await self._reporter.report(Phase.WAITING_FOR_GATES, message, event="WaitingForGates")
            await workflow.wait_condition(lambda: requests.view.foreign_gates != gates or not requests.view.gated)

    async def _report_unschedulable(self, scheduler: str) -> None:
        if self._rejections.by_node:
            raise NoAlternativeNode(scheduler)
        message = messages.no_node_fits(scheduler)
        await self._reporter.report(Phase.PLACING, message, event="NoNodeFits", warning=True)

    async def _wait_for_disk(self) -> None:
        """Hold neither seat nor pin until a disk that rejected the data can take it. Raises RetryRequested."""
        self._requests.retry_requested = False
        rejections = self._rejections.by_node
        message = messages.waiting_for_disk(rejections)
        self._reporter.set_phase(Phase.WAITING_FOR_DISK, message, save=True)
        await self._reporter.report(Phase.WAITING_FOR_DISK, message, event="WaitingForDisk", warning=True)
        try:
            await self._rejections.wait(self._data.snapshots, lambda: self._requests.retry_requested)
        finally:
            self._seat.avoid_no_more(rejections)
        if self._requests.retry_requested:
            self._requests.retry_requested = False
            raise RetryRequested

    async def _warm_and_release(self, node: str) -> WarmPodResult:
        started = workflow.now()
        self._reporter.set_phase(Phase.CHECKING)
        # A quick check is over in no time; a full one reads every byte.
        slow = options.verifies_fully(self._requests.view)
        async with self._reporter.report_if_slow() if slow else contextlib.nullcontext():
            await self._data.check(node)
        fetched = 0
        if self._data.missing:
            self._reporter.set_phase(Phase.WARMING, save=True)
            fetched = await self._data.fetch_missing()
        return await self._release_warm(node, fetched, (workflow.now() - started).total_seconds())

    async def _release_warm(self, node: str, fetched: int, seconds: float) -> WarmPodResult:
        self._seat.check_stands()
        self._reporter.set_phase(Phase.RELEASING)
        data, size, gpus = self._data, self._data.bytes, self._seat.gpus
        try:
            patched = await self._release.patch(
                PatchGateInput(
                    self._inp.pod,
                    node,
                    data.digests,
                    cache_id=data.cache_id,
                    seat=self._seat.deletion,
                    wait_s=self._inp.policy.watch_wait_s,
                )
            )
        except FailureError as error:
            info = error_info(error, node=node)
            if info.type == "ForeignGates":
                await self._seat.give_up()
            raise NeedsOperator(info) from error
        self._seat.on_deleted()
        self._reporter.set_phase(Phase.BINDING)
        elsewhere = patched.outcome == "already" and patched.bound_node not in ("", node)
        # The entity of a hit that the inventory did not know must be told; one that it knew need not be woken.
        unknown = [snapshot for snapshot in data.hits if not self._seat.is_known_to_hold(snapshot)]
        message = messages.warmed(size, node, fetched, seconds)
        await asyncio.gather(
            self._reporter.report(Phase.DONE, message, ready=not elsewhere, event="DatasetReady"),
            data.register_hits(unknown),
        )
        await self._release.wait_until_bound(node)
        if elsewhere or self._release.bound_node != node:
            await self.withdraw()
            return WarmPodResult("released_elsewhere", self._release.bound_node, seconds=age_s())
        self._reporter.set_phase(Phase.DONE, node=node, size=size, save=True)
        waited = age_s()
        return WarmPodResult(
            "released",
            node,
            size,
            fetched,
            hit=not data.missing,
            seconds=waited,
            rate=fetched / max(seconds, 0.001),
            gpu_seconds_saved=gpus * waited,
        )

    async def withdraw(self) -> None:
        """Give back everything that is held for the Pod: its seat and its pins."""
        await asyncio.gather(self._seat.give_up(), self._data.leave_all())


def age_s() -> float:
    """Seconds since the workflow was started."""
    return (workflow.now() - workflow.info().workflow_start_time).total_seconds()
