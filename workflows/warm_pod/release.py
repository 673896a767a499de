"""The release of a `WarmPod`'s Pod: the patch that removes the gate, and the wait until the Pod is bound."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from kube_cache.contracts.common import Phase, PodRef, Policy
    from kube_cache.contracts.warm_pod import (
        EvictPodInput,
        PatchGateInput,
        PatchGateResult,
        PodBound,
        PodState,
        PodUnschedulable,
    )
    from kube_cache.contracts.warm_pod_state import ReleaseState
    from workflows import cluster_calls
    from workflows.warm_pod import messages, options
    from workflows.warm_pod.calls import Calls
    from workflows.warm_pod.exceptions import GateIsGone
    from workflows.warm_pod.patience import Patience
    from workflows.warm_pod.reporter import Reporter
    from workflows.warm_pod.requests import Requests, Stop
    from workflows.warm_pod.waiting import Pauses, wait


class Release:
    def __init__(
        self,
        pod: PodRef,
        policy: Policy,
        *,
        requests: Requests,
        calls: Calls,
        patience: Patience,
        reporter: Reporter,
        state: ReleaseState,
    ) -> None:
        self._pod = pod
        self._grace_s = policy.bind_grace_s
        self._requests = requests
        self._calls = calls
        self._patience = patience
        self._reporter = reporter
        self._state = state
        self._looks: Pauses | None = None
        self._is_uncontrolled = False
        """Nobody would make another Pod, so this one is not evicted."""
        requests.released = requests.releasing = bool(state.node)

    @property
    def bound_node(self) -> str:
        """Node that the Pod is bound to; empty until it is."""
        return self._state.bound_node

    async def patch(self, arg: PatchGateInput) -> PatchGateResult:
        """Remove the gate, in one call. While it is in flight, nothing stops the workflow. Raises FailureError.

        Raises GateIsGone when the gate was gone before: by others, or by us in a workflow task whose worker died.
        """
        try:
            patched = await self._calls.run(self._remove_gate, arg)
        except FailureError:
            self._requests.releasing = False
            raise
        if patched.outcome == "already":
            self._requests.releasing = False
            found = await self._patience.look()
            raise GateIsGone(replace(found, node=found.node or patched.bound_node))
        self._state.bound_node = self._state.bound_node or patched.bound_node
        if self._state.bound_node:
            self._reporter.timeline.bound_at = _now()
        return patched

    async def _remove_gate(self, arg: PatchGateInput) -> PatchGateResult:
        self._requests.releasing = True
        return await cluster_calls.patch_gate(arg)

    def note_released(self, state: ReleaseState, *, unseen: bool = False) -> None:
        """From here on only the Pod's end is of interest.

        unseen: the release was made in a workflow task that nobody remembers, and the news of the binding may have gone
        to it.
        """
        self._looks = Pauses() if unseen else None
        mine = self._state
        mine.node, mine.bytes, mine.hit = state.node, state.bytes, state.hit
        mine.fetched_bytes, mine.seconds, mine.waited_s = state.fetched_bytes, state.seconds, state.waited_s
        mine.neighbour_bytes, mine.neighbours = state.neighbour_bytes, state.neighbours
        self._requests.note_released()

    async def wait_until_bound(self) -> None:
        """Wait as long as it takes. A Pod that the scheduler cannot place for longer than the grace period says so.

        Raises GateIsGone when the Pod is gone.
        """
        state, requests = self._state, self._requests
        since = 0.0
        while not state.bound_node:
            heard, left_s = state.unschedulable, None
            if heard:
                since = since or _now()
                left_s = since + self._grace_s - _now()
                if left_s <= 0:
                    await self._say_not_scheduled()
                    left_s = None
            look_s = None if self._looks is None else self._looks.next_s()
            must_look = False
            try:
                await wait(
                    lambda: state.bound_node or requests.resync_requested or state.unschedulable != heard,
                    min((limit for limit in (left_s, look_s) if limit is not None), default=None),
                )
            except TimeoutError:
                must_look = look_s is not None
            if (requests.take_resync() or must_look) and not state.bound_node:
                self._learn(await self._patience.look())

    async def _say_not_scheduled(self) -> None:
        node = self._state.node
        await self._report_not_scheduled()
        found = await self._patience.look()
        self._learn(found)
        if options.evicts_stuck(found.view) and not found.node:
            why = messages.evicted(node, self._grace_s, self._state.unschedulable, found.view.group)
            arg = EvictPodInput(self._pod, why)
            evicted = await self._patience.until_done("evict the Pod", cluster_calls.evict_pod, arg)
            self._is_uncontrolled = evicted.outcome == "uncontrolled"
            if self._is_uncontrolled:
                await self._report_not_scheduled()
            self._learn(await self._patience.look())

    async def _report_not_scheduled(self) -> None:
        state, alone = self._state, self._is_uncontrolled
        message = messages.not_scheduled(state.node, self._grace_s, state.unschedulable, uncontrolled=alone)
        event = "NotEvicted" if alone else "NotScheduled"
        self._reporter.set_phase(Phase.BINDING, message, save=True)
        await self._reporter.report(
            Phase.BINDING, message, ready=bool(state.node), event=event, warning=True, noisy=True
        )

    def _learn(self, found: PodState) -> None:
        if found.gone or found.view.deleting:
            raise GateIsGone(found)
        self._state.bound_node = found.node

    async def wait_for_bind_or_end(self) -> None:
        """Wait until the Pod is bound or said to be gone, for the grace period at most."""
        with contextlib.suppress(TimeoutError):
            await wait(lambda: self._state.bound_node or self._requests.claims_end, self._grace_s)

    def on_bound(self, bound: PodBound) -> None:
        """A Pod that is bound was released, by whomever: nothing is left to be placed or warmed."""
        self._state.bound_node = bound.node
        self._reporter.timeline.bound_at = _now()
        if not self._requests.releasing:
            self._requests.request_stop(Stop.UNGATED)

    def forget_bound(self) -> None:
        """The API server says that a Pod of which a signal said so is not bound."""
        if not self._requests.released:
            self._state.bound_node = ""

    def on_unschedulable(self, unschedulable: PodUnschedulable) -> None:
        self._state.unschedulable = unschedulable.message


def _now() -> float:
    return workflow.now().timestamp()
