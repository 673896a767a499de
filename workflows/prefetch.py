"""`Prefetch`: keeps datasets on nodes before a Pod asks for them, while it lives. The one primitive of all prefetching.

Level-triggered: each look plans anew from the nodes and the inventory, so that a node that joins, a disk that was
wiped, an eviction or a signal that was lost need no handling of their own. Remembers no list of nodes, only those that
are busy or have failed of late. Decides neither what may be evicted nor who yields to whom: the node does. Its faces
(the command line, a resource, a schedule, a planner) start it, or send `apply`, with the same
specification (docs/design/prefetch.md).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from kube_cache import names
    from kube_cache.contracts.common import PodRef, Snapshot
    from kube_cache.contracts.prefetch import (
        PlanPrefetchInput,
        PrefetchInput,
        PrefetchPhase,
        PrefetchSpec,
        PrefetchStatus,
        ReleasePrefetchedInput,
    )
    from kube_cache.contracts.warm_pod import DatasetFailed, DatasetReady, ResolveInput
    from kube_cache.units import format_bytes
    from workflows import cluster_calls, node_calls
    from workflows.failures import error_info, is_final
    from workflows.prefetch_nodes import Nodes, wanted
    from workflows.search_attributes import upsert

# Of all attempts to resolve; then the prefetch says why, and rests before it tries again.
_RESOLVE_WITHIN = timedelta(minutes=5)
_RESOLVE_AGAIN_S = 300.0
# Nodes of a plan that are yet to be begun: a plan reads the inventory, which a large cluster must not do for each node.
_PLANNED_PER_SLOT = 4
# Nodes that are visited in one look when every one was visited before: a check of what the inventory says.
_TOUR = 4
# Seconds between two plans.
_MIN_PLAN_S = 1.0
_MAX_SUPERSEDED = 16
# Of a cancelled prefetch. A node that is not reached keeps its mark to the end that it had.
_MAX_RELEASE_ROUNDS = 200
_RELEASES_AT_ONCE = 32


@workflow.defn(name=names.PREFETCH)
class Prefetch:
    @workflow.init
    def __init__(self, inp: PrefetchInput) -> None:
        self._spec = inp.spec
        self._policy = inp.policy
        self._state = inp.state
        self._nodes = Nodes(inp.state)
        self._planned: deque[tuple[str, bool]] = deque()
        """Nodes to begin, and whether the inventory says that they hold everything."""
        self._planned_at = self._look_at = 0.0
        """When the last plan was made, and when the next look is due, in seconds since the epoch."""
        self._tour_ends = False
        """The last nodes of the tour are planned, and nothing is missing."""
        self._changed = False
        """A signal wants to be heeded before anything else."""
        self._is_respecified = False
        """What runs may not be wanted any more."""
        self._phase = ""
        self._is_unseen = False
        """Nothing was told since the specification changed."""

    @workflow.run
    async def run(self, _inp: PrefetchInput) -> PrefetchStatus:
        if not self._state.begun_at:
            self._state.begun_at = workflow.now().timestamp()
        while True:
            try:
                if self._must_continue_as_new():
                    await self._nodes.stop(leave=False)
                    workflow.continue_as_new(PrefetchInput(self._spec, self._policy, self._state))
                if await self._step():
                    return self.status()
            except asyncio.CancelledError:  # the UI's cancel button
                self.cancel()

    async def _step(self) -> bool:
        """Do what comes next; whether the prefetch has ended."""
        self._changed = False
        state = self._state
        if not state.ending and self._now() >= self._expires_at():
            state.ending = PrefetchPhase.EXPIRED
        if state.ending:
            return await self._end()
        if self._is_respecified:
            self._is_respecified = False
            await self._nodes.stop(leave=True)
        if state.paused:
            await self._nodes.stop(leave=True)
            self._show(PrefetchPhase.PAUSED)
            await self._wait(self._expires_at() - self._now())
        elif self._nodes.source_changed or self._must_resolve():
            await self._resolve()
        elif state.error is not None and not state.snapshots:
            self._show(PrefetchPhase.AWAITING_OPERATOR)
            rest_s = self._expires_at() - self._now()
            await self._wait(min(rest_s, self._spec.follow_s) if self._spec.follow else rest_s)
        else:
            await self._warm()
        return False

    # The datasets.

    def _must_resolve(self) -> bool:
        state = self._state
        if not state.resolved_at:
            return True
        return self._spec.follow and self._now() - state.resolved_at >= self._spec.follow_s

    async def _resolve(self) -> None:
        """Resolve the datasets with the rights of the prefetch's namespace."""
        state = self._state
        if not state.snapshots:
            self._show(PrefetchPhase.RESOLVING)
        arg = ResolveInput(PodRef(self._spec.namespace, "", ""), ",".join(self._spec.datasets))
        try:
            resolved = await cluster_calls.resolve_dataset(arg, within=_RESOLVE_WITHIN)
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            state.error = error_info(error)
            # What was resolved before is kept on the nodes. A final error waits for a person where there is nothing.
            state.resolved_at = self._now() if state.snapshots or is_final(error) else 0
            self._nodes.source_changed = False
            self._show(self._phase or PrefetchPhase.RESOLVING)
            if not state.resolved_at:
                await self._wait(_RESOLVE_AGAIN_S)
            return
        if self._changed and arg.dataset != ",".join(self._spec.datasets):
            return
        state.error, state.resolved_at, self._nodes.source_changed = None, self._now(), False
        if [each.digest for each in resolved.snapshots] != [each.digest for each in state.snapshots]:
            await self._replace(resolved.snapshots)

    async def _replace(self, snapshots: list[Snapshot]) -> None:
        await self._nodes.stop(leave=True)
        state = self._state
        new = {snapshot.digest for snapshot in snapshots}
        old = [each.digest for each in state.snapshots if each.digest not in new]
        state.superseded = [digest for digest in [*state.superseded, *old] if digest not in new][-_MAX_SUPERSEDED:]
        state.snapshots = snapshots
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Forget what was found out about the nodes."""
        self._state.cursor, self._state.toured = "", False
        self._state.failures.clear()
        self._planned.clear()
        self._look_at, self._tour_ends = 0.0, False

    # The nodes.

    async def _warm(self) -> None:
        """Plan where that is due, keep as many nodes busy as may be, and wait until one is done or a look is due."""
        if self._plan_is_due():
            await self._plan()
            if self._changed:
                return
        aim = wanted(self._spec, self._policy, self._state)
        while self._planned and len(self._nodes.busy) < self._spec.parallel:
            node, known = self._planned.popleft()
            if node not in self._nodes.busy:
                self._nodes.visit(node, aim, known=known)
        self._show(self._phase_now())
        if not self._plan_is_due():
            busy = len(self._nodes.busy)
            until = min(self._look_at, self._expires_at())
            await self._wait(until - self._now(), lambda: len(self._nodes.busy) < busy or self._nodes.source_changed)

    def _plan_is_due(self) -> bool:
        if self._now() >= self._look_at:
            return True
        if self._planned:
            return False
        return self._nodes.news or not (self._state.toured or self._nodes.busy)

    async def _plan(self) -> None:
        state, spec = self._state, self._spec
        pause_s = self._planned_at + min(_MIN_PLAN_S, self._policy.prefetch_look_s) - self._now()
        if pause_s > 0:  # the inventory lags, and its list is long in a large cluster
            await self._wait(pause_s)
        self._planned_at, self._nodes.news = self._now(), False
        if self._tour_ends and not self._nodes.busy:
            if state.toured:
                state.superseded.clear()
            state.toured = True
        slots = spec.parallel * _PLANNED_PER_SLOT
        plan = await cluster_calls.plan_prefetch(
            PlanPrefetchInput(
                spec,
                state.snapshots,
                busy=self._nodes.busy,
                avoid=self._nodes.resting(self._now()),
                cursor=state.cursor,
                missing=slots,
                tour=_TOUR if state.toured else slots,
            )
        )
        if self._changed:
            return
        self._look_at = self._now() + (plan.look_s or self._policy.prefetch_look_s)
        state.matched, state.wanted = plan.matched, plan.wanted
        state.ready, state.ready_bytes = plan.ready, plan.ready_bytes
        state.partial_bytes, state.yielding = plan.partial_bytes, plan.yielding
        self._planned = deque([*((node, False) for node in plan.missing), *((node, True) for node in plan.tour)])
        self._tour_ends = plan.toured and not plan.missing
        state.cursor = "" if plan.toured else plan.tour[-1]

    def _phase_now(self) -> PrefetchPhase:
        state = self._state
        if self._nodes.busy or self._planned or not state.toured:
            # A look at nodes that hold everything is no news.
            is_look = state.toured and state.ready == state.wanted and not self._nodes.fetching
            return PrefetchPhase.READY if is_look and state.wanted else PrefetchPhase.WARMING
        return PrefetchPhase.READY if state.wanted and state.ready >= state.wanted else PrefetchPhase.WAITING

    # The end.

    async def _end(self) -> bool:
        """Stop what runs; of a cancelled prefetch, let the data go. Whether nothing has called the end off."""
        state = self._state
        self._show(PrefetchPhase.ENDING)
        await self._nodes.stop(leave=True)
        if state.ending == PrefetchPhase.CANCELLED:  # the marks of an expired one end with it
            await self._release()
        await workflow.wait_condition(workflow.all_handlers_finished)
        if not state.ending:
            return False
        self._show(PrefetchPhase(state.ending))
        return True

    async def _release(self) -> None:
        owner = names.prefetch_id(self._spec.namespace, self._spec.name)
        digests = [each.digest for each in self._state.snapshots] + self._state.superseded
        cursor = ""
        for _ in range(_MAX_RELEASE_ROUNDS if self._state.snapshots else 0):
            plan = await cluster_calls.plan_prefetch(
                PlanPrefetchInput(self._spec, self._state.snapshots, cursor=cursor, tour=_RELEASES_AT_ONCE, ending=True)
            )
            arg = ReleasePrefetchedInput(owner, digests)
            await asyncio.gather(
                *(node_calls.release_prefetched(node, arg) for node in plan.tour), return_exceptions=True
            )
            if plan.toured or not self._state.ending:
                return
            cursor = plan.tour[-1]

    # Waiting, and what is shown.

    def _now(self) -> float:
        return workflow.now().timestamp()

    def _expires_at(self) -> float:
        return self._state.begun_at + self._spec.expires_s

    def _must_continue_as_new(self) -> bool:
        return (
            workflow.info().is_continue_as_new_suggested()
            and workflow.all_handlers_finished()
            and not self._state.ending
        )

    async def _wait(self, seconds: float, condition: Callable[[], bool] = lambda: False) -> bool:
        """Wait for a signal, the condition, or the time; False when the time is over."""
        try:
            await workflow.wait_condition(
                lambda: self._changed or condition() or self._must_continue_as_new(), timeout=max(1.0, seconds)
            )
        except TimeoutError:
            return False
        return True

    def _show(self, phase: str) -> None:
        """Show the phase in the UI. A change of phase also writes the search attribute, which is a history event."""
        if phase != self._phase:
            upsert(phase=phase)
            workflow.logger.info("phase of a prefetch", extra={"phase": str(phase), "dataset": self._spec.datasets[0]})
        self._phase, self._is_unseen = phase, False
        workflow.set_current_details(f"**{phase}** {self._message()}")

    def _message(self) -> str:
        state = self._state
        if state.error is not None:
            return f"{state.error.type}: {state.error.message}"
        if not state.snapshots:
            return "the datasets are not resolved yet"
        size = sum(each.bytes for each in state.snapshots)
        text = f"{state.ready} of {state.wanted} nodes hold {format_bytes(size)}"
        if fetching := self._nodes.fetching:
            text += f"; {len(fetching)} fetch"
        if yielding := self._yielding():
            text += f"; {len(yielding)} of them stand back for other downloads, {yielding[0]} among them"
        if state.matched < state.wanted:
            text += f"; only {state.matched} nodes match"
        if not state.matched:
            text += "; no node matches: look at the names, the selector, and whether the nodes are ready"
        if state.failures:
            node, failure = max(state.failures.items(), key=lambda item: item[1].until)
            text += f"; {len(state.failures)} failed, {node}: {failure.error.type}: {failure.error.message}"
        return text

    def _yielding(self) -> list[str]:
        """Nodes that stood back at the last look and have not come to their end since."""
        return sorted(set(self._state.yielding) & set(self._nodes.fetching))

    # Signals and the query.

    @workflow.signal(description="The specification from now on; the same again renews its end.")
    def apply(self, spec: PrefetchSpec) -> None:
        state = self._state
        if spec.datasets != self._spec.datasets:
            state.resolved_at = 0
        if spec != self._spec:
            state.fetched_bytes, self._is_respecified, self._is_unseen = 0, True, True
        self._spec, state.begun_at, state.ending = spec, self._now(), ""
        if state.error is not None:
            state.resolved_at = 0
        self._begin_anew()
        self._changed = True

    @workflow.signal(description="Stop the downloads, keep what was verified, and wait for `resume`.")
    def pause(self) -> None:
        self._state.paused = self._changed = True

    @workflow.signal(description="Go on after `pause`; try again now what failed.")
    def resume(self) -> None:
        self._state.paused, self._changed = False, True
        if self._state.error is not None:
            self._state.resolved_at = 0
        self._begin_anew()

    @workflow.signal(description="End it: what it brought is evicted first, unless a Pod has used it.")
    def cancel(self) -> None:
        self._state.ending, self._changed = PrefetchPhase.CANCELLED, True

    @workflow.signal(description="From an entity: a node holds the data.")
    def dataset_ready(self, ready: DatasetReady) -> None:
        self._nodes.answer(ready)

    @workflow.signal(description="From an entity: the download failed.")
    def dataset_failed(self, failed: DatasetFailed) -> None:
        self._nodes.answer(failed)

    @workflow.query(description="Phase, counts of nodes and bytes, what failed.")
    def status(self) -> PrefetchStatus:
        state, spec = self._state, self._spec
        # That all is ready was said of another specification.
        is_stale = self._is_unseen and self._phase == PrefetchPhase.READY
        return PrefetchStatus(
            spec.namespace,
            spec.name,
            PrefetchPhase.WARMING if is_stale else self._phase,
            self._message(),
            list(spec.datasets),
            matched=state.matched,
            wanted=state.wanted,
            ready=state.ready,
            ready_bytes=state.ready_bytes,
            total_bytes=state.wanted * sum(each.bytes for each in state.snapshots),
            fetched_bytes=state.fetched_bytes,
            busy=self._nodes.fetching,
            partial_bytes=state.partial_bytes if self._nodes.fetching else 0,
            yielding=self._yielding(),
            failures={node: replace(failure) for node, failure in list(state.failures.items())[:20]},
            expires_at=self._expires_at(),
            spec=spec,
            paused=state.paused,
        )
