"""The real kube-scheduler agrees about every node: for generated nodes, peers and Pods, asked for the Pod itself.

`KUBE_CACHE_TEST_CASES` sets the number of cases: a Pod among peers, and again pinned to a node as our release pins it.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kube_cache.kube.client import KubeClient
from kube_cache.kube.nodes import NodeFacts, node_facts
from kube_cache.kube.placement import constraints
from kube_cache.kube.placement.evaluation import Evaluation
from kube_cache.kube.placement.inter_pod import find_hostile
from kube_cache.kube.placement.listing import Listing
from kube_cache.kube.placement.node_rules import NodeRules
from kube_cache.kube.placement.selectors import parse_all
from tests.kube.oracle.scheduler import NAME, Answer, Oracle
from tests.kube.placement.generated import TEAMS, World, pinned
from tools.stack import Stack, waiting
from tools.stack.api import MERGE
from tools.stack.control_plane import SEATS_NAMESPACE

CASES = int(os.environ.get("KUBE_CACHE_TEST_CASES", "240"))
WORLDS = 6
PODS_AMONG_THE_SAME_PEERS = 10
# The scheduler hears of a peer and of the Pod in question by the same watch, but may handle them apart.
ATTEMPTS = 3
REFUSALS = {
    "spread": "didn't match pod topology spread constraints",
    "spread without the key": "didn't match pod topology spread constraints (missing required label)",
    "affinity": "didn't match pod affinity rules",
    "anti-affinity": "didn't match pod anti-affinity rules",
    "symmetric anti-affinity": "didn't satisfy existing pods anti-affinity rules",
}

Json = dict[str, Any]


@dataclass
class Verdict:
    pod: Json
    """As it was stored."""
    allowed: dict[str, NodeFacts]
    judged: Evaluation


class Comparison:
    def __init__(self, stack: Stack, client: KubeClient, oracle: Oracle, nodes: list[NodeFacts]) -> None:
        self._api = stack.api
        self._client = client
        self._oracle = oracle
        self._listing = Listing(client, lambda: nodes)
        self._nodes = self._listing.nodes()
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self, world: World, cases: int) -> None:
        for done in range(0, cases, PODS_AMONG_THE_SAME_PEERS):
            self._populate(world)
            pods = [world.pod(f"pod-{index}") for index in range(min(PODS_AMONG_THE_SAME_PEERS, cases - done))]
            for attempt in range(ATTEMPTS):
                differences = self._compare(world, pods, is_last=attempt + 1 == ATTEMPTS)
                pods = [pod for pod in pods if pod["metadata"]["name"] in differences]
                if not pods:
                    break
            self._clear(world)

    def _compare(self, world: World, pods: Sequence[Json], *, is_last: bool) -> set[str]:
        """Return the names of the Pods about which we and the scheduler differ."""
        others = [other for namespace in world.namespaces for other in self._others(namespace)]
        verdicts = [self._ours(world, pod, others) for pod in self._create(pods)]
        answers = self._ask(verdicts)
        differences = {}
        for verdict in verdicts:
            answer = answers[verdict.pod["metadata"]["name"]]
            self._count(answer, verdict)
            if set(answer.nodes) != verdict.allowed.keys():
                said = f"allows {sorted(answer.nodes)} {answer.refusal}"
                differences[verdict.pod["metadata"]["name"]] = f"{said}, we allow {sorted(verdict.allowed)}"
        differences |= self._compare_pinned(world, pods, verdicts)
        if is_last:
            self.wrong += [f"the scheduler {words}\n{json.dumps(pods)}" for words in differences.values()]
        return set(differences)

    def _compare_pinned(self, world: World, pods: Sequence[Json], verdicts: Sequence[Verdict]) -> dict[str, str]:
        """Say where we are wrong about a Pod that our release has tied to a node which we allow."""
        chosen = {
            verdict.pod["metadata"]["name"]: (verdict, world.random.choice(sorted(verdict.allowed)))
            for verdict in verdicts
            if verdict.allowed
        }
        asked = [pod for pod in pods if pod["metadata"]["name"] in chosen]
        created = self._create([pinned(pod, chosen[pod["metadata"]["name"]][1]) for pod in asked])
        answers = self._ask([Verdict(pod, {}, chosen[pod["metadata"]["name"]][0].judged) for pod in created])
        differences = {}
        for name, (verdict, node) in chosen.items():
            refuses = verdict.judged.refuses_pinned(verdict.allowed[node])
            self.seen["refused only because it is pinned"] += refuses
            if set(answers[name].nodes) != (set() if refuses else {node}):
                said = f"{sorted(answers[name].nodes)} {answers[name].refusal}"
                differences[name] = f"says {said} of {node}, we say that it refuses: {refuses}"
        return differences

    def _create(self, pods: Sequence[Json]) -> list[Json]:
        return [self._api.create({**pod, "spec": {**pod["spec"], "schedulerName": NAME}}) for pod in pods]

    def _ask(self, verdicts: Sequence[Verdict]) -> dict[str, Answer]:
        """By name; deletes the Pods."""
        answers = self._oracle.ask([verdict.pod for verdict in verdicts])
        for verdict in verdicts:
            meta = verdict.pod["metadata"]
            self._api.delete(f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}", grace_s=0)
        return {verdict.pod["metadata"]["name"]: answers[verdict.pod["metadata"]["uid"]] for verdict in verdicts}

    def _ours(self, world: World, pod: Json, others: Sequence[Json]) -> Verdict:
        nodes, wanted = self._nodes, constraints.read(pod, self._listing.namespaces)
        peers = self._listing.peers(
            wanted.peer_selectors(), SEATS_NAMESPACE, pod["metadata"]["uid"], allow_stale=False
        ).pods
        labels = self._listing.namespace_labels(pod["metadata"]["namespace"])
        judged = Evaluation(pod, wanted, nodes, peers, find_hostile(pod, others, nodes, labels))
        rules = NodeRules(pod)
        names = [node["metadata"]["name"] for node in world.nodes]
        admitted = {name: nodes[name] for name in names if rules.admits(nodes[name]) and rules.tolerates(nodes[name])}
        self._check_requirements(Evaluation(pod, wanted, nodes, peers), admitted)
        return Verdict(pod, {name: node for name, node in admitted.items() if not judged.violation(node)}, judged)

    def _check_requirements(self, judged: Evaluation, nodes: dict[str, NodeFacts]) -> None:
        """What is demanded of a seat's node is what is not refused."""
        expressions = judged.requirements([])
        for node in nodes.values():
            fulfilled = expressions is not None and all(one.matches(node.labels) for one in parse_all(expressions))
            if fulfilled != (not judged.violation(node)):
                self.wrong.append(f"{expressions} differ from {judged.violation(node)!r} of {node}")

    def _others(self, namespace: str) -> list[Json]:
        return self._client.list_items(
            "pods", namespace=namespace, field_selector="status.phase!=Succeeded,status.phase!=Failed"
        )

    def _count(self, answer: Answer, verdict: Verdict) -> None:
        self.seen["cases"] += 1
        self.seen["nodes allowed"] += len(answer.nodes)
        self.seen["Pods allowed nowhere"] += not answer.nodes
        for kind, words in REFUSALS.items():
            self.seen[kind] += words in answer.refusal
        attracted = (verdict.pod["spec"].get("affinity") or {}).get("podAffinity")
        self.seen["first of its group"] += bool(answer.nodes and attracted and verdict.judged.nobody_attracts)

    def _populate(self, world: World) -> None:
        for peer in world.peers():
            fate = peer["metadata"]["annotations"]["fate"]
            if fate == "terminates":
                peer["metadata"]["finalizers"] = ["oracle.example/hold"]
            created = self._api.create(peer)
            path = f"/api/v1/namespaces/{created['metadata']['namespace']}/pods/{created['metadata']['name']}"
            if fate == "terminates":
                self._api.delete(path, grace_s=0)
            if fate == "ends":
                self._api.request("PATCH", f"{path}/status", {"status": {"phase": "Failed"}}, content_type=MERGE)

    def _clear(self, world: World) -> None:
        for namespace in world.namespaces:
            path = f"/api/v1/namespaces/{namespace}/pods"
            for pod in self._client.list_items("pods", namespace=namespace):
                if pod["metadata"].get("finalizers"):
                    name, body = pod["metadata"]["name"], {"metadata": {"finalizers": None}}
                    self._api.request("PATCH", f"{path}/{name}", body, content_type=MERGE)
            self._api.request("DELETE", path, gracePeriodSeconds=0)


