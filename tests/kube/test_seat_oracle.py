"""The real scheduler agrees: where a seat could go its Pod could go, for generated nodes, peers and Pods.

A second kube-scheduler is asked for the set of feasible nodes of each generated Pod and of its seat, or for its words
of refusal. Every other batch of Pods is asked beside a Pod that is bound before, and their seats beside that one's
seat. `KUBE_CACHE_TEST_CASES` sets the number of Pods.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kube_cache.kube import seats
from kube_cache.kube.claims import Claims
from kube_cache.kube.client import KubeClient, pod_path
from kube_cache.kube.unreserved import unreserved
from tests.kube.oracle import generated, scheduler
from tests.kube.oracle.scheduler import Answer, Oracle
from tests.kube.oracle.world import create_node, world
from tools.stack import Stack
from tools.stack.api import ApiError, KubeApi
from tools.stack.control_plane import SEATS_NAMESPACE
from tools.stack.pods import Pods
from tools.stack.waiting import true as until

Json = dict[str, Any]

CASES = int(os.environ.get("KUBE_CACHE_TEST_CASES", "240"))
BATCH = 40
NODES = 5
KINDS = {
    "Insufficient cpu",
    "Insufficient memory",
    "Insufficient nvidia.com/gpu",
    "Insufficient hugepages-2Mi",
    "Insufficient ephemeral-storage",
    "Too many pods",
    "node(s) had untolerated taint(s)",
    "node(s) didn't match Pod's node affinity/selector",
    "node(s) didn't have free ports for the requested pod ports",
    "node(s) didn't match PersistentVolume's node affinity",
}


class Case(NamedTuple):
    pod: Json
    seat: Json
    unreserved: list[str]


class Batch:
    """Nodes and peers of their own, and Pods to ask about; alone or beside one that was bound before."""

    def __init__(self, stack: Stack, kube: KubeClient, pods: Pods, oracle: Oracle, pool: ThreadPoolExecutor) -> None:
        self._api: KubeApi = stack.api
        self._kube, self._pods, self._oracle, self._pool = kube, pods, oracle, pool
        self._claims = Claims(kube)

    def play(self, dice: random.Random, number: int, count: int) -> Iterator[tuple[Case, Answer, Answer]]:
        """Yield each case with the answer about the Pod and that about its seat."""
        nodes = [generated.node(dice, f"oracle-{number}-{index}") for index in range(NODES)]
        names = [node["metadata"]["name"] for node in nodes]
        peers = [
            generated.peer(dice, f"peer-{number}-{index}", dice.choice(names)) for index in range(dice.randint(2, 8))
        ]
        asked = [generated.pod(dice, f"p-{number}-{index}", names, scheduler.NAME) for index in range(count + 1)]
        place = dice.choice(names)
        list(self._pool.map(lambda node: create_node(self._api, node), nodes))
        list(self._pool.map(self._pods.create, peers))
        try:
            self._wait_until_seen(nodes, peers)
            admitted = [pod for pod in self._pool.map(self._admit, asked) if pod]
            cases = list(self._pool.map(self._case, admitted))
            first = cases.pop() if number % 2 else None
            yield from self._ask(cases, first, place)
        finally:
            self._delete(self._pods.namespace, [pod["metadata"]["name"] for pod in [*peers, *asked]])
            list(self._pool.map(lambda name: self._api.delete(f"/api/v1/nodes/{name}"), names))

    def _wait_until_seen(self, nodes: list[Json], peers: list[Json]) -> None:
        """Wait until the scheduler knows the nodes as they are: it hears of nodes and of Pods by different watches."""
        taken = Counter(peer["spec"]["nodeName"] for peer in peers)
        free = {
            node["metadata"]["name"]
            for node in nodes
            if taken[node["metadata"]["name"]] < int(node["status"]["capacity"]["pods"])
        }

        def seen() -> bool:
            probe = self._pods.create(generated.probe("probe", scheduler.NAME))
            (answer,) = self._oracle.ask([probe]).values()
            self._pods.delete("probe")
            return {name for name in answer.nodes if name.startswith("oracle-")} == free

        until(seen, "the scheduler knows the nodes")

    def _ask(self, cases: list[Case], first: Case | None, place: str) -> Iterator[tuple[Case, Answer, Answer]]:
        if first:
            self._pods.create(_bound(first.pod, place))
        list(self._pool.map(lambda case: self._pods.remove_gate(case.pod["metadata"]["name"], "x/y"), cases))
        of_pods = self._oracle.ask(case.pod for case in cases)
        self._delete(self._pods.namespace, [case.pod["metadata"]["name"] for case in cases])
        if first:
            self._pods.delete("first")
            seats.create(self._kube, _bound(first.seat, place))
        created = list(self._pool.map(lambda case: seats.create(self._kube, case.seat), cases))
        try:
            of_seats = self._oracle.ask(one.seat for one in created)
        finally:
            self._delete(SEATS_NAMESPACE, ["first", *(case.seat["metadata"]["name"] for case in cases)])
        for case, one in zip(cases, created, strict=True):
            assert one.differences == []
            assert one.lower_priority == ""
            yield case, of_pods[case.pod["metadata"]["uid"]], of_seats[one.seat["metadata"]["uid"]]

    def _admit(self, pod: Json) -> Json | None:
        try:
            return self._pods.create(pod)
        except ApiError as error:
            assert error.status == 422, error
            return None

    def _case(self, pod: Json) -> Case:
        demands = self._claims.demands(pod)
        seat = seats.build_seat(
            pod,
            name=f"seat-{pod['metadata']['uid']}",
            namespace=SEATS_NAMESPACE,
            workflow_id="w",
            prefer_nodes=[],
            exclude_nodes=[],
            image="pause",
            volumes=demands.terms,
        )
        return Case(pod, seat, [*unreserved(pod), *demands.unreserved])

    def _delete(self, namespace: str, names: Iterable[str]) -> None:
        list(self._pool.map(lambda name: self._api.delete(pod_path(namespace, name), grace_s=0), names))


def _bound(pod: Json, place: str) -> Json:
    """A copy that is bound to the node, whether there is room or not, and is not evicted for the node's taints."""
    spec = {key: value for key, value in pod["spec"].items() if key != "schedulingGates"}
    return {
        **pod,
        "metadata": {
            "labels": pod["metadata"]["labels"],
            "name": "first",
            "namespace": pod["metadata"]["namespace"],
        },
        "spec": {**spec, "nodeName": place, "tolerations": [{"operator": "Exists"}]},
    }


