"""`create_seat` for a Pod that depends on its peers."""

from __future__ import annotations

from typing import Any, cast

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.cluster.seat import SeatActivities
from kube_cache import names
from kube_cache.contracts.common import PodRef
from kube_cache.contracts.warm_pod import CreateSeatInput, CreateSeatResult
from kube_cache.kube.client import ApiError
from kube_cache.kube.expectations import Expectations
from tests.kube.placement.fakes import HOSTNAME, SEATS, FakeCluster, node, pod, required, spread

Json = dict[str, Any]
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


class Server(FakeCluster):
    """Binds a new seat to `binds`; empty: it waits."""

    binds = ""

    def create(self, path: str, body: Json) -> Json:
        name = body["metadata"]["name"]
        if name in self.seats:
            raise ApiError(409, "AlreadyExists", name)
        self.seats[name] = {
            **body,
            "metadata": {**body["metadata"], "uid": f"uid-{name}"},
            "spec": dict(body["spec"]),
            "status": {},
        }
        if self.binds:
            self.bind(self.seats[name], self.binds)
        return self.seats[name]


@pytest.fixture
def server() -> Server:
    return Server([node("n1"), node("n2")])


async def create(server: Server, made: Json, **fields: Any) -> CreateSeatResult:
    client: Any = server
    made["spec"].setdefault("containers", [])
    seats = SeatActivities(
        client,
        cast("Any", None),
        Expectations(),
        lambda _: made,
        image="pause",
        get_nodes=lambda: server.nodes,
    )
    ref = PodRef("ml", made["metadata"]["name"], made["metadata"]["uid"])
    workflow_id = names.warm_pod_id(ref.namespace, ref.name, ref.uid)
    return await ActivityEnvironment().run(seats.create_seat, CreateSeatInput(ref, workflow_id, 1, SEATS, **fields))


def only_seat(server: Server) -> Json:
    (seat,) = server.seats.values()
    return seat


async def test_each_node_affinity_term_of_the_seat_keeps_it_from_full_domains(server: Server) -> None:
    server.nodes = [node("n1", a="yes"), node("n2", b="yes")]
    server.add(pod("running", node="n1"))
    terms = [{"matchExpressions": [{"key": key, "operator": "Exists"}]} for key in ("a", "b")]
    spec = {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms}}}, **spread()}
    assert (await create(server, pod("one", spec))).depends_on_peers
    found = only_seat(server)["spec"]["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]
    full = {"key": HOSTNAME, "operator": "NotIn", "values": ["n1"]}
    assert [full in term["matchExpressions"] for term in found] == [True, True]


async def test_a_pod_that_no_node_could_take_beside_its_peers_gets_words_instead_of_a_seat(server: Server) -> None:
    lonely = required("podAffinity", labelSelector={"matchLabels": {"app": "database"}})
    seat = await create(server, pod("one", lonely))
    assert "no Pod that the Pod's affinity requires" in seat.peers
    assert server.seats == {}


async def test_the_node_of_a_seat_is_judged_but_once(server: Server) -> None:
    server.binds = "n1"
    other = pod("other")
    server.seat(other, node="n1")  # it was bound while this seat was being made
    server.second = 1
    with pytest.raises(ApplicationError) as caught:
        await create(server, pod("one", spread()))
    assert caught.value.type == "PlacementRaced"
    server.lists.clear()
    assert (await create(server, pod("one", spread()), is_judged=True)).node == "n1"
    assert server.lists == []


async def test_a_node_from_which_another_pod_excludes_ours_is_unfit(server: Server) -> None:
    server.binds = "n1"
    server.add(pod("loner", required("podAntiAffinity"), node="n1", app="loner"))
    seat = await create(server, pod("one", required("podAntiAffinity", labelSelector={"matchLabels": {"app": "x"}})))
    assert (seat.node, "excludes the Pod" in seat.unfit) == ("n1", True)


async def test_a_seat_that_waits_is_made_anew_once_peers_have_made_room(server: Server) -> None:
    first, second = pod("first", node="n1"), pod("second", node="n2")
    server.add(first, second)
    one = pod("one", spread(minDomains=3))
    assert "none of 2 nodes" in (await create(server, one)).peers
    third = pod("third", app="other")
    server.add(third)
    assert (await create(server, one)).node == "", "nothing has changed for it"
    del server.pods["second"]
    with pytest.raises(ApplicationError) as caught:
        await create(server, one)
    assert caught.value.type == "SeatOutdated"
