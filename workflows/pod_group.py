"""`PodGroup`: releases the Pods of a group together, each with the same snapshots.

A workflow while Pods of the group wait, and no longer: members join by signal-with-start, and the last that goes or
leaves ends it. What runs is asked of the operator's watches, so a Pod that is created again beside running ones finds
them, and a Job that is run again under the old name finds nobody. Why so: docs/design/groups.md.

A member that this workflow was told of wrongly, or not at all, tells again where it stands every few minutes; one whose
Pod is gone is dropped at the next look.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from kube_cache import names
    from kube_cache.contracts.group import (
        FindGroupInput,
        FindGroupResult,
        GroupMember,
        GroupTold,
        MemberState,
        PodGroupInput,
        PodGroupStatus,
        Stage,
        Verdict,
    )
    from workflows import cluster_calls, group_rules

# Pauses between two looks while a member waits: short at first, since most groups are complete within seconds.
_FIRST_LOOK_S, _MAX_LOOK_S = 3.0, 60.0
# Seconds after which the words follow a change. A group of a thousand writes a thousand conditions each time.
_WORDS_S, _WORDS_S_PER_MEMBER = 15.0, 0.1
# Nobody waits for the others: only members whose Pod is gone are looked for.
_IDLE_LOOK_S = 600.0
# The watch of the operator that looks may be behind the message of a new member.
_SETTLED_S = 60.0
# The shortest timer; any ends the workflow task.
_BREATH_S = 0.001
_NOBODY = FindGroupResult(0)


@workflow.defn(name=names.POD_GROUP)
class PodGroup:
    @workflow.init
    def __init__(self, inp: PodGroupInput) -> None:
        self._inp = inp
        self._state = inp.state
        self._id = workflow.info().workflow_id
        self._found = _NOBODY
        self._news = False
        self._text = ""

    @workflow.run
    async def run(self, _inp: PodGroupInput) -> PodGroupStatus:
        while True:
            self._news = False
            await self._take_turn()
            if self._must_end():
                # A run that ends where a local activity ended loses the signals that came meanwhile.
                await asyncio.sleep(_BREATH_S)
                if not self._news or workflow.info().is_continue_as_new_suggested():
                    break  # what the news changed is in the state; a group that never is silent continues, too
            elif not self._news:
                with contextlib.suppress(TimeoutError):
                    await workflow.wait_condition(lambda: self._news, timeout=self._pause())
        if self._state.members:
            workflow.continue_as_new(replace(self._inp, state=self._state))
        return self.status()

    def _must_end(self) -> bool:
        return not self._state.members or workflow.info().is_continue_as_new_suggested()

    async def _take_turn(self) -> None:
        state = self._state
        looked = self._look_is_due()
        if looked:
            await self._look()
        group_rules.forget_unused(state)
        await self._send_back_outdated()
        sizes = group_rules.sizes(state)
        if not sizes:
            return
        size = max(sizes)
        if len(sizes) > 1:
            await self._tell_text(list(state.members), group_rules.sizes_differ(sizes), warning=True)
        elif await self._go_if_complete(size):
            return
        elif looked and (ready := group_rules.arrived(state)) and state.look_pause_s > _FIRST_LOOK_S:
            await self._tell_text(ready, self._words(size))
        await self._give_back_in_time(size, complete=len(sizes) == 1)

    # Complete.

    async def _go_if_complete(self, size: int) -> bool:
        state = self._state
        if not self._is_complete(size):
            return False
        if state.running:  # so many run as far as we know: the last look may be a minute old
            await self._look()
            if not self._is_complete(size):
                return False
        going = group_rules.arrived(state)
        digests = {name: self._digests(name) for name in going}
        running = set(self._found.running_digests)
        for name in going:
            del state.members[name]
        await asyncio.gather(*(self._send(name, self._go(digests[name], running)) for name in going))
        return True

    def _is_complete(self, size: int) -> bool:
        ready = len(group_rules.arrived(self._state))
        return ready > 0 and ready + self._state.running >= size

    def _go(self, digests: set[str], running: set[str]) -> GroupTold:
        differs = bool(running) and not digests <= running
        note = group_rules.other_snapshot(running) if differs else ""
        return GroupTold(self._inp.group, Verdict.GO, note, warning=differs)

    def _digests(self, name: str) -> set[str]:
        state = self._state
        return {snapshot.digest for snapshot in state.contents[state.members[name].contents]}

    async def _send_back_outdated(self) -> None:
        old = group_rules.outdated(self._state)
        for name in old:
            self._state.members[name].stage = Stage.SEATED
        await self._tell(old, GroupTold(self._inp.group, Verdict.RESOLVE, group_rules.RESOLVE_AGAIN))

    # Not complete.

    async def _give_back_in_time(self, size: int, *, complete: bool) -> None:
        """complete: the group can be complete; with members that name different sizes it cannot."""
        state, now = self._state, _now()
        group_rules.note_seats(state, size - state.running if complete else len(state.members) + 1, now)
        ends_at = group_rules.hold_ends_at(state, self._id, self._inp.hold_s)
        if ends_at is not None and ends_at <= now:
            state.rounds += 1
            rest_s = group_rules.rest_s(self._id, state.rounds, self._inp.hold_s)
            state.rest_words = group_rules.given_back(state.held_most + state.running, size, rest_s)
            state.rest_until, state.held_most, state.held_since = now + rest_s, 0, 0
            for member in state.members.values():
                member.stage, member.told = Stage.PLACING, ""
        if state.rest_until > now:
            told = GroupTold(self._inp.group, Verdict.GIVE_BACK, state.rest_words, until=state.rest_until)
            mark = str(told.until)
            placing = [name for name, member in state.members.items() if member.stage == Stage.PLACING]
            unaware = [name for name in placing if state.members[name].told != mark]
            for name in unaware:
                state.members[name].told = mark
            await self._tell(unaware, told)

    def _words(self, size: int) -> str:
        state = self._state
        ready = set(group_rules.arrived(state))
        missing = [pod for pod in self._found.waiting if pod.workflow_id not in ready]
        return group_rules.waiting(len(ready) + state.running, size, missing)

    # Looks.

    def _look_is_due(self) -> bool:
        return self._state.looked_at == 0 or _now() >= self._next_look()

    def _next_look(self) -> float:
        return self._state.looked_at + self._state.look_pause_s

    async def _look(self) -> None:
        state, now = self._state, _now()
        first = state.looked_at == 0
        group = FindGroupInput(self._inp.namespace, self._inp.group, list(state.members))
        try:
            self._found = await cluster_calls.find_group(group)
        except FailureError as error:
            workflow.logger.warning("cannot look at the group", extra={"error": str(error)})
        else:
            state.running = self._found.running
            settled = [name for name in self._found.absent if self._is_settled(name, now)]
            for name in (*self._found.gone, *settled):
                state.members.pop(name, None)
        state.looked_at = now
        if not group_rules.arrived(state):
            state.look_pause_s = _SETTLED_S if first else min(2 * max(state.look_pause_s, _SETTLED_S), _IDLE_LOOK_S)
        else:
            state.look_pause_s = _FIRST_LOOK_S if first else min(2 * max(state.look_pause_s, 1), _MAX_LOOK_S)

    def _is_settled(self, name: str, now: float) -> bool:
        member = self._state.members.get(name)
        return member is not None and now - member.since > _SETTLED_S

    def _look_soon(self) -> None:
        """The words are to follow a change."""
        state = self._state
        soon = _FIRST_LOOK_S if not self._text else max(_WORDS_S, _WORDS_S_PER_MEMBER * len(state.members))
        state.look_pause_s = min(state.look_pause_s, _now() - state.looked_at + soon)

    def _pause(self) -> timedelta:
        due = [self._next_look()]
        ends_at = group_rules.hold_ends_at(self._state, self._id, self._inp.hold_s)
        if ends_at is not None:
            due.append(ends_at)
        return timedelta(seconds=max(0.001, min(due) - _now()))

    # Messages to members.

    async def _tell_text(self, members: Iterable[str], text: str, *, warning: bool = False) -> None:
        state, self._text = self._state, text
        unaware = [name for name in members if state.members[name].told != text]
        for name in unaware:
            state.members[name].told = text
        await self._tell(unaware, GroupTold(self._inp.group, Verdict.WAIT, text, warning=warning))

    async def _tell(self, members: Iterable[str], told: GroupTold) -> None:
        await asyncio.gather(*(self._send(name, told) for name in members))

    async def _send(self, name: str, told: GroupTold) -> None:
        try:
            await workflow.get_external_workflow_handle(name).signal("group_told", told)
        except FailureError:  # that workflow has ended, and counts no more
            self._state.members.pop(name, None)

    # Signals and the query.

    @workflow.signal(description="From a Pod's workflow: it belongs to the group, and how far it is.")
    def join(self, member: GroupMember) -> None:
        state = self._state
        contents = group_rules.remember(state, member.snapshots)
        known = state.members.get(member.workflow_id)
        if known is not None and (known.size, known.stage, known.contents) == (member.size, member.stage, contents):
            return
        first_arrival = member.stage == Stage.ARRIVED and not group_rules.arrived(state)
        since = known.since if known is not None else _now()
        told = known.told if known is not None and known.stage == member.stage else ""
        state.members[member.workflow_id] = MemberState(member.size, member.stage, since, contents, told)
        if first_arrival:
            state.looked_at = 0
        self._look_soon()
        self._news = True

    @workflow.signal(description="From a Pod's workflow: it is gone, paused, cancelled, or was released by others.")
    def leave(self, member: GroupMember) -> None:
        if self._state.members.pop(member.workflow_id, None) is not None:
            self._look_soon()
            self._news = True

    @workflow.query(description="How many are ready, of how many, and what is waited for.")
    def status(self) -> PodGroupStatus:
        ready = len(group_rules.arrived(self._state))
        size = max(group_rules.sizes(self._state), default=0)
        return PodGroupStatus(ready, size, self._state.running, self._text)


def _now() -> float:
    return workflow.now().timestamp()