@pytest.fixture
def oracle(kube: Stack, tmp_path: Path) -> Iterator[Oracle]:
    made = Oracle(kube, tmp_path)
    yield made
    made.close()


@pytest.mark.timeout(60 + CASES)
def test_seat_and_pod_could_go_to_the_same_nodes(
    kube: Stack, kube_client: KubeClient, kube_pods: Pods, oracle: Oracle
) -> None:
    dice, met, kinds = random.Random(13), Counter[str](), Counter[str]()
    wrong: list[tuple[Case, Answer, Answer]] = []
    with ThreadPoolExecutor(8) as pool, world(kube.api, kube_pods.namespace):
        batch = Batch(kube, kube_client, kube_pods, oracle, pool)
        for number in range(-(-CASES // BATCH)):
            for case, of_pod, of_seat in batch.play(dice, number, BATCH):
                met["Pods"] += 1
                met["with a node" if of_pod.nodes else "refused"] += 1
                met["not pinned"] += bool(case.unreserved)
                kinds.update(of_pod.reasons)
                if of_pod.nodes != of_seat.nodes and not case.unreserved:
                    wrong.append((case, of_pod, of_seat))
    print(f"\n{dict(met)}\n{dict(kinds)}")
    assert not wrong, f"{len(wrong)} of {met['Pods']}, such as {wrong[0][1:]} of\n{wrong[0][0]}"
    assert met["with a node"] and met["refused"]
    assert kinds.keys() >= KINDS, KINDS - kinds.keys()
