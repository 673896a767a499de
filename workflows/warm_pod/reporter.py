"""What a `WarmPod` shows: phase and error in the Temporal UI and in search, condition and Events on the Pod.

Decides nothing: the phase and the error are set by `life` and `main_path`, the sentences are in `messages`. A condition
that the API server does not take is owed: nobody waits for it, and it is written when the server answers again. What is
told often is bounded: a text of which only the numbers change once a minute, an Event once an hour.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import zlib
from collections.abc import AsyncIterator, Collection

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from kube_cache.contracts.common import Phase, PodRef, Policy, Warming
    from kube_cache.contracts.warm_pod import ReportInput, WarmPodStatus
    from kube_cache.contracts.warm_pod_state import Report, ReportState, WarmPodState
    from kube_cache.units import format_bytes
    from workflows import cluster_calls
    from workflows.search_attributes import upsert
    from workflows.warm_pod import messages, options
    from workflows.warm_pod.calls import Calls
    from workflows.warm_pod.requests import Requests
    from workflows.warm_pod.timeline import Timeline
    from workflows.warm_pod.waiting import Pauses

_SAME_WORDS_S = 60.0
_SAME_EVENT_S = 3600.0
# An Event is an object in etcd for an hour; a Pod in trouble needs no more of them to be noticed.
_MAX_EVENTS = 12
_MAX_PAUSE_S = 60.0
# Arbitrary, and most Pods have one dataset; each line of a Pod's log names them.
_MAX_LOGGED = 4
# A workflow that ends does not wait for ever to say so.
_LAST_TRIES = 5


class Reporter:
    def __init__(self, pod: PodRef, policy: Policy, calls: Calls, requests: Requests, state: WarmPodState) -> None:
        self._pod = pod
        self._slow_phase_after_s = policy.slow_phase_after_s
        self._calls = calls
        self._requests = requests
        self._all = state
        self.timeline = Timeline(pod)
        self._has_spoken = False
        self._saved: tuple[str, str, int | None] | None = None
        self._debt: asyncio.Task[None] | None = None

    @property
    def _state(self) -> ReportState:
        return self._all.report

    @property
    def phase(self) -> Phase:
        return Phase(self._state.phase)

    def set_phase(
        self, phase: Phase, message: str = "", *, node: str = "", size: int | None = None, save: bool = False
    ) -> None:
        """Show the phase in the UI.

        save: also write the search attributes, a history event, so only for phases that may last. node: the Pod's node
        if not the one of the seat. size: bytes of its datasets.
        """
        if phase != self._state.phase:
            self._has_spoken = False
            data = ",".join(snapshot.uri for snapshot in self._all.data.snapshots[:_MAX_LOGGED])
            told = {"phase": phase, "why": message, "node": node or self._all.seat.node, "dataset": data}
            workflow.logger.info("phase of a Pod", extra={name: str(value) for name, value in told.items() if value})
        self._state.phase, self._state.message = phase, message
        self.timeline.enter(phase, workflow.now().timestamp(), self._all.data.attempt)
        lines = [f"**{phase}** {self._pod.namespace}/{self._pod.name}"]
        lines += [
            f"- `{snapshot.uri}`: {snapshot.files} files, {format_bytes(snapshot.bytes)}, snapshot `{snapshot.digest[:12]}`"
            for snapshot in self._all.data.snapshots
        ]
        if self._all.seat.node:
            lines.append(f"- node `{self._all.seat.node}`")
        error = self._requests.error
        if error is not None:
            lines.append(f"- **{error.type}**: {error.message}")
        workflow.set_current_details("\n".join(lines))
        attributes = (str(phase), node or self._all.seat.node, size)
        if save and attributes != self._saved:
            self._saved = attributes
            upsert(phase=phase, node=attributes[1] or None, size=size)

    async def report(
        self,
        phase: Phase,
        message: str,
        *,
        ready: bool = False,
        event: str = "",
        warning: bool = False,
        noisy: bool = False,
        warming: Warming | None = None,
    ) -> None:
        """Write the Pod's condition, unless it says the same already. Never raises.

        event: reason of an Event that says the same; empty = none. noisy: the text comes from others and changes often.
        warming: snapshots whose progress the leading operator writes over the message, until the next report.
        """
        state, now = self._state, workflow.now().timestamp()
        self._has_spoken = True
        told = Report(phase, message, ready, warming=warming)
        words = _hash(f"{phase}\0{message}")
        state.recent = {key: at for key, at in state.recent.items() if now - at < _SAME_WORDS_S}
        if told == (state.owed or state.told) or (noisy and words in state.recent):
            return
        state.recent[words] = now
        if event and (warning or not ready) and not self._admits_event(_hash(f"{event}\0{message}"), now):
            event = ""
        report = Report(phase, message, ready, event, warning, warming)
        if state.owed is not None:
            state.owed = report  # the server does not answer: one call at a time finds out when it does again
            self.settle_later()
            return
        await self._write(report)

    async def tell_banned(self) -> None:
        """Say once which neighbours were banned while the Pod's data was fetched. Never raises."""
        data = self._all.data
        banned, data.banned = data.banned, []
        if banned:
            message = messages.neighbours_banned(banned, [snapshot.digest for snapshot in data.snapshots])
            await self.report(self.phase, message, event="NeighbourBanned", warning=True)

    def _admits_event(self, key: str, now: float) -> bool:
        events = {old: at for old, at in self._state.events.items() if now - at < _SAME_EVENT_S}
        self._state.events = events
        if key in events or len(events) >= _MAX_EVENTS:
            return False
        events[key] = now
        return True

    async def _write(self, report: Report) -> None:
        state = self._state
        # So that the same annotation acts again. `cancel` and `pause` stay: they outlive even this workflow.
        action = self._requests.view.action
        done = action if options.action(action) in ("retry", "resume") else ""
        arg = ReportInput(
            self._pod,
            report.phase,
            report.message,
            report.ready,
            report.event,
            report.warning,
            done,
            report.warming,
        )
        try:
            with self._calls.counted():
                await cluster_calls.report_phase(arg)
        except FailureError:
            if state.owed is None:
                state.owed, state.told = report, None
            self.settle_later()
            return
        state.told = Report(report.phase, report.message, report.ready, warming=report.warming)
        if state.owed in (None, report):
            state.owed = None

    def settle_later(self) -> None:
        """Write what is owed as soon as the API server takes it."""
        if self._state.owed is not None and (self._debt is None or self._debt.done()):
            self._debt = asyncio.create_task(self._settle())

    async def _settle(self) -> None:
        pauses = Pauses(max_s=_MAX_PAUSE_S)
        while self._state.owed is not None:
            await asyncio.sleep(pauses.next_s())
            if self._state.owed is not None:
                await self._write(self._state.owed)

    async def settle_or_give_up(self) -> None:
        """The workflow ends: try what is owed a few times more."""
        if self._debt is not None:
            self._debt.cancel()
        pauses = Pauses()
        for _ in range(_LAST_TRIES):
            if self._state.owed is None:
                return
            await asyncio.sleep(pauses.next_s())
            await self._write(self._state.owed)

    @property
    def is_silent(self) -> bool:
        """Whether the Pod was told nothing yet, as of a hit, and asks for no answer to an action."""
        state = self._state
        told = state.told or state.owed or state.recent or state.events
        return not (told or self._requests.view.action)

    def note_told(self, message: str) -> None:
        """The Pod may say by now that its data is ready: whoever removes the gate writes that, too."""
        self._state.told = Report(Phase.DONE, message, ready=True)

    async def take_back(self, message: str) -> None:
        """Say something else on a Pod that may say that its data is ready, and begins anew."""
        if self._state.told is not None and self._state.told.ready:
            await self.report(self.phase, message)

    @property
    def standing(self) -> Report | None:
        """What the Pod says, or will say when the API server takes it."""
        return self._state.owed or self._state.told

    async def put_back(self, before: Report | None, troubles: Collection[str]) -> None:
        """Say again what stood on the Pod before the messages of a trouble that is over, if one still does."""
        standing = self.standing
        self.forget_told()
        if before is not None and standing is not None and _hash(standing.message) in map(_hash, troubles):
            await self.report(Phase(before.phase), before.message, ready=before.ready, warming=before.warming)

    def forget_told(self) -> None:
        """Write the next report in any case: somebody else writes the condition, or what it says is no longer true."""
        self._state.told = None
        self._state.recent = {}
        self._has_spoken = False

    @contextlib.asynccontextmanager
    async def report_if_slow(self) -> AsyncIterator[None]:
        """Context for a step that a cache hit passes in no time: reports the phase only if the step takes long.

        Silent if something was said in this phase: the scheduler's own words say more.
        """
        timer = asyncio.create_task(self._report_when_slow())
        try:
            yield
        finally:
            timer.cancel()

    async def _report_when_slow(self) -> None:
        await asyncio.sleep(self._slow_phase_after_s)
        message = messages.slow_phase(self.phase, node=self._all.seat.node, dataset=self._requests.view.dataset)
        if message and not self._has_spoken:
            await self.report(self.phase, message)

    def status(self) -> WarmPodStatus:
        """Answer of the `status` query."""
        snapshots = self._all.data.snapshots
        return WarmPodStatus(
            self.phase,
            self._state.message,
            self._all.seat.node,
            [snapshot.uri for snapshot in snapshots],
            [snapshot.digest for snapshot in snapshots],
            self._requests.error,
        )


def _hash(text: str) -> str:
    """Of the text without its numbers, which change while its meaning stays."""
    return f"{zlib.crc32(re.sub(r'[0-9]+', '#', text).encode()):08x}"
