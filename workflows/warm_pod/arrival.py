"""Warm on arrival: a Pod that only preferred its node was bound to another one, where its containers wait for the data.

The seat could not stand for all that the Pod needs, so the scheduler had the last word. In the same way a Pod is looked
after whose releasing patch came so late that its pins had been given back. The mounts of the cache fail
closed (docs/design/mounts.md): the kubelet starts no container before the links are there. So the data is fetched where
the Pod is, and then the receipt names that node. A Pod cannot be moved any more: what fails is told and tried again.
`pause` and `cancel` stop the fetch here as before the release; the Pod's containers wait on.
"""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from kube_cache.contracts.common import ErrorInfo, Phase, PodRef
    from kube_cache.contracts.warm_pod import MoveReceiptInput
    from kube_cache.contracts.warm_pod_state import WarmPodState
    from workflows import cluster_calls
    from workflows.failures import error_info
    from workflows.warm_pod import messages
    from workflows.warm_pod.exceptions import (
        DiskRejected,
        NeedsOperator,
        NodeLost,
        SeatMoved,
        SourceChanged,
        WarmingHeld,
    )
    from workflows.warm_pod.parts import Parts
    from workflows.warm_pod.waiting import Pauses, together, wait


class Arrival:
    def __init__(self, pod: PodRef, parts: Parts, state: WarmPodState) -> None:
        self._pod = pod
        self._parts = parts
        self._state = state

    async def warm(self, node: str) -> None:
        """Have the data complete on the node, and the receipt name it. Raises ContinueNow."""
        parts, release, data = self._parts, self._state.release, self._parts.data
        if release.arrived_at != node:
            release.arrived_at = node
            self._state.seat.held = []
            data.begin_attempt()
            await data.leave_all()
        while not await self._complete(node):
            await self._hold(node)
        receipt = MoveReceiptInput(self._pod, node, data.cache_id, data.digests)
        await parts.patience.until_done("let the receipt name the node", cluster_calls.move_receipt, receipt)
        placement = self._state.data
        release.node, release.bytes, release.is_unpinned = node, data.bytes, False
        release.fetched_bytes, release.hit = placement.fetched_bytes, not placement.is_miss
        release.neighbour_bytes, release.neighbours = placement.neighbour_bytes, placement.neighbours
        release.seconds = workflow.now().timestamp() - placement.warm_since

    async def _complete(self, node: str) -> bool:
        """Have the data complete on the node; False when the user holds the warming up. Raises ContinueNow."""
        parts, release, requests = self._parts, self._state.release, self._parts.requests
        if requests.held:
            return False
        parts.reporter.set_phase(Phase.WARMING, node=node, save=True)
        if release.node != node:
            message = messages.warming_on_arrival(node, release.node, parts.seat.unreserved)
            await parts.reporter.report(Phase.WARMING, message, event="WarmingOnArrival", warning=True)
        pauses = Pauses()
        while not requests.held:
            try:
                error = await self._try_to_complete(node)
            except WarmingHeld:
                break
            if error is None:
                return True
            message = messages.cannot_warm_on_arrival(node, error)
            await parts.reporter.report(Phase.WARMING, message, event=error.type, warning=True, noisy=True)
            await parts.patience.pause(pauses.next_s(), until=lambda: requests.held)
        return False

    async def _hold(self, node: str) -> None:
        """Stop the fetch, keep what it has brought, and wait for `resume` or `retry`. Raises ContinueNow."""
        parts, requests = self._parts, self._parts.requests
        parts.data.begin_attempt()
        await parts.data.leave_all()
        while requests.held:
            stop = requests.held
            stopped = messages.stopped_on_arrival(stop, node, requests.view.action)
            parts.reporter.set_phase(stopped.phase, stopped.message, node=node, save=True)
            await parts.reporter.report(stopped.phase, stopped.message, event=stopped.event, warning=True)
            await wait(lambda: requests.held != stop)
        parts.reporter.forget_told()
        requests.take_retry()

    async def _try_to_complete(self, node: str) -> ErrorInfo | None:
        parts, data = self._parts, self._parts.data
        try:
            if not data.snapshots:  # what the workflow before this one knew was lost with it, or the source has changed
                await parts.source.resolve()
            while True:
                await data.check(node)
                if not data.missing:
                    return None
                if parts.requests.held:
                    raise WarmingHeld
                warming = data.warming
                message = messages.fetching(warming)
                await together(data.fetch_missing(), parts.reporter.report(Phase.WARMING, message, warming=warming))
                await parts.reporter.tell_banned()
        except NodeLost:
            return ErrorInfo("NodeLost", f"no living agent on node {node}")
        except SeatMoved as moved:  # the disk has a later placement of the Pod, or was replaced
            data.begin_attempt()
            return ErrorInfo("NodeUnsuitable", str(moved))
        except SourceChanged as changed:
            await data.leave(node)
            self._state.data.snapshots = []
            return ErrorInfo("SourceChanged", str(changed))
        except (DiskRejected, NeedsOperator) as refused:
            return refused.error
        except FailureError as failure:
            return error_info(failure, node=node)
