"""An upgrade from the build of the day before, back, and forward again: on the same disk, Temporal and cluster.

The order is that of docs/operate/upgrade.md. The older build is a commit of this repository, run from its own tree with
the dependencies of this one.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kube_cache import names
from tests.e2e.disk import store
from tests.e2e.promises import MIB, condition_says, holds, link_of, released, released_once, still_gated, temporal
from tools.stack import Stack
from tools.stack import pods as kubernetes
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.product import Part
from tools.stack.stack import CHECKOUT
from tools.stack.waiting import true

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

YESTERDAY = "e9a9ce0"
"""The last commit of generation 1: of one queue a node, without attempts, Pod links or a schema number."""
OTHER_GATE = "example.com/other"
PART, COUNT, SPEED = 2 * MIB, 32, 4 * MIB
IN_FLIGHT = 8 * PART
"""What an interruption may cost: 8 connections, each in the middle of an object."""
LOGS = CHECKOUT / "build" / "test-logs" / "upgrade"
ENV = {"KUBE_CACHE_OPERATOR__RECONCILE_INTERVAL_S": "10"}


@pytest.fixture(scope="module")
def yesterday(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of the older build, with its native modules."""
    tree = tmp_path_factory.mktemp("yesterday")
    try:
        archive = subprocess.run(
            ["git", "archive", "--format=tar", YESTERDAY], cwd=CHECKOUT, check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.fail(
            f"cannot read commit {YESTERDAY}, from which this test upgrades: {getattr(error, 'stderr', error)!r};"
            " it needs a clone with the whole history (git fetch --unshallow; in CI a fetch depth of 0)"
        )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(tree, filter="data")
    subprocess.run([sys.executable, "tools/build_native.py"], cwd=tree, check=True)
    return tree


@pytest.fixture
def ground() -> Iterator[Stack]:
    """The servers and one node, without the product."""
    with Stack(with_product=False, node_count=1, count_s3=True) as stack:
        yield stack
        shutil.rmtree(LOGS, ignore_errors=True)
        shutil.copytree(stack.logs, LOGS)


class Build:
    """Operator and agent of one tree."""

    def __init__(self, ground: Stack, name: str, tree: Path) -> None:
        (self._node,) = ground.nodes
        ground.cache_root(self._node).mkdir(exist_ok=True)
        self._agent_env = ground.agent_environment(self._node)
        operator_env = known_to(tree, {**ground.operator_environment(), **ENV})
        self.operator = Part(ground.processes, f"operator-{name}", "operator", operator_env, tree)
        self.agent = Part(ground.processes, f"agent-{name}", "agent", known_to(tree, self._agent_env), tree)

    def store(self, *words: str) -> Any:
        return json.loads(store(self._agent_env, *words, "--json"))


def known_to(tree: Path, env: dict[str, str]) -> dict[str, str]:
    """Leave out the settings that this build does not explain to operators: it would refuse to start."""
    known = {
        name for page in tree.glob("docs/operate/*.md") for name in re.findall(r"KUBE_CACHE_\w+", page.read_text())
    }
    kept = {name: value for name, value in env.items() if name in known or not name.startswith("KUBE_CACHE_")}
    return {**kept, "PYTHONPATH": str(tree)}


class Story:
    """What Pods there are, and what was uploaded for them."""

    def __init__(self, ground: Stack, pods: Pods, bucket: Bucket) -> None:
        self.ground, self.pods, self.bucket = ground, pods, bucket
        (self.node,) = ground.nodes
        self.content = {"one": bucket.fill("one", [MIB, 5]), "two": bucket.fill("two", [2 * MIB], seed=2)}
        self.has_links = False
        """Whether the agent makes links for Pods. Yesterday's does not."""

    def released(self, pod: str, dataset: str, timeout_s: float = 120) -> None:
        uri, content = self.bucket.uri(dataset), self.content[dataset]
        if self.has_links:
            assert released(self.ground, self.pods, pod, uri, content, timeout_s) == self.node
        else:
            assert released_once(self.ground, self.pods, pod, timeout_s) == self.node
            holds(self.ground, self.node, uri, content)

    def has_link(self, pod: str) -> bool:
        return link_of(self.ground, self.node, self.pods.get(pod)).exists()

    def hit(self, pod: str, dataset: str) -> None:
        """A Pod that wants what is on the disk is released, and nothing is fetched."""
        before = self.ground.s3_proxy.bytes_served(self.bucket.name, dataset)
        self.pods.create_gated(pod, self.bucket.uri(dataset), gpus=0)
        self.released(pod, dataset)
        # The list is served from the same prefix; a megabyte of data is not.
        assert self.ground.s3_proxy.bytes_served(self.bucket.name, dataset) - before < MIB // 2

    def wait_in_each_state(self, tag: str) -> None:
        """A Pod that waits for another gate, one whose dataset does not exist, and one in the middle of its warm."""
        self.pods.create_gated(f"{tag}-alone", self.bucket.uri("one"), gpus=0, gates=(names.GATE, OTHER_GATE))
        self.pods.create_gated(f"{tag}-error", self.bucket.uri(f"{tag}-missing"), gpus=0)
        self.content[f"{tag}-big"] = self.bucket.fill(f"{tag}-big", [PART] * COUNT, seed=len(tag))
        self.pods.create_gated(f"{tag}-warm", self.bucket.uri(f"{tag}-big"), gpus=0)
        self.pods.wait_reason(f"{tag}-alone", "WaitingForGates")
        condition_says(self.pods, f"{tag}-error", "AwaitingOperator", "DatasetNotFound")
        true(lambda: self._served(f"{tag}-big") > PART * COUNT // 4, "the download is under way")

    def end_of_waiting(self, tag: str) -> None:
        """What was waiting before goes on: each is released once, or still says why it is not."""
        self.released(f"{tag}-warm", f"{tag}-big")
        # At most two interruptions: of the workflow that asked, and of the agent.
        assert self._served(f"{tag}-big") < PART * COUNT + 2 * IN_FLIGHT
        still_gated(self.pods, f"{tag}-alone")
        self.pods.remove_gate(f"{tag}-alone", OTHER_GATE)
        self.released(f"{tag}-alone", "one")
        condition_says(self.pods, f"{tag}-error", "AwaitingOperator", "DatasetNotFound")
        still_gated(self.pods, f"{tag}-error")
        self.content[f"{tag}-missing"] = self.bucket.fill(f"{tag}-missing", [MIB], seed=7)
        self.pods.annotate(f"{tag}-error", action="retry")
        self.released(f"{tag}-error", f"{tag}-missing")

    def _served(self, dataset: str) -> int:
        return self.ground.s3_proxy.bytes_served(self.bucket.name, dataset)

    def entities(self) -> dict[str, Any]:
        """Answers of the open entities to the query `status`, by workflow id."""
        query = "WorkflowType='DatasetOnNode' AND ExecutionStatus='Running'"
        found = json.loads(temporal(self.ground, "workflow", "list", "--query", query, "--output", "json"))
        answers = {}
        for each in found:
            workflow_id = each["execution"]["workflowId"]
            words = ("workflow", "query", "--workflow-id", workflow_id, "--type", "status", "--output", "json")
            (answers[workflow_id],) = json.loads(temporal(self.ground, *words))["queryResult"]
        return answers

    def terminate_what_the_older_build_cannot_replay(self) -> None:
        page = (CHECKOUT / "docs" / "operate" / "upgrade.md").read_text()
        (query,) = re.findall(r'--query "(.*)"', page)
        temporal(self.ground, "workflow", "terminate", "--yes", "--reason", "rollback", "--query", query)

        def none_left() -> bool:
            answer = temporal(self.ground, "workflow", "count", "--query", query, "--output", "json")
            return int(json.loads(answer).get("count", 0)) == 0

        true(none_left, "the batch is through")


def test_an_upgrade_a_rollback_and_another_upgrade_release_each_pod_once(ground: Stack, yesterday: Path) -> None:
    namespace = "upgrade"
    ground.cluster.create_namespace(namespace)
    story = Story(ground, Pods(ground.api, namespace), Bucket(ground.s3, "upgrade"))
    old, new = Build(ground, "old", yesterday), Build(ground, "new", CHECKOUT)

    old.operator.start()
    old.agent.start()
    for pod, dataset in (("bound-1", "one"), ("bound-2", "two")):
        story.pods.create_gated(pod, story.bucket.uri(dataset), gpus=0)
        story.released(pod, dataset)
    with ground.s3_proxy.limited(SPEED, at_most=PART * (COUNT - 2)):
        story.wait_in_each_state("old")
        # Forward: the agents first, then the operators.
        old.agent.stop()
        new.agent.start()
        story.has_links = True
    story.hit("between", "one")
    old.operator.stop()
    new.operator.start()
    story.end_of_waiting("old")
    true(lambda: story.has_link("bound-2"), "the reconcile has made the link of a Pod of yesterday")
    story.hit("after", "two")
    assert_whole(story, new)
    story.pods.delete("bound-1")

    with ground.s3_proxy.limited(SPEED, at_most=PART * (COUNT - 2)):
        story.wait_in_each_state("new")
        # Back: the operators first, without what the older build cannot replay, then the agents.
        new.operator.stop()
        story.terminate_what_the_older_build_cannot_replay()
        old.operator.start()
        new.agent.stop()
        old.agent.start()
        story.has_links = False
    story.end_of_waiting("new")
    story.hit("back", "two")

    # And forward once more.
    old.agent.stop()
    new.agent.start()
    story.has_links = True
    old.operator.stop()
    new.operator.start()
    story.hit("again", "two")
    assert_whole(story, new)
    story.pods.delete("again")


def assert_whole(story: Story, build: Build) -> None:
    """The disk's snapshots are seen and whole, and their entities answer."""
    rows = {row["uri"]: row for row in build.store("ls")}
    for dataset, content in story.content.items():
        holds(story.ground, story.node, story.bucket.uri(dataset), content)
        assert rows[story.bucket.uri(dataset)]["pinned_by"], f"{dataset} is in use, but not pinned"
    answers = story.entities()
    assert len(answers) >= len(story.content)
    assert {answer["phase"] for answer in answers.values()} == {"Ready"}


def test_the_pods_of_yesterday_are_let_go_by_the_build_of_today(ground: Stack, yesterday: Path) -> None:
    """A pin that the older build made is removed when its Pod ends."""
    ground.cluster.create_namespace("pins")
    pods, bucket = Pods(ground.api, "pins"), Bucket(ground.s3, "pins")
    bucket.fill("one", [MIB])
    old, new = Build(ground, "old", yesterday), Build(ground, "new", CHECKOUT)
    old.operator.start()
    old.agent.start()
    pods.create_gated("one", bucket.uri("one"), gpus=0)
    released_once(ground, pods, "one")
    old.agent.stop()
    new.agent.start()
    old.operator.stop()
    new.operator.start()
    assert kubernetes.node(pods.get("one")) == ground.nodes[0]
    pods.delete("one")
    true(lambda: not new.store("ls")[0]["pinned_by"], "the pin of the ended Pod is gone")
