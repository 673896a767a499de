"""`DatasetOnNode`: one entity per snapshot per disk. It runs one download for all Pods that want it, and is the inventory.

Pods join by signal-with-start (atomic in Temporal) and leave by signal; the entity counts interest, runs at most one
`stream_dataset` at a time, and signals those who wait. It stays open while the data is on the disk, so that the search
attributes answer which nodes hold what. It never judges what is on the disk: a Pod that joins a snapshot that is thought
ready makes the agent look again, because the disk is the truth.

A Pod that runs on it may have it mended: what was found damaged is fetched again while the Pod keeps its pin, and when that
fails, the reconcile asks again. Continue-as-new carries everything over, also in the middle of a download, which then goes on
from its journal.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from kube_cache import contracts, names
    from kube_cache.contracts import DatasetOnNodeInput, DatasetOnNodeStatus, ErrorInfo, Interest, Phase
    from kube_cache.text import format_bytes
    from workflows import calls
    from workflows.attributes import upsert
    from workflows.failures import AGENT_LOST, error_info

# In a message for people; more Pods than that do not make it clearer.
_MOST_NAMED = 5
_HANDS_OVER = "hands-over"


@workflow.defn(name=names.DATASET_ON_NODE)
class DatasetOnNode:
    @workflow.init
    def __init__(self, inp: DatasetOnNodeInput) -> None:
        self._inp = inp
        self._users: dict[str, Interest] = {user.workflow_id: user for user in inp.users}
        self._waiting: dict[str, Interest] = {user.workflow_id: user for user in inp.waiting}
        self._mending: set[str] = set(inp.mending)  # of those that wait, who runs on it already
        self._unpin: list[contracts.PodRef] = list(inp.unpin)
        self._ready = inp.ready
        self._paused = inp.paused
        self._cancel = False
        self._streaming_priority = 0
        self._error: ErrorInfo | None = inp.error
        self._phase = ""
        self._moved_to = ""
        self._hands_over = inp.hands_over

    @workflow.run
    async def run(self, _inp: DatasetOnNodeInput) -> DatasetOnNodeStatus:
        self._enter(self._at_rest())
        while True:
            try:
                if self._moved_to:
                    await self._move()
                elif self._history_is_long() and workflow.all_handlers_finished():
                    self._continue_as_new()
                elif self._unpin:
                    await self._release_pins()
                elif self._waiting and not self._paused:
                    await self._fetch()
                elif self._idle():
                    await workflow.wait_condition(workflow.all_handlers_finished)
                    if self._idle():
                        return self.status()  # nothing on the disk, and nobody asks for it
                else:
                    await workflow.wait_condition(self._something_to_do)
            except asyncio.CancelledError:
                # The UI's cancel button: give up the download and tell those who wait; they decide what comes next.
                await self._fail(
                    ErrorInfo(
                        "Cancelled",
                        "the download was cancelled by an operator; signal `retry` to the Pod's workflow starts it again",
                    )
                )

    def _at_rest(self) -> Phase:
        if self._ready:
            return Phase.READY
        if self._error is not None:
            return Phase.AWAITING_OPERATOR
        return Phase.PAUSED if self._paused else Phase.CHECKING

    def _something_to_do(self) -> bool:
        return (
            bool(self._unpin or self._moved_to)
            or (bool(self._waiting) and not self._paused)
            or self._idle()
            or (self._history_is_long() and workflow.all_handlers_finished())
        )

    def _idle(self) -> bool:
        return not self._ready and not self._users and not self._paused

    def _history_is_long(self) -> bool:
        return workflow.info().is_continue_as_new_suggested() and (self._hands_over or not self._waiting)

    # One download.

    async def _fetch(self) -> None:
        inp = self._inp
        self._hands_over = workflow.patched(_HANDS_OVER)
        self._cancel = False
        self._streaming_priority = max(interest.priority for interest in self._waiting.values())
        self._enter(Phase.WARMING)
        stream = calls.stream_dataset(
            inp.node, contracts.StreamInput(inp.cache_id, inp.snapshot, self._streaming_priority), inp.policy
        )
        try:
            await workflow.wait_condition(lambda: stream.done() or self._should_stop())
            while not stream.done() and not self._must_stop():
                # Nobody waits any more. Linger: a Pod that is deleted is often created again at once.
                linger = timedelta(seconds=inp.policy.linger_s)
                try:
                    await workflow.wait_condition(
                        lambda: stream.done() or bool(self._waiting) or self._must_stop(), timeout=linger
                    )
                except TimeoutError:
                    break
                await workflow.wait_condition(lambda: stream.done() or self._should_stop())
            stopped = not stream.done()
            if stopped:
                stream.cancel()
            result = await stream
        except ActivityError as error:
            if is_cancelled_exception(error):
                await self._stopped()
            else:
                await self._fail(error_info(error, node=inp.node))
            return
        except asyncio.CancelledError:
            stream.cancel()
            await asyncio.gather(stream, return_exceptions=True)
            raise
        await self._succeed(result)

    def _should_stop(self) -> bool:
        return not self._waiting or self._must_stop()

    def _must_stop(self) -> bool:
        return self._paused or self._cancel or self._more_urgent() or (self._hands_over and self._history_is_long())

    def _more_urgent(self) -> bool:
        # A running activity cannot be told; it is restarted with the higher priority and resumes from its journal.
        return any(interest.priority > self._streaming_priority for interest in self._waiting.values())

    async def _succeed(self, result: contracts.StreamResult) -> None:
        self._ready, self._error = True, None
        waiting = self._answered()
        self._enter(Phase.READY, result)
        ready = contracts.DatasetReady(result.digest, result.fetched_bytes, result.seconds, result.verified)
        await asyncio.gather(*(self._tell(interest, "dataset_ready", ready) for interest in waiting.values()))

    async def _fail(self, error: ErrorInfo) -> None:
        self._ready, self._error = False, error
        waiting = self._answered()
        for interest in waiting.values():
            self._users.pop(interest.workflow_id, None)
            if (
                error.type != AGENT_LOST
            ):  # nobody there to hear it; pins of the dead are reconciled when the agent is back
                self._unpin.append(interest.pod)
        self._enter(Phase.AWAITING_OPERATOR)
        failed = contracts.DatasetFailed(self._inp.snapshot.digest, error)
        await asyncio.gather(*(self._tell(interest, "dataset_failed", failed) for interest in waiting.values()))

    def _answered(self) -> dict[str, Interest]:
        """Those that are to be told. Who runs on it is not: it keeps what it holds, and has nobody to tell."""
        waiting = {name: interest for name, interest in self._waiting.items() if name not in self._mending}
        self._waiting = {}
        self._mending.clear()
        return waiting

    async def _stopped(self) -> None:
        if self._cancel:
            await self._fail(
                ErrorInfo(
                    "Cancelled",
                    "the download was cancelled by an operator; signal `retry` to the Pod's workflow starts it again",
                )
            )
        else:
            self._enter(Phase.PAUSED if self._paused else Phase.CHECKING)

    async def _tell(
        self, interest: Interest, signal: str, answer: contracts.DatasetReady | contracts.DatasetFailed
    ) -> None:
        try:
            await workflow.get_external_workflow_handle(interest.workflow_id).signal(signal, answer)
        except FailureError:  # that workflow has ended; its Pod needs nothing from us
            workflow.logger.info("nobody to tell", extra={"signal_name": signal, "waiter": interest.workflow_id})

    async def _release_pins(self) -> None:
        held = {user.pod.uid for user in self._users.values()}
        pods, self._unpin = [pod for pod in self._unpin if pod.uid not in held], []
        try:
            for pod in pods:
                await calls.unpin(self._inp.node, contracts.UnpinInput([self._inp.snapshot.digest], pod))
        except ActivityError as error:
            # The agent is gone or its disk is ill: the pins keep the data, which is the safe side, until reconciled.
            workflow.logger.warning(
                "pins not released", extra={"error": error_info(error, node=self._inp.node).message}
            )

    async def _move(self) -> None:
        """The disk was replaced: what Pods run on is brought to the new one by its own entity, and this one ends."""
        moved = replace(self._inp, cache_id=self._moved_to, users=[], waiting=[], mending=[], unpin=[], error=None)
        moved = replace(moved, ready=False, paused=False)
        self._moved_to = ""
        users, self._users = list(self._users.values()), {}
        await asyncio.gather(
            *(calls.join_dataset(contracts.JoinInput(moved, replace(user, hit=False))) for user in users)
        )

    def _continue_as_new(self) -> None:
        workflow.continue_as_new(
            replace(
                self._inp,
                users=list(self._users.values()),
                ready=self._ready,
                paused=self._paused,
                waiting=list(self._waiting.values()),
                mending=sorted(self._mending),
                unpin=self._unpin,
                error=self._error,
                hands_over=True,
            )
        )

    def _enter(self, phase: Phase, result: contracts.StreamResult | None = None) -> None:
        snapshot = self._inp.snapshot
        if phase != self._phase:
            upsert(phase=phase)
        self._phase = phase
        lines = [
            f"**{phase}** on `{self._inp.node}` (disk `{self._inp.cache_id}`)",
            f"- dataset: `{snapshot.uri}`, {snapshot.files} files, {format_bytes(snapshot.bytes)}",
            f"- snapshot: `{snapshot.digest}`",
            f"- {len(self._waiting)} Pods wait, {len(self._users)} hold it",
        ]
        if result is not None:
            lines.append(
                f"- fetched {format_bytes(result.fetched_bytes)} in {result.seconds:.1f} s, verified: {result.verified}"
            )
        if self._error is not None:
            lines.append(f"- **{self._error.type}**: {self._error.message}")
        workflow.set_current_details("\n".join(lines))

    # Signals and queries.

    @workflow.signal(description="A Pod wants this dataset here.")
    def join(self, interest: Interest) -> None:
        self._users[interest.workflow_id] = interest
        self._mending.discard(interest.workflow_id)
        if interest.hit:
            self._ready = True
        else:
            self._waiting[interest.workflow_id] = interest

    @workflow.signal(description="A Pod no longer wants it: gone, ended, moved or cancelled.")
    def leave(self, interest: Interest) -> None:
        self._waiting.pop(interest.workflow_id, None)
        self._mending.discard(interest.workflow_id)
        self._users.pop(interest.workflow_id, None)
        self._unpin.append(interest.pod)

    @workflow.signal(description="Stop the download, keep what was verified, and wait for `resume`.")
    def pause(self) -> None:
        self._paused = True
        self._hands_over = workflow.patched(_HANDS_OVER)

    @workflow.signal(description="Go on after `pause`.")
    def resume(self) -> None:
        self._paused = False

    @workflow.signal(description="Stop the download; the waiting Pods stay gated and say so.")
    def cancel(self) -> None:
        self._cancel = bool(self._waiting)

    @workflow.signal(description="From the reconcile: the disk no longer holds it whole, or the node is no more.")
    def vanished(self, gone: contracts.Vanished) -> None:
        self._ready = False
        running = {user.workflow_id: user for user in gone.users}
        if gone.node_is_gone:
            self._users = running
            self._waiting.clear()
            self._mending.clear()
            self._unpin.clear()
            self._moved_to = gone.cache_id if running else ""
        else:
            # Pods that mount it: fetch what is missing again.
            running = {**self._users, **running}
            self._mending |= running.keys() - self._waiting.keys()
            self._users.update(running)
            self._waiting.update(running)

    @workflow.update(description="Remove it from the disk. Refused while a Pod waits for it or uses it.")
    async def evict(self) -> contracts.EvictResult:
        evicted = await calls.evict(self._inp.node, contracts.EvictInput(self._inp.snapshot.digest))
        self._ready = False
        return evicted

    @evict.validator
    def refuse_while_in_use(self) -> None:
        if self._users:
            pods = sorted(f"{user.pod.namespace}/{user.pod.name}" for user in self._users.values())
            shown = ", ".join(pods[:_MOST_NAMED]) + (
                f" and {len(pods) - _MOST_NAMED} more" if len(pods) > _MOST_NAMED else ""
            )
            raise ApplicationError(f"in use by {shown}: evict it when they have ended", type="SnapshotInUse")

    @workflow.query(description="Phase, waiting and holding Pod workflows, last error.")
    def status(self) -> DatasetOnNodeStatus:
        return DatasetOnNodeStatus(
            self._phase, list(self._waiting), list(self._users), self._error, list(self._users.values())
        )
