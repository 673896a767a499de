"""`create_seat` beside an API server that is slow, and an inventory that knows many nodes."""

from __future__ import annotations

import asyncio
import gc
import threading
from dataclasses import replace
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.cluster.nearness import near
from activities.cluster.seat import SeatActivities
from kube_cache import names
from kube_cache.contracts.common import Phase, PodRef, Snapshot
from kube_cache.contracts.warm_pod import CreateSeatInput, CreateSeatResult, DeleteSeatInput, Reach, SeatUnschedulable
from kube_cache.kube.expectations import Expectations
from kube_cache.kube.nodes import NodeFacts
from kube_cache.kube.requirements import fingerprint
from kube_cache.temporal.holdings import Holding

REF = PodRef("ml", "one", "uid-1")
POD: dict[str, Any] = {
    "metadata": {"namespace": "ml", "name": "one", "uid": "uid-1"},
    "spec": {"containers": []},
}
GPT = Snapshot("s3://models/gpt", "a" * 64, 1, 100)
TOKENS = Snapshot("s3://models/tokens", "b" * 64, 1, 10)


def held(node: str, digest: str, *, ready: bool) -> Holding:
    return Holding("s3://models/x", digest, node, Phase.READY if ready else Phase.WARMING, 0)


class SlowKube:
    """Holds each request until it is told to go on."""

    def __init__(self) -> None:
        self.reading, self.creating, self.go_on = threading.Event(), threading.Event(), threading.Event()
        self.created: list[dict[str, Any]] = []

    def get_pod(self, namespace: str, name: str, *, allow_stale: bool = False) -> dict[str, Any]:
        self.reading.set()
        assert self.go_on.wait(90)
        return POD

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.creating.set()
        assert self.go_on.wait(90)
        self.created.append(body)
        return body


def activities(kube: SlowKube, pod: dict[str, Any] | None) -> SeatActivities:
    return SeatActivities(kube, None, Expectations(), lambda uid: pod, image="pause")  # type: ignore[arg-type]


async def run(seat: SeatActivities) -> CreateSeatResult:
    return await ActivityEnvironment().run(seat.create_seat, CreateSeatInput(REF, "warm/ml/one/uid-1", 1, "system"))


async def test_a_seat_that_is_not_wanted_any_more_is_not_created() -> None:
    """The attempt has timed out while the Pod was read; the workflow may have deleted the seat meanwhile."""
    kube = SlowKube()
    attempt = asyncio.create_task(run(activities(kube, None)))
    assert await asyncio.to_thread(kube.reading.wait, 90)
    attempt.cancel()
    await asyncio.sleep(0)
    kube.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    assert kube.created == []


async def test_the_error_of_a_creation_that_nobody_waits_for_is_no_line_in_the_log() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    await test_a_seat_that_is_not_wanted_any_more_is_not_created()
    await asyncio.get_running_loop().shutdown_default_executor()  # its threads hold on to what they were given
    gc.collect()  # asyncio tells of an error that nobody took when its task is collected
    assert told == []


async def test_a_cancelled_creation_ends_only_after_its_request() -> None:
    """The workflow deletes the seat when the activity has ended: no request may come after that."""
    kube = SlowKube()
    attempt = asyncio.create_task(run(activities(kube, POD)))
    assert await asyncio.to_thread(kube.creating.wait, 90)
    attempt.cancel()
    done, _ = await asyncio.wait([attempt], timeout=0.2)
    assert not done
    kube.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    assert len(kube.created) == 1


def preferred(holdings: dict[str, list[Holding]], **options: Any) -> list[str]:
    arg = CreateSeatInput(REF, "w", 1, "system", [GPT, TOKENS], **options)
    return near(arg, {GPT.uri: [], TOKENS.uri: [], **holdings}).preferred


def test_the_nodes_with_the_most_bytes_are_preferred() -> None:
    holdings = {
        GPT.uri: [held("big", GPT.digest, ready=True), held("old", "c" * 64, ready=True)],
        TOKENS.uri: [held("small", TOKENS.digest, ready=True)],
    }
    assert preferred(holdings) == ["big"]


def test_a_popular_dataset_makes_no_seat_of_a_thousand_terms() -> None:
    holders = [held(f"n{number}", GPT.digest, ready=True) for number in range(1000)]
    nodes = preferred({GPT.uri: holders}, prefer_nodes=["mine", "away"], exclude_nodes=["away", "n7"])
    assert nodes[0] == "mine"
    assert len(set(nodes)) == 16
    assert not {"away", "n7"} & set(nodes)


