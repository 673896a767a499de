"""The parts of one `WarmPod`, put together around its state."""

from __future__ import annotations

from dataclasses import dataclass

from kube_cache.contracts.warm_pod import WarmPodInput
from kube_cache.contracts.warm_pod_state import WarmPodState
from workflows.warm_pod.calls import Calls
from workflows.warm_pod.group import Group
from workflows.warm_pod.node_data import NodeData
from workflows.warm_pod.patience import Patience
from workflows.warm_pod.release import Release
from workflows.warm_pod.reporter import Reporter
from workflows.warm_pod.requests import Requests
from workflows.warm_pod.seat import Seat
from workflows.warm_pod.source import Source
from workflows.warm_pod.waiting import together


@dataclass(frozen=True)
class Parts:
    requests: Requests
    calls: Calls
    reporter: Reporter
    patience: Patience
    seat: Seat
    data: NodeData
    source: Source
    release: Release
    group: Group

    async def give_back(self, *, but_pins_on: str = "") -> None:
        """Delete the seat, leave the group, and the pins, except those on one node. Raises ContinueNow."""
        await together(self.seat.give_up(), self.data.leave_all(but=but_pins_on), self.group.leave())


def build(inp: WarmPodInput, state: WarmPodState, workflow_id: str) -> Parts:
    """Each part keeps what it must not forget in its own section of `state`."""
    pod, policy = inp.pod, inp.policy
    requests = Requests(inp.view, policy, state.requests)
    calls = Calls(requests)
    reporter = Reporter(pod, policy, calls, requests, state)
    patience = Patience(pod, calls, requests, reporter)
    seat = Seat(pod, policy, workflow_id, requests, patience, state.seat)
    data = NodeData(
        pod,
        policy,
        workflow_id,
        requests=requests,
        calls=calls,
        patience=patience,
        seat=seat,
        state=state.data,
    )
    source = Source(pod, policy, requests=requests, calls=calls, reporter=reporter, data=data, state=state.data)
    release = Release(
        pod, policy, requests=requests, calls=calls, patience=patience, reporter=reporter, state=state.release
    )
    group = Group(
        pod,
        policy,
        workflow_id,
        requests=requests,
        patience=patience,
        reporter=reporter,
        seat=seat,
        data=state.data,
        state=state.membership,
    )
    return Parts(requests, calls, reporter, patience, seat, data, source, release, group)
