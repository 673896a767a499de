"""`DatasetOnNode`: one entity per snapshot and disk. It downloads once for all Pods, and is the inventory.

Pods and prefetches join by signal-with-start, which Temporal makes atomic, and leave by signal. The entity counts its
consumers, runs at most one `stream_dataset` at a time, and answers those that wait. It stays open while the data is on
the disk, so that the search attributes tell which nodes hold what. It never judges what is on the disk: a Pod that
joins a snapshot thought to be ready makes the agent check again, because the disk is the truth.

A snapshot that was lost or damaged under running Pods is repaired: downloaded again while the Pods keep their pins. A
repair that fails is asked for again by the reconcile. Continue-as-new carries `DatasetState` whole, also in the middle
of a download, which then resumes from its journal.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, FailureError, is_cancelled_exception
from temporalio.workflow import ActivityHandle

with workflow.unsafe.imports_passed_through():
    from kube_cache import names
    from kube_cache.contracts.common import Consumer, ErrorInfo, Phase
    from kube_cache.contracts.node import (
        DatasetOnNodeInput,
        DatasetOnNodeStatus,
        DatasetState,
        EvictInput,
        EvictResult,
        JoinInput,
        SnapshotLost,
        StreamResult,
        UnpinInput,
    )
    from kube_cache.contracts.prefetch import PREFETCH_PRIORITY
    from kube_cache.contracts.warm_pod import DatasetFailed, DatasetReady
    from kube_cache.units import format_bytes, format_neighbours
    from workflows import cluster_calls, node_calls, node_stream
    from workflows.failures import AGENT_LOST, error_info
    from workflows.search_attributes import upsert

R = TypeVar("R")

# In a message for people; naming more Pods makes it no clearer.
_MAX_NAMED = 5
_CANCELLED = ErrorInfo(
    "Cancelled", "the download was cancelled by an operator; signal `retry` to the Pod's workflow starts it again"
)


@workflow.defn(name=names.DATASET_ON_NODE)
class DatasetOnNode:
    @workflow.init
    def __init__(self, inp: DatasetOnNodeInput) -> None:
        self._inp = inp
        self._state = inp.state
        self._phase = ""
        self._cancel_requested = False
        self._streaming_priority = 0
        self._replacing_cache_id = ""
        """Identity of the disk to which the Pods that run on the snapshot move; empty while this disk is the node's."""

    @workflow.run
    async def run(self, _inp: DatasetOnNodeInput) -> DatasetOnNodeStatus:
        self._set_phase(self._phase_at_rest())
        while True:
            try:
                if self._replacing_cache_id:
                    await self._move_consumers()
                elif self._must_continue_as_new():
                    workflow.continue_as_new(replace(self._inp, state=self._state))
                elif self._state.unpin:
                    await self._release_pins()
                elif self._wants_download():
                    await self._download()
                elif self._has_no_purpose():
                    await workflow.wait_condition(workflow.all_handlers_finished)
                    if self._has_no_purpose():
                        return self.status()
                else:
                    await workflow.wait_condition(self._has_work)
            except asyncio.CancelledError:
                # The UI's cancel button: give up the download and tell the waiting Pods; their workflows decide what
                # comes next.
                await self._fail(_CANCELLED)

    def _phase_at_rest(self) -> Phase:
        if self._state.ready:
            return Phase.READY
        if self._state.error is not None:
            return Phase.AWAITING_OPERATOR
        return Phase.PAUSED if self._state.paused else Phase.CHECKING

    def _has_work(self) -> bool:
        return (
            bool(self._state.unpin or self._replacing_cache_id)
            or self._wants_download()
            or self._has_no_purpose()
            or self._must_continue_as_new()
        )

    def _wants_download(self) -> bool:
        return bool(self._state.waiting) and not self._state.paused

    def _has_no_purpose(self) -> bool:
        """Nothing is on the disk and no Pod asks for it."""
        return not self._state.ready and not self._state.consumers and not self._state.paused

    def _must_continue_as_new(self) -> bool:
        return workflow.info().is_continue_as_new_suggested() and workflow.all_handlers_finished()

    # One download.

    async def _download(self) -> None:
        self._cancel_requested = False
        self._streaming_priority = self._highest_priority()
        self._set_phase(Phase.WARMING)
        try:
            result = await node_stream.fetch(self._inp, self._state, self._streaming_priority, self._while_wanted)
        except ActivityError as error:
            if not is_cancelled_exception(error):
                await self._fail(error_info(error, node=self._inp.node))
            elif self._cancel_requested:
                await self._fail(_CANCELLED)
            else:
                self._set_phase(Phase.PAUSED if self._state.paused else Phase.CHECKING)
            return
        await self._succeed(result)

    async def _while_wanted(self, activity: ActivityHandle[R]) -> R:
        """Await an activity of the download; cancel it when nobody waits for the data, or when it must stop."""
        try:
            await workflow.wait_condition(lambda: activity.done() or self._should_stop())
            while not activity.done() and not self._must_stop():
                if self._streaming_priority == PREFETCH_PRIORITY:
                    break
                # Nobody waits any more. Linger: a Pod that is deleted is often created again at once.
                linger = timedelta(seconds=self._inp.policy.linger_s)
                try:
                    await workflow.wait_condition(
                        lambda: activity.done() or bool(self._state.waiting) or self._must_stop(), timeout=linger
                    )
                except TimeoutError:
                    break
                await workflow.wait_condition(lambda: activity.done() or self._should_stop())
            if not activity.done():
                activity.cancel()
            return await activity
        except asyncio.CancelledError:
            activity.cancel()
            await asyncio.gather(activity, return_exceptions=True)
            raise

    def _should_stop(self) -> bool:
        return not self._state.waiting or self._must_stop()

    def _must_stop(self) -> bool:
        # A running activity cannot be told of a higher priority, nor can it outlive a continue-as-new: it is started
        # again and resumes from its journal.
        return (
            self._state.paused
            or self._cancel_requested
            or self._highest_priority() > self._streaming_priority
            or self._must_continue_as_new()
            # Of the Pods that joined a prefetch the last is gone: it goes on, but behind the Pods of other data.
            or (node_stream.is_spare(self._state) and self._streaming_priority != PREFETCH_PRIORITY)
        )

    def _highest_priority(self) -> int:
        """Of the waiting Pods; the running download's own when none waits."""
        consumers = self._state.consumers
        return max((consumers[name].priority for name in self._state.waiting), default=self._streaming_priority)

    async def _succeed(self, result: StreamResult) -> None:
        self._state.ready, self._state.error, self._state.done_bytes = True, None, 0
        waiting = self._take_waiting()
        for consumer in waiting:
            if consumer.prefetch:  # it uses nothing; what it keeps is marked on the disk
                del self._state.consumers[consumer.workflow_id]
        self._set_phase(Phase.READY, result)
        ready = DatasetReady(
            result.digest,
            result.fetched_bytes,
            result.seconds,
            result.verified,
            result.span,
            self._inp.node,
            result.neighbour_bytes,
            result.neighbours,
            result.banned,
        )
        await asyncio.gather(*(self._answer(consumer, "dataset_ready", ready) for consumer in waiting))

    async def _fail(self, error: ErrorInfo) -> None:
        self._state.ready, self._state.error, self._state.done_bytes = False, error, 0
        waiting = self._take_waiting()
        for consumer in waiting:
            del self._state.consumers[consumer.workflow_id]
            # A prefetch has no pin. While the agent is away nobody could take one back: the reconcile does later.
            if error.type != AGENT_LOST and not consumer.prefetch:
                self._unpin_later(consumer)
        self._set_phase(Phase.AWAITING_OPERATOR)
        failed = DatasetFailed(self._inp.snapshot.digest, error, self._inp.node)
        await asyncio.gather(*(self._answer(consumer, "dataset_failed", failed) for consumer in waiting))

    def _take_waiting(self) -> list[Consumer]:
        """Take the Pods that wait for an answer. Pods under repair get none and keep their pin."""
        state = self._state
        taken = [state.consumers[name] for name in state.waiting if name not in state.repairing]
        state.waiting, state.repairing = [], []
        return taken

    async def _answer(self, consumer: Consumer, signal: str, answer: DatasetReady | DatasetFailed) -> None:
        try:
            await workflow.get_external_workflow_handle(consumer.workflow_id).signal(signal, answer)
        except FailureError:  # that workflow has ended; its Pod needs nothing from us
            workflow.logger.info("nobody to answer", extra={"signal_name": signal, "consumer": consumer.workflow_id})

    async def _release_pins(self) -> None:
        held = {consumer.pod.uid for consumer in self._state.consumers.values()}
        pods, self._state.unpin = [pod for pod in self._state.unpin if pod.uid not in held], []
        attempts, self._state.unpin_attempts = self._state.unpin_attempts, {}
        try:
            for pod in pods:
                arg = UnpinInput([self._inp.snapshot.digest], pod, attempts.get(pod.uid, 0))
                await node_calls.unpin(self._inp.node, arg)
        except ActivityError as error:
            # The agent is gone or its disk is faulty: the pins keep the data, which is the safe side, until the
            # reconcile.
            workflow.logger.warning(
                "pins not released", extra={"error": error_info(error, node=self._inp.node).message}
            )

    async def _move_consumers(self) -> None:
        """Join the Pods that run on the snapshot to the entity of the node's new disk, which downloads it; then end."""
        moved = replace(self._inp, cache_id=self._replacing_cache_id, state=DatasetState())
        self._replacing_cache_id = ""
        consumers, self._state.consumers = list(self._state.consumers.values()), {}
        self._state.unpin, self._state.unpin_attempts = [], {}
        self._state.error, self._state.paused = None, False
        await asyncio.gather(
            *(
                cluster_calls.join_dataset(JoinInput(moved, replace(consumer, hit=False)), until_done=True)
                for consumer in consumers
            )
        )

    def _set_phase(self, phase: Phase, result: StreamResult | None = None) -> None:
        """Show the phase in the UI. A change of phase also writes the search attribute, which is a history event."""
        snapshot, state = self._inp.snapshot, self._state
        if phase != self._phase:
            upsert(phase=phase)
            told = {"dataset": snapshot.uri, "phase": str(phase), "waiting": len(state.waiting)}
            workflow.logger.info("phase of a dataset", extra=told)
        self._phase = phase
        lines = [
            f"**{phase}** on `{self._inp.node}` (disk `{self._inp.cache_id}`)",
            f"- dataset: `{snapshot.uri}`, {snapshot.files} files, {format_bytes(snapshot.bytes)}",
            f"- snapshot: `{snapshot.digest}`",
            f"- {len(state.waiting)} Pods wait, {len(state.consumers)} hold it",
        ]
        if result is not None:
            lines.append(
                f"- fetched {format_bytes(result.fetched_bytes)} in {result.seconds:.1f} s, verified: {result.verified}"
            )
            if fed := format_neighbours(result.neighbour_bytes, result.fetched_bytes, result.neighbours):
                lines.append(f"- {fed}")
            lines += [f"- **banned**: node {banned.node} {banned.reason}" for banned in result.banned]
        if state.error is not None:
            lines.append(f"- **{state.error.type}**: {state.error.message}")
        workflow.set_current_details("\n".join(lines))

    # Signals, the update and the query.

    @workflow.signal(description="A Pod wants this dataset here.")
    def join(self, consumer: Consumer) -> None:
        if consumer.policy is not None:
            self._inp, consumer = replace(self._inp, policy=consumer.policy), replace(consumer, policy=None)
        if self._is_outdated(consumer):
            return
        self._forget(consumer.workflow_id)
        if consumer.prefetch and consumer.hit:  # it uses nothing: the inventory learns what is on the disk
            if not self._state.waiting:
                self._state.ready, self._state.error = True, None
                self._set_phase(Phase.READY)
            return
        self._state.consumers[consumer.workflow_id] = consumer
        if consumer.hit:
            self._state.ready = True
        else:
            self._state.waiting.append(consumer.workflow_id)

    @workflow.signal(description="A Pod no longer wants it: gone, ended, moved or cancelled.")
    def leave(self, consumer: Consumer) -> None:
        if not self._is_outdated(consumer):
            self._forget(consumer.workflow_id)
            if not consumer.prefetch:
                self._unpin_later(consumer)

    def _is_outdated(self, consumer: Consumer) -> bool:
        """Whether the signal was overtaken by one of the Pod's later placement on this disk."""
        known = self._state.consumers.get(consumer.workflow_id)
        return known is not None and 0 < consumer.attempt < known.attempt

    def _unpin_later(self, consumer: Consumer) -> None:
        uid, attempts = consumer.pod.uid, self._state.unpin_attempts
        self._state.unpin.append(consumer.pod)
        earlier = attempts.get(uid, consumer.attempt)
        attempts[uid] = max(earlier, consumer.attempt) if earlier and consumer.attempt else 0

    def _forget(self, workflow_id: str) -> None:
        state = self._state
        state.consumers.pop(workflow_id, None)
        state.waiting = [name for name in state.waiting if name != workflow_id]
        state.repairing = [name for name in state.repairing if name != workflow_id]

    @workflow.signal(description="Stop the download, keep what was verified, and wait for `resume`.")
    def pause(self) -> None:
        self._state.paused = True

    @workflow.signal(description="Go on after `pause`.")
    def resume(self) -> None:
        self._state.paused = False

    @workflow.signal(description="Stop the download; the waiting Pods stay gated and say so.")
    def cancel(self) -> None:
        self._cancel_requested = bool(self._state.waiting)

    @workflow.signal(
        description="From the reconcile: the snapshot is no longer complete on the disk, or the node or its disk is gone."
    )
    def snapshot_lost(self, lost: SnapshotLost) -> None:
        state = self._state
        state.ready = False
        running = {consumer.workflow_id: self._as_known(consumer) for consumer in lost.consumers}
        if lost.disk_is_gone:
            self._state = DatasetState(consumers=running)
            self._replacing_cache_id = lost.cache_id if running else ""
        else:
            # Pods mount the snapshot: download what is missing again, for all of them.
            for name, consumer in running.items():
                known = state.consumers.get(name, consumer)
                state.consumers[name] = replace(consumer, attempt=known.attempt)
            new = [name for name in state.consumers if name not in state.waiting]
            state.repairing += new
            state.waiting += new

    def _as_known(self, consumer: Consumer) -> Consumer:
        """Add to a Pod of a receipt, which names no option, what a join told."""
        known = self._state.consumers.get(consumer.workflow_id, consumer)
        return replace(consumer, forbids_neighbours=known.forbids_neighbours)

    @workflow.update(description="Remove it from the disk. Refused while a Pod waits for it or uses it.")
    async def evict(self) -> EvictResult:
        evicted = await node_calls.evict(self._inp.node, EvictInput(self._inp.snapshot.digest))
        self._state.ready = False
        return evicted

    @evict.validator
    def refuse_while_in_use(self) -> None:
        pods = sorted(f"{user.pod.namespace}/{user.pod.name}" for user in self._state.consumers.values())
        if pods:
            shown = ", ".join(pods[:_MAX_NAMED]) + (
                f" and {len(pods) - _MAX_NAMED} more" if len(pods) > _MAX_NAMED else ""
            )
            raise ApplicationError(f"in use by {shown}: evict it when they have ended", type="SnapshotInUse")

    @workflow.query(description="Whether this Pod counts as waiting for the download, just as it describes itself.")
    def awaits(self, consumer: Consumer) -> bool:
        known = self._state.consumers.get(consumer.workflow_id)
        if known is None or consumer.workflow_id not in self._state.waiting:
            return False
        # Which only a join brings.
        brought = replace(consumer, peer_token=known.peer_token, expects_others=known.expects_others)
        return known == replace(brought, policy=None)

    @workflow.query(description="Phase, consumers, those that wait, last error.")
    def status(self) -> DatasetOnNodeStatus:
        state = self._state
        return DatasetOnNodeStatus(self._phase, list(state.consumers.values()), list(state.waiting), state.error)