async def test_only_what_the_seats_node_holds_is_answered() -> None:
    class Inventory:
        def known(self, uri: str) -> list[Holding]:
            return []

        async def of(self, uri: str) -> list[Holding]:
            return {
                GPT.uri: [held("gpu-1", GPT.digest, ready=True), held("gpu-2", GPT.digest, ready=True)],
                TOKENS.uri: [held("gpu-1", TOKENS.digest, ready=False), held("gpu-2", TOKENS.digest, ready=True)],
            }[uri]

    class Kube(SlowKube):
        def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
            return {**body, "spec": {**body["spec"], "nodeName": "gpu-1"}}

    seat = activities(Kube(), POD)
    seat.inventory = Inventory()  # type: ignore[assignment]
    arg = CreateSeatInput(REF, "w", 1, "system", [GPT, TOKENS])
    assert await ActivityEnvironment().run(seat.create_seat, arg) == CreateSeatResult(
        "seat-uid-1-1", node="gpu-1", held=[GPT.digest], requirements=fingerprint(POD), reach=Reach.NEAR
    )


class Known:
    """An inventory that knows since some seconds which nodes hold GPT, and has a fresher answer when it is asked."""

    def __init__(self, known: list[Holding]) -> None:
        self._known = known
        self.asked = 0

    def known(self, uri: str) -> list[Holding]:
        return self._known

    async def of(self, uri: str) -> list[Holding]:
        self.asked += 1
        return [held("gpu-2", GPT.digest, ready=True)]


@pytest.mark.parametrize(
    ("known", "options", "asked"),
    [
        ([held("gpu-1", GPT.digest, ready=True)], {}, 0),
        ([held("gpu-1", GPT.digest, ready=False)], {}, 1),
        ([held("gpu-1", "c" * 64, ready=True)], {}, 1),
        ([held("gpu-1", GPT.digest, ready=True)], {"exclude_nodes": ["gpu-1"]}, 1),
        ([held("gpu-1", GPT.digest, ready=True)], {"reach": Reach.NEAR}, 1),
    ],
    ids=["a holder", "still fetching", "of an older snapshot", "excluded", "the holders have no room"],
)
async def test_the_inventory_is_asked_anew_unless_a_holder_is_known(
    known: list[Holding], options: dict[str, Any], asked: int
) -> None:
    """The Pods that find no room with the holders must learn where the data is being fetched, or each fetches it."""
    seat = activities(SlowKube(), POD)
    inventory = Known(known)
    seat.inventory = inventory  # type: ignore[assignment]
    arg = CreateSeatInput(REF, "w", 1, "system", [GPT], **{"reach": Reach.HOLDERS, **options})
    await seat._near(arg)
    assert inventory.asked == asked


