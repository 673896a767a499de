"""A seat whose data is on nodes that placeholder Pods of the forecast hold: one leaves, and the seat has its place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities.cluster.seat import SeatActivities
from kube_cache.contracts.common import Phase, PodRef, Snapshot
from kube_cache.contracts.warm_pod import CreateSeatInput, CreateSeatResult, Reach, SeatBound, SeatUnschedulable
from kube_cache.kube.expectations import Expectations
from kube_cache.temporal.holdings import Holding

WORKFLOW = "warm/ml/one/uid-1"
GPT = Snapshot("s3://models/gpt", "a" * 64, 1, 100)
POD: dict[str, Any] = {
    "metadata": {"namespace": "ml", "name": "one", "uid": "uid-1"},
    "spec": {"containers": []},
}


class Cluster:
    """No node that holds the data has room, until `make_room` has been called."""

    def __init__(self, *, stands: bool) -> None:
        self.expectations = Expectations()
        self.loop = asyncio.get_running_loop()
        self.stands = stands
        self.asked: list[list[str]] = []
        self.seat = ""

    def known(self, uri: str) -> list[Holding]:
        return [Holding(uri, GPT.digest, "gpu-1", Phase.READY, 0)]

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.seat = body["metadata"]["name"]
        self._tell(SeatUnschedulable(self.seat, "no room"))
        return body

    def make_room(self, nodes: Sequence[str]) -> bool:
        self.asked.append(list(nodes))
        if self.stands:
            self._tell(SeatBound(self.seat, "gpu-1"))
        return self.stands

    def _tell(self, fact: SeatBound | SeatUnschedulable) -> None:
        self.loop.call_soon_threadsafe(self.expectations.notify, WORKFLOW, fact)


async def taken(cluster: Cluster, make_room: Callable[[Sequence[str]], bool] | None) -> CreateSeatResult:
    seat = SeatActivities(
        cluster,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        cluster.expectations,
        lambda _: POD,
        image="pause",
        make_room=make_room,
    )
    seat.inventory = cluster  # type: ignore[assignment]
    arg = CreateSeatInput(PodRef("ml", "one", "uid-1"), WORKFLOW, 1, "system", [GPT], wait_s=90, reach=Reach.HOLDERS)
    return await ActivityEnvironment().run(seat.create_seat, arg)


async def test_a_placeholder_leaves_a_node_that_holds_the_data() -> None:
    cluster = Cluster(stands=True)
    seat = await taken(cluster, cluster.make_room)
    assert (seat.node, seat.unschedulable, seat.held) == ("gpu-1", "", [GPT.digest])
    assert cluster.asked == [["gpu-1"]]


@pytest.mark.parametrize("on", [True, False], ids=["none there", "option off"])
async def test_without_one_the_seat_reaches_further(on: bool) -> None:
    cluster = Cluster(stands=False)
    seat = await taken(cluster, cluster.make_room if on else None)
    assert (seat.node, seat.unschedulable) == ("", "no room")
    assert len(cluster.asked) == on
