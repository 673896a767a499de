"""The real scheduler, which samples half of 300 nodes, takes a seat to its data where there is room, else elsewhere."""

from __future__ import annotations

import contextlib
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kube_cache import names
from kube_cache.errors import PriorityClassUnknown
from kube_cache.kube import pods, seats
from kube_cache.kube.client import KubeClient, pod_path
from tests.kube.fakes import URI
from tools.stack import Stack, nodes
from tools.stack.control_plane import SEATS_NAMESPACE
from tools.stack.pods import Pods, node
from tools.stack.priority_classes import PriorityClasses
from tools.stack.waiting import true, until

NODES, SEATS, GPUS = 300, 30, 16


@pytest.fixture(scope="module")
def many(kube: Stack) -> Iterator[list[str]]:
    """Names of nodes that carry the label `many`."""
    made = [f"many-{number}" for number in range(NODES)]

    def create(name: str) -> None:
        document = nodes.document(name, GPUS)
        document["metadata"]["labels"]["many"] = "true"
        kube.api.create(document)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(create, made))
        until(
            lambda: kube.api.get("/api/v1/nodes", labelSelector="many=true")["items"],
            lambda found: len(found) == NODES and all(map(nodes.is_ready, found)),
            "the nodes are ready",
            timeout_s=120,
            poll_s=1,
        )
        yield made
        list(pool.map(lambda name: kube.api.delete(f"/api/v1/nodes/{name}"), made))


class Seats:
    def __init__(self, kube: Stack, client: KubeClient) -> None:
        self._api, self._client = kube.api, client
        self.made: list[str] = []

    def create(self, pod: dict[str, Any], **options: Any) -> str:
        self.made.append(f"seat-{uuid.uuid4().hex[:8]}")
        wanted = seats.build_seat(
            pod,
            name=self.made[-1],
            namespace=SEATS_NAMESPACE,
            workflow_id="w",
            image="pause",
            **{"prefer_nodes": [], "exclude_nodes": [], **options},
        )

        def try_once() -> bool:
            with contextlib.suppress(PriorityClassUnknown):  # tried again, as the activity is
                seats.create(self._client, wanted)
                return True
            return False

        true(try_once, "the API server knows the seat's class")
        return self.made[-1]

    def wait(self, name: str) -> str:
        """Return the seat's node; "" once the scheduler has said that there is none."""
        path = pod_path(SEATS_NAMESPACE, name)
        seat = until(
            lambda: self._api.get(path),
            lambda found: node(found) or pods.seat_facts(found).unschedulable,
            "the scheduler decides",
        )
        return node(seat)

    def clear(self) -> None:
        for name in self.made:
            seats.delete(self._client, SEATS_NAMESPACE, name)


@pytest.fixture
def placed(kube: Stack, kube_client: KubeClient) -> Iterator[Seats]:
    found = Seats(kube, kube_client)
    yield found
    found.clear()


def whole(kube_pods: Pods, name: str, **spec: Any) -> dict[str, Any]:
    return kube_pods.create_gated(name, URI, gpus=GPUS, spec={"nodeSelector": {"many": "true"}, **spec})


def test_each_seat_lands_where_the_data_is_while_there_is_room(kube_pods: Pods, placed: Seats, many: list[str]) -> None:
    pod = kube_pods.create_gated("one", URI, gpus=1, spec={"nodeSelector": {"many": "true"}})
    warm = [many[17], many[203]]
    landed = Counter()
    for reach in ("only_nodes", "prefer_nodes"):
        for _ in range(SEATS):
            name = placed.create(pod, **{reach: warm})
            landed[reach] += placed.wait(name) in warm
        placed.clear()
    print(f"on a warm node: {landed['only_nodes']} required, {landed['prefer_nodes']} preferred, of {SEATS}")
    assert landed["only_nodes"] == SEATS


def test_a_warm_node_that_is_full_is_told_at_once_and_the_seat_goes_elsewhere(
    kube_pods: Pods, placed: Seats, many: list[str]
) -> None:
    kube_pods.create_gated("held", URI, gpus=GPUS, gates=[], spec={"nodeSelector": {"kubernetes.io/hostname": many[5]}})
    kube_pods.wait_bound("held")
    pod = whole(kube_pods, "one")
    assert placed.wait(placed.create(pod, only_nodes=[many[5]], may_preempt=False)) == ""
    assert placed.wait(placed.create(pod, prefer_nodes=[many[5]])) in set(many) - {many[5]}


def test_a_seat_preempts_nobody_to_be_near_its_data(
    kube: Stack, kube_pods: Pods, placed: Seats, many: list[str]
) -> None:
    classes = PriorityClasses(kube.api)
    try:
        important = classes.create(4321)
        on_warm = {"nodeSelector": {"kubernetes.io/hostname": many[5]}}
        kube_pods.create_gated("batch", URI, gpus=GPUS, gates=[], spec=on_warm)
        kube_pods.wait_bound("batch")
        pod = whole(kube_pods, "one", priorityClassName=important)
        assert placed.wait(placed.create(pod, only_nodes=[many[5]], may_preempt=False)) == ""
        assert placed.wait(placed.create(pod, prefer_nodes=[many[5]])) in set(many) - {many[5]}
        assert node(kube_pods.get("batch")) == many[5]
    finally:
        classes.close()
        kube.api.delete(f"/apis/scheduling.k8s.io/v1/priorityclasses/{names.SEAT_PRIORITY_CLASS}-4321")
