"""From the removed gate to the bound Pod, and the release of a Pod without its data."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from kube_cache.contracts.common import Phase
    from kube_cache.contracts.warm_pod import PatchGateInput, PodState, WarmPodInput, WarmPodResult
    from kube_cache.contracts.warm_pod_state import ReleaseState, WarmPodState
    from workflows.failures import error_info, is_final
    from workflows.warm_pod import messages
    from workflows.warm_pod.arrival import Arrival
    from workflows.warm_pod.exceptions import NeedsOperator
    from workflows.warm_pod.parts import Parts
    from workflows.warm_pod.waiting import Pauses, together


class Binding:
    def __init__(self, inp: WarmPodInput, parts: Parts, state: WarmPodState) -> None:
        self._inp = inp
        self._parts = parts
        self._state = state

    async def run(self) -> WarmPodResult:
        """The Pod is released to a node: say so, and wait until it is bound. Raises GateIsGone, ContinueNow."""
        parts, release = self._parts, self._state.release
        parts.reporter.set_phase(Phase.BINDING)
        if not (release.announced or release.is_unpinned):
            await self._announce(release)
        await parts.release.wait_until_bound()
        waited_s = release.waited_s
        is_elsewhere = release.bound_node != release.node
        if is_elsewhere or release.is_unpinned:
            if is_elsewhere and not parts.requests.view.mounts_cache:
                return await self._end_elsewhere()
            await Arrival(self._inp.pod, parts, self._state).warm(release.bound_node)
            await self._announce(release)
        parts.reporter.set_phase(Phase.DONE, node=release.node, size=release.bytes, save=True)
        await parts.reporter.settle_or_give_up()
        return WarmPodResult(
            "released",
            release.node,
            release.bytes,
            release.fetched_bytes,
            hit=release.hit,
            seconds=waited_s,
            rate=release.fetched_bytes / max(release.seconds, 0.001),
            # On arrival the Pod holds its GPUs already.
            gpu_seconds_saved=0 if release.hit or release.arrived_at else parts.seat.gpus * release.seconds,
            neighbour_bytes=release.neighbour_bytes,
            neighbours=release.neighbours,
        )

    async def _end_elsewhere(self) -> WarmPodResult:
        parts, release = self._parts, self._state.release
        node = release.bound_node
        message = messages.started_elsewhere(node, release.node, parts.seat.unreserved)
        await parts.reporter.report(Phase.DONE, message, event="BoundElsewhere", warning=True)
        await parts.give_back()
        parts.reporter.set_phase(Phase.DONE, node=node, save=True)
        await parts.reporter.settle_or_give_up()
        return WarmPodResult("released_elsewhere", node, seconds=release.waited_s)

    async def _announce(self, release: ReleaseState) -> None:
        parts, message = self._parts, self.ready_words(release)
        await together(
            parts.reporter.report(Phase.DONE, message, ready=True, event="DatasetReady"), parts.data.register_hits()
        )
        release.announced = True

    def ready_words(self, release: ReleaseState) -> str:
        """Compose what the Pod says once its data is on the node."""
        parts = self._parts
        datasets, mounts_current = len(parts.data.snapshots), parts.requests.view.mounts_current
        message = messages.warmed(release, datasets=datasets, mounts_current=mounts_current)
        if parts.seat.unreserved and not release.arrived_at:
            message += messages.only_preferred(parts.seat.unreserved)
        return message

    async def adopt(self, found: PodState) -> None:
        """The Pod was released by us, and nobody remembers: a worker died, or an earlier workflow did it."""
        parts, node, now = self._parts, found.receipt_node, workflow.now().timestamp()
        is_pinned = parts.data.return_to(node)
        placement = self._state.data
        parts.release.note_released(
            ReleaseState(
                node,
                parts.data.bytes,
                placement.fetched_bytes,
                seconds=now - (placement.warm_since or now),
                waited_s=now - self._state.started_at,
                hit=not placement.is_miss,
                neighbour_bytes=placement.neighbour_bytes,
                neighbours=placement.neighbours,
            ),
            unseen=True,
        )
        release = self._state.release
        release.bound_node = found.node or release.bound_node
        # A workflow that was started in the place of one that was terminated: its Pod was told of the release.
        release.announced = not parts.data.snapshots
        # The patch came late: the Pod was given up for its node, and its pins there with it.
        release.is_unpinned = bool(parts.data.snapshots) and not is_pinned
        await parts.give_back(but_pins_on=node)

    async def run_cold(self) -> WarmPodResult:
        """`on-timeout: release`: the owner prefers a cold start to a longer wait.

        Raises NeedsOperator when the release is refused, else GateIsGone, FailureError (ForeignGates), ContinueNow.
        """
        parts, requests = self._parts, self._parts.requests
        pauses = Pauses()
        while True:
            try:
                await parts.release.patch(PatchGateInput(self._inp.pod, "", pin=False))
                break
            except FailureError as error:
                info = error_info(error)
                if info.type == "ForeignGates":
                    raise
                if is_final(error):
                    raise NeedsOperator(messages.refused_cold(info)) from error
                await parts.patience.tell_and_pause("release the Pod without its data", error, pauses)
        requests.note_released()
        message = messages.RELEASED_COLD
        await parts.reporter.report(Phase.BINDING, message, event="ReleasedCold", warning=True)
        # Not straight to the end: the server refuses a completion that crosses with the watcher's signals, and the
        # local activities of that workflow task would run again.
        await parts.release.wait_for_bind_or_end()
        parts.reporter.set_phase(Phase.DONE, save=True)
        await parts.reporter.settle_or_give_up()
        waited_s = workflow.now().timestamp() - self._state.started_at
        return WarmPodResult("released_cold", parts.release.bound_node, seconds=waited_s)
