"""A `WarmPod` as a member of its group: says how far it is, and waits until the group may go.

A Pod without the annotation passes here without a call. The wait asks by itself what a lost signal would tell: every
few minutes the member says again where it stands, and its seat and its disk are looked at again.

Once the group may go, the Pod waits for it no more: one that loses its node in that instant is placed again and
released alone, because the others run and wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from kube_cache.contracts.common import Phase, PodRef, Policy
    from kube_cache.contracts.group import GroupMember, GroupTold, JoinGroupInput, PodGroupInput, Stage, Verdict
    from kube_cache.contracts.warm_pod_state import DataState, MembershipState
    from workflows import cluster_calls
    from workflows.warm_pod import options
    from workflows.warm_pod.patience import Patience
    from workflows.warm_pod.reporter import Reporter
    from workflows.warm_pod.requests import Requests
    from workflows.warm_pod.seat import Seat
    from workflows.warm_pod.waiting import Pauses, wait

# Reason of the Event of a Pod whose group gives its seats back, so that another group can be complete.
GAVE_BACK = "SeatGivenBack"
_FIRST_LOOK_S = 60.0
_MAX_LOOK_S = 300.0


class Group:
    def __init__(
        self,
        pod: PodRef,
        policy: Policy,
        workflow_id: str,
        *,
        requests: Requests,
        patience: Patience,
        reporter: Reporter,
        seat: Seat,
        data: DataState,
        state: MembershipState,
    ) -> None:
        self._pod = pod
        self._policy = policy
        self._workflow_id = workflow_id
        self._requests = requests
        self._patience = patience
        self._reporter = reporter
        self._seat = seat
        self._data = data
        self._state = state
        self._look_s = _FIRST_LOOK_S
        self._resolve_pauses = Pauses(1.0, 60.0)

    @property
    def is_joined(self) -> bool:
        return bool(self._state.group)

    @property
    def _must_wait(self) -> bool:
        group = self._requests.view.group
        return bool(group) and self._state.gone_with != group

    async def await_turn(self) -> None:
        """Before a seat is taken: join the group, and wait while it rests. A `retry` ends the wait."""
        state, requests = self._state, self._requests
        await self._tell(Stage.PLACING)
        while self._must_wait and (left_s := state.rest_until - _now()) > 0:
            await self._show()
            with contextlib.suppress(TimeoutError):
                await wait(lambda: requests.retry_requested or not self._must_wait, left_s)
            if requests.take_retry():
                state.rest_until = 0

    async def note_seated(self) -> None:
        """The seat holds a node, and the data is to be fetched."""
        await self._tell(Stage.SEATED)

    async def may_go(self) -> bool:
        """Whether the Pod may be released now. False: time has passed, look at everything again. Raises SeatMoved."""
        if not self._must_wait:
            if self._state.stage != Stage.ARRIVED:
                await self.leave()  # `go` crossed with the news of a lost seat, by which the group counts it again
            return True
        state, requests, seat = self._state, self._requests, self._seat
        await self._tell(Stage.ARRIVED)
        view = requests.view.group, requests.view.group_size
        ends_at = _now() + self._look_s
        while True:
            await self._show()
            shown = state.message
            try:
                await wait(
                    lambda: (
                        not self._must_wait
                        or seat.lost
                        or state.must_resolve
                        or requests.resync_requested
                        or requests.retry_requested
                        or (requests.view.group, requests.view.group_size) != view
                        or state.message != shown
                    ),
                    max(0.001, ends_at - _now()),
                )
            except TimeoutError:
                self._look_s = min(2 * self._look_s, _MAX_LOOK_S)
                break
            if state.message == shown or not self._must_wait or seat.lost:
                break
        seat.check_stands()
        if not self._must_wait:
            await self._say_gone()
        elif state.must_resolve:
            await self._patience.pause(self._resolve_pauses.next_s())
        else:
            requests.take_retry()
            requests.take_resync()
            await self._tell(Stage.ARRIVED, again=True)
            await seat.look_again()
            seat.check_stands()
        return False

    def take_resolve(self) -> bool:
        """Whether another member has a newer snapshot, so that the sources are to be resolved again."""
        must, self._state.must_resolve = self._state.must_resolve, False
        return must

    async def step_back(self) -> None:
        """The seat is lost, or its node is left."""
        if self._state.stage != Stage.PLACING:
            await self._tell(Stage.PLACING)

    async def leave(self) -> None:
        """The Pod waits for the group no more: gone, stopped, or released by others."""
        state = self._state
        if state.group:
            await self._call(GroupMember(self._workflow_id, 0), state.group, leave=True)
        state.group, state.stage, state.key = "", "", ""

    def on_told(self, told: GroupTold) -> None:
        state = self._state
        if told.group != self._requests.view.group:
            return
        state.message, state.warning = told.message, told.warning
        match told.verdict:
            case Verdict.GO:
                state.gone_with, state.rest_until, state.must_resolve = told.group, 0, False
            case Verdict.RESOLVE:
                state.must_resolve, state.stage = True, Stage.SEATED
            case Verdict.GIVE_BACK:
                state.rest_until, state.stage = told.until, Stage.PLACING
                self._seat.recall(told.message, GAVE_BACK)

    async def _tell(self, stage: Stage, *, again: bool = False) -> None:
        """Tell the group, if it does not know."""
        state, view = self._state, self._requests.view
        if not self._must_wait or state.group != view.group:
            await self.leave()
        if not self._must_wait:
            return
        snapshots = self._data.snapshots if stage == Stage.ARRIVED else []
        key = ",".join([view.group_size, *(snapshot.digest for snapshot in snapshots)])
        if not again and (state.group, state.stage, state.key) == (view.group, stage, key):
            return
        if stage not in (Stage.PLACING, state.stage):
            state.message = ""
        # Before the call: what the group answers may come while it is under way.
        state.group, state.stage, state.key = view.group, stage, key
        member = GroupMember(self._workflow_id, options.group_size(view), stage, list(snapshots))
        try:
            await self._call(member, view.group)
        except (Exception, asyncio.CancelledError):
            state.key = ""  # it may not know
            raise

    async def _call(self, member: GroupMember, group: str, *, leave: bool = False) -> None:
        to = PodGroupInput(self._pod.namespace, group, self._policy.group_hold_s)
        arg = JoinGroupInput(to, member, leave)
        await self._patience.until_done("tell the Pod's group", cluster_calls.join_group, arg)

    async def _show(self) -> None:
        state = self._state
        if not state.message:
            return  # most groups are complete before there is something to say
        self._reporter.set_phase(Phase.WAITING_FOR_GROUP, state.message, save=True)
        event = "WaitingForGroup" if state.warning or not state.announced else ""
        state.announced = True
        await self._reporter.report(Phase.WAITING_FOR_GROUP, state.message, event=event, warning=state.warning)

    async def _say_gone(self) -> None:
        state = self._state
        if state.message and state.warning:
            await self._reporter.report(Phase.RELEASING, state.message, event="GroupSnapshotDiffers", warning=True)


def _now() -> float:
    return workflow.now().timestamp()