@pytest.fixture
def worlds(kube: Stack) -> Iterator[list[World]]:
    made = [World(number, seed=1000 + number) for number in range(WORLDS)]
    for world in made:
        for namespace, team in zip(world.namespaces, TEAMS, strict=True):
            kube.api.apply(
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": {"team": team}}}
            )
            kube.cluster.wait_namespace(namespace)
        for node in world.nodes:
            kube.api.create(node)
    names = {node["metadata"]["name"] for world in made for node in world.nodes}
    waiting.true(lambda: all(_is_ready(node) for node in _nodes(kube, names)), "the nodes are ready")
    yield made
    for name in names:
        kube.api.delete(f"/api/v1/nodes/{name}")
    for world in made:
        for namespace in world.namespaces:
            kube.api.delete(f"/api/v1/namespaces/{namespace}")


def _nodes(kube: Stack, names: set[str]) -> list[Json]:
    return [node for node in kube.api.get("/api/v1/nodes")["items"] if node["metadata"]["name"] in names]


def _is_ready(node: Json) -> bool:
    conditions = {one["type"]: one["status"] for one in node["status"].get("conditions", [])}
    taints = {taint["key"] for taint in node["spec"].get("taints", [])}
    return conditions.get("Ready") == "True" and not any(key.startswith("node.kubernetes.io/") for key in taints)


@pytest.fixture
def oracle(kube: Stack, tmp_path: Path) -> Iterator[Oracle]:
    made = Oracle(kube, tmp_path)
    yield made
    made.close()


@pytest.mark.timeout(3600)
def test_the_scheduler_allows_the_very_nodes_that_we_allow(
    kube: Stack, kube_client: KubeClient, worlds: list[World], oracle: Oracle
) -> None:
    nodes = [node_facts(node) for node in kube.api.get("/api/v1/nodes")["items"]]
    comparison = Comparison(kube, kube_client, oracle, nodes)
    with ThreadPoolExecutor(WORLDS) as threads:
        for running in [threads.submit(comparison.run, world, CASES // WORLDS) for world in worlds]:
            running.result()
    print(dict(comparison.seen))
    assert not comparison.wrong, "\n\n".join(comparison.wrong[:3])
    for kind in (*REFUSALS, "first of its group", "refused only because it is pinned"):
        assert comparison.seen[kind], f"no case of {kind} among {CASES}"