def changed(pod: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {**pod, "spec": {**pod["spec"], **spec}}


QUEUED = changed(POD, schedulingGates=[{"name": names.GATE}, {"name": "kueue.x-k8s.io/topology"}])
ADMITTED = changed(POD, schedulingGates=[{"name": names.GATE}], nodeSelector={"kubernetes.io/hostname": "gpu-7"})


class LaggingWatch(SlowKube):
    """The API server is ahead of the watch."""

    def __init__(self, pod: dict[str, Any]) -> None:
        super().__init__()
        self.pod = pod
        self.go_on.set()

    def get_pod(self, namespace: str, name: str, *, allow_stale: bool = False) -> dict[str, Any]:
        assert not allow_stale
        return self.pod


async def test_the_seat_obeys_what_a_queue_added_when_it_removed_its_gate() -> None:
    kube = LaggingWatch(ADMITTED)
    result = await run(activities(kube, QUEUED))
    assert [seat["spec"]["nodeSelector"] for seat in kube.created] == [{"kubernetes.io/hostname": "gpu-7"}]
    assert result.requirements == fingerprint(ADMITTED)


async def test_the_seat_obeys_what_the_workflow_knows_and_the_watch_does_not() -> None:
    kube = LaggingWatch(ADMITTED)
    arg = CreateSeatInput(REF, "warm/ml/one/uid-1", 1, "system", requirements=fingerprint(ADMITTED))
    await ActivityEnvironment().run(activities(kube, POD).create_seat, arg)
    assert [seat["spec"]["nodeSelector"] for seat in kube.created] == [{"kubernetes.io/hostname": "gpu-7"}]


async def test_a_seat_goes_to_nodes_with_an_agent_only_and_its_pod_is_fingerprinted_without_that() -> None:
    """What the operator asks for beside the Pod must not count as a change of the Pod, whose seat would be outdated."""
    kube = LaggingWatch(ADMITTED)
    seat = SeatActivities(
        kube,  # type: ignore[arg-type]
        None,
        Expectations(),
        lambda uid: ADMITTED,
        image="pause",
        node_selector={"cache": "yes"},
    )
    result = await run(seat)
    asked = [created["spec"]["nodeSelector"] for created in kube.created]
    assert asked == [{"cache": "yes", "kubernetes.io/hostname": "gpu-7"}]
    assert result.requirements == fingerprint(ADMITTED)


async def test_no_seat_is_created_while_others_hold_gates() -> None:
    kube = LaggingWatch(QUEUED)
    with pytest.raises(ApplicationError, match="kueue") as refusal:
        await run(activities(kube, QUEUED))
    assert refusal.value.type == "ForeignGates"
    assert kube.created == []


async def test_a_seat_that_stands_says_what_the_pod_required_when_it_was_made() -> None:
    """The first attempt created it and died; the Pod was tightened meanwhile."""

    class Kube(LaggingWatch):
        def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
            body["metadata"]["annotations"][names.SEAT_REQUIREMENTS_ANNOTATION] = fingerprint(POD)
            return body

    assert (await run(activities(Kube(ADMITTED), None))).requirements == fingerprint(POD)


HOLD_ALL = {
    GPT.uri: [held(node, GPT.digest, ready=True) for node in ("both", "gpt", "away", "fetching")],
    TOKENS.uri: [
        *(held(node, TOKENS.digest, ready=True) for node in ("both", "away", "tokens")),
        held("fetching", TOKENS.digest, ready=False),
    ],
}


@pytest.mark.parametrize(("reach", "holders"), [(Reach.HOLDERS, ["both"]), (Reach.NEAR, [])])
def test_only_nodes_that_hold_everything_are_holders(reach: Reach, holders: list[str]) -> None:
    arg = CreateSeatInput(REF, "w", 1, "system", [GPT, TOKENS], exclude_nodes=["away"], reach=reach)
    assert near(arg, HOLD_ALL).holders == holders


class KnowsHolders:
    def __init__(self, *nodes: str) -> None:
        self.nodes = nodes

    def known(self, uri: str) -> list[Holding]:
        return []

    async def of(self, uri: str) -> list[Holding]:
        return [held(node, GPT.digest, ready=True) for node in self.nodes]


def among(*nodes: str) -> Any:
    seat = SeatActivities(kube := LaggingWatch(POD), None, Expectations(), lambda uid: POD, image="pause")  # type: ignore[arg-type]
    seat.inventory = KnowsHolders(*nodes)  # type: ignore[assignment]
    return seat, kube


TO_HOLDERS = CreateSeatInput(REF, "warm/ml/one/uid-1", 1, "system", [GPT], exclude_nodes=["bad"], reach=Reach.HOLDERS)


async def test_a_seat_may_go_only_to_holders_and_takes_only_free_room_there() -> None:
    seat, kube = among("gpu-1", "bad")
    result = await ActivityEnvironment().run(seat.create_seat, TO_HOLDERS)
    (spec,) = [one["spec"] for one in kube.created]
    assert spec["affinity"]["nodeAffinity"] == {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["gpu-1"]}]},
            ]
        }
    }
    assert spec["preemptionPolicy"] == "Never"
    assert result.reach == Reach.HOLDERS


async def test_a_miss_pays_no_seat_more() -> None:
    seat, kube = among("bad")
    result = await ActivityEnvironment().run(seat.create_seat, TO_HOLDERS)
    (spec,) = [one["spec"] for one in kube.created]
    assert spec["preemptionPolicy"] == "PreemptLowerPriority"
    assert result.reach == Reach.NEAR


async def test_of_a_thousand_holders_a_seat_names_some() -> None:
    seat, kube = among(*(f"gpu-{number}" for number in range(1000)))
    terms = [{"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]} for zone in "abc"]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    seat._get_gated_pod = lambda uid: changed(POD, affinity={"nodeAffinity": required})
    await ActivityEnvironment().run(seat.create_seat, TO_HOLDERS)
    (spec,) = [one["spec"] for one in kube.created]
    made = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert len(made) == 63, "21 nodes in each of three terms"
    assert all(len(term["matchExpressions"]) == len(term["matchFields"]) == 1 for term in made)


async def test_a_seat_that_stands_says_how_far_it_may_go() -> None:
    """The first attempt created it and died, and the holder has evicted the data meanwhile."""
    first, kube = among("gpu-1")
    await ActivityEnvironment().run(first.create_seat, TO_HOLDERS)
    second, stands = among()
    stands.create = lambda path, body: kube.created[0]
    assert (await ActivityEnvironment().run(second.create_seat, TO_HOLDERS)).reach == Reach.HOLDERS


async def test_that_the_holders_have_no_room_ends_the_wait() -> None:
    seat, kube = among("gpu-1")
    words = "0/9 nodes are available: 1 Insufficient nvidia.com/gpu"

    def create(path: str, body: dict[str, Any]) -> dict[str, Any]:
        heard = SeatUnschedulable(body["metadata"]["name"], words)
        loop.call_soon_threadsafe(seat._expectations.notify, TO_HOLDERS.workflow_id, heard)
        return body

    kube.create = create
    loop = asyncio.get_running_loop()
    asked = ActivityEnvironment().run(seat.create_seat, replace(TO_HOLDERS, wait_s=600))
    result = await asyncio.wait_for(asked, 90)
    assert (result.node, result.unschedulable) == ("", words)


class NominatedKube(SlowKube):
    """Has the Pod nominated, and notes each patch."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on.set()
        self.patched: list[Any] = []

    def get_pod(self, namespace: str, name: str, *, allow_stale: bool = False) -> dict[str, Any]:
        return NOMINATED

    def delete(self, path: str, body: dict[str, Any]) -> None:
        self.created.append({"deleted": path})

    def patch(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.patched.append(body["status"]["nominatedNodeName"])
        return NOMINATED


NOMINATED = {
    "metadata": {**POD["metadata"], "resourceVersion": "7"},
    "spec": {"containers": [], "schedulingGates": [{"name": names.GATE}]},
    "status": {"nominatedNodeName": "gpu-1"},
}


@pytest.mark.parametrize(
    ("seen", "patched"),
    [
        pytest.param(NOMINATED, [None], id="nominated"),
        pytest.param(POD, [], id="not"),
        pytest.param(None, [], id="gone"),
    ],
)
async def test_a_seat_that_is_given_back_takes_the_nomination_of_a_given_up_release_along(
    seen: dict[str, Any] | None, patched: list[Any]
) -> None:
    """A release that failed for a while, and then a pause, a cancel or a lost node."""
    kube = NominatedKube()
    give_back = activities(kube, seen).delete_seat
    await ActivityEnvironment().run(give_back, DeleteSeatInput("seats", "seat-uid-1-1", REF))
    assert kube.patched == patched
    assert kube.created == [{"deleted": "/api/v1/namespaces/seats/pods/seat-uid-1-1"}]


async def test_a_node_that_is_gone_is_not_named_so_that_karpenter_adds_another() -> None:
    """Karpenter adds no node for a Pod with a requirement on names of nodes."""
    seat, kube = among()
    seat._get_nodes = lambda: [NodeFacts("bad")]
    first = await ActivityEnvironment().run(seat.create_seat, replace(TO_HOLDERS, exclude_nodes=["gone"]))
    second = await ActivityEnvironment().run(seat.create_seat, replace(TO_HOLDERS, exclude_nodes=["gone", "bad"]))
    assert (first.avoids, second.avoids) == ([], ["bad"])
    without, named = (one["spec"].get("affinity") for one in kube.created)
    assert without is None
    assert "gone" not in str(named)
    assert "bad" in str(named)


async def test_a_seat_that_stands_tells_how_old_its_node_is() -> None:
    seat, kube = among()
    seat._get_nodes = lambda: [NodeFacts("gpu-1"), NodeFacts("gpu-2", created_at=1000.0)]
    await ActivityEnvironment().run(seat.create_seat, TO_HOLDERS)
    stands = changed(kube.created[0], nodeName="gpu-2")
    kube.create = lambda path, body: stands
    assert (await ActivityEnvironment().run(seat.create_seat, TO_HOLDERS)).node_created_at == 1000
