"""Data is on nodes before a Pod asks for it, whatever becomes of the nodes, and no Pod waits for a prefetch."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from kube_cache import names
from kube_cache.contracts.node import ExitCode
from tests.e2e.disk import DiskNode
from tests.e2e.promises import MIB, holds, journaled, mounted, released, temporal, workflow_status
from tests.e2e.shell import Shell
from tools.stack import Stack, api
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.stack import CHECKOUT
from tools.stack.waiting import true, until

IN_FLIGHT = 8 * 8 * MIB
"""Bytes of the ranges that a stopped download may have to fetch again: eight connections, 8 MiB each."""


class Prefetches:
    """`kube-cache prefetch` at a shell with access to Temporal and nothing else."""

    def __init__(self, stack: Stack, tag: str) -> None:
        self._stack = stack
        self.tag = tag
        self._started: set[str] = set()

    def __call__(self, *words: str, code: int = 0) -> str:
        environment = {
            "PATH": "/usr/bin:/bin",
            "TEMPORAL_ADDRESS": self._stack.temporal_address,
            "TEMPORAL_NAMESPACE": self._stack.temporal_namespace,
        }
        command = [sys.executable, "-m", "cli.main", "prefetch", *words]
        done = subprocess.run(
            command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def start(self, *words: str, code: int = 0) -> dict[str, Any]:
        """Start a prefetch of the test's namespace; what it says as JSON."""
        answer: dict[str, Any] = json.loads(self(*words, "-n", self.tag, "--json", code=code))
        self._started.add(answer["name"])
        return answer

    def status(self, name: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self("status", f"{self.tag}/{name}", "--json"))
        return answer

    def wait(self, name: str, **fields: object) -> dict[str, Any]:
        """Wait until the status has these values."""
        return until(
            lambda: self.status(name),
            lambda status: all(status[key] == value for key, value in fields.items()),
            f"prefetch {name} is {fields}",
            180,
            poll_s=1,
        )

    def end(self, name: str) -> None:
        self("cancel", f"{self.tag}/{name}")
        true(lambda: workflow_status(self._stack, names.prefetch_id(self.tag, name)) != "RUNNING", "it has ended")

    def end_all(self) -> None:
        for name in self._started:
            if workflow_status(self._stack, names.prefetch_id(self.tag, name)) == "RUNNING":
                self.end(name)


@pytest.fixture
def prefetches(stack: Stack) -> Iterator[Prefetches]:
    made = Prefetches(stack, f"team-{uuid.uuid4().hex[:8]}")
    yield made
    made.end_all()


@pytest.fixture
def added(stack: Stack) -> Iterator[list[str]]:
    """Nodes that the test adds, and that go with it."""
    nodes: list[str] = []
    yield nodes
    for node in nodes:
        if node in stack.agents:
            stack.remove_node(node)


@pytest.fixture
def shell(stack: Stack) -> Shell:
    return Shell(stack)


def label(stack: Stack, node: str, **labels: str | None) -> None:
    stack.api.request("PATCH", f"/api/v1/nodes/{node}", {"metadata": {"labels": labels}}, content_type=api.MERGE)


def is_there(stack: Stack, node: str, uri: str) -> bool:
    try:
        mounted(stack, node, uri)
    except FileNotFoundError:
        return False
    return True


def test_by_selector_a_node_that_joins_later_gets_the_data_and_a_pod_hits_it(
    stack: Stack, pods: Pods, bucket: Bucket, prefetches: Prefetches, added: list[str], shell: Shell
) -> None:
    content, uri = bucket.fill("gpt", [3 * MIB, 5]), bucket.uri("gpt")
    pool = uuid.uuid4().hex[:8]
    first, second, other = stack.nodes[:3]
    for node in (first, second):
        label(stack, node, pool=pool)
    status = prefetches.start(uri, "--selector", f"pool={pool}", "--wait")
    assert (status["phase"], status["percent"], status["ready"], status["wanted"]) == ("Ready", 100, 2, 2)
    for node in (first, second):
        holds(stack, node, uri, content)
    assert not is_there(stack, other, uri)
    added.append(stack.add_node())
    label(stack, added[0], pool=pool)
    prefetches.wait(status["name"], phase="Ready", ready=3)
    holds(stack, added[0], uri, content)
    served = stack.s3_proxy.bytes_served(bucket.name)
    assert served == 3 * (3 * MIB + 5), "each node has fetched it once"
    pods.create_gated("one", uri, spec={"nodeSelector": {"pool": pool}})
    assert released(stack, pods, "one", uri, content) in {first, second, added[0]}
    assert stack.s3_proxy.bytes_served(bucket.name) == served, "the Pod is a hit"
    full = f"{prefetches.tag}/{status['name']}"
    (row,) = shell.json("inventory", "--dataset", uri)["datasets"]
    assert [(kept["name"], kept["nodes"], kept["until"]) for kept in row["prefetched"]] == [
        (full, 3, status["expires_at"])
    ]
    (held,) = [each for each in shell.json("inventory", "--node", first)["holdings"] if each["dataset"] == uri]
    assert held["prefetched"]["by"] == [names.prefetch_id(prefetches.tag, status["name"])]
    assert held["prefetched"]["until"] == status["expires_at"]
    table = shell("inventory", "--node", first)
    assert f"({full})" in " ".join(table.split())
    assert shell.json("status", "-n", prefetches.tag)["prefetches"] == {
        "total": 1, "by_phase": {"Ready": 1}, "stuck": []
    }  # fmt: skip
    for node in (first, second):
        label(stack, node, pool=None)


def test_by_copies_a_lost_node_is_replaced(
    stack: Stack, bucket: Bucket, prefetches: Prefetches, added: list[str]
) -> None:
    content, uri = bucket.fill("gpt", [MIB]), bucket.uri("gpt")
    added += [stack.add_node(), stack.add_node()]
    status = prefetches.start(uri, "--nodes", ",".join(added), "--copies", "1", "--wait")
    assert (status["ready"], status["matched"]) == (1, 2)
    (holder,) = [node for node in added if is_there(stack, node, uri)]
    (spare,) = set(added) - {holder}
    stack.remove_node(holder)
    prefetches.wait(status["name"], phase="Ready", matched=1, ready=1)
    holds(stack, spare, uri, content)


def test_a_wiped_disk_is_filled_again(stack: Stack, disk: DiskNode, bucket: Bucket, prefetches: Prefetches) -> None:
    content, uri = bucket.fill("gpt", [4 * MIB]), bucket.uri("gpt")
    name = prefetches.start(uri, "--nodes", disk.name, "--wait")["name"]
    holds(stack, disk.name, uri, content)
    disk.agent.kill()
    disk.wipe()
    disk.agent.start()
    true(lambda: is_there(stack, disk.name, uri), "the data is there again", 180)
    holds(stack, disk.name, uri, content)
    prefetches.wait(name, phase="Ready", ready=1)


def test_what_a_pod_has_used_makes_no_room_for_a_prefetch(
    stack: Stack, disk: DiskNode, pods: Pods, bucket: Bucket, prefetches: Prefetches
) -> None:
    """Of 38 MiB; the Pod has ended, and another Pod would get its room."""
    content, used = bucket.fill("used", [24 * MIB]), bucket.uri("used")
    bucket.fill("wanted", [20 * MIB])
    pods.create_gated("one", used, spec=disk.spec)
    released(stack, pods, "one", used, content)
    pods.delete("one")
    pods.wait_gone("one")
    words = (bucket.uri("wanted"), "--nodes", disk.name)
    status = prefetches.start(*words, "--wait", code=ExitCode.NO_ROOM)
    assert [failure["error"] for failure in status["failures"]] == ["InsufficientDisk"]
    holds(stack, disk.name, used, content)
    pods.create_gated("two", bucket.uri("wanted"), spec=disk.spec)
    pods.wait_bound("two")
    assert not is_there(stack, disk.name, used)


def test_the_same_twice_is_one_and_is_fetched_once(stack: Stack, bucket: Bucket, prefetches: Prefetches) -> None:
    bucket.fill("gpt", [2 * MIB])
    words = (bucket.uri("gpt"), "--nodes", stack.nodes[0], "--wait")
    assert prefetches.start(*words)["name"] == prefetches.start(*words)["name"]
    assert stack.s3_proxy.bytes_served(bucket.name) == 2 * MIB
    assert prefetches("list", "-n", prefetches.tag).count(prefetches.tag) == 1


def test_a_pod_for_the_same_data_joins_and_overtakes(
    stack: Stack, pods: Pods, bucket: Bucket, prefetches: Prefetches, shell: Shell
) -> None:
    size, node = 256 * MIB, stack.nodes[0]
    content, uri = bucket.fill("gpt", [size // 2, size // 2]), bucket.uri("gpt")
    with stack.s3_proxy.only(gets=20):  # of 32
        name = prefetches.start(uri, "--nodes", node)["name"]
        true(lambda: journaled(stack, node) >= size // 2, "half of it is journaled")
        pods.create_gated("one", uri, spec={"nodeSelector": {"kubernetes.io/hostname": node}})
        pods.wait_reason("one", "Warming")
        joined = f"prefetch {prefetches.tag}/{name} waits for the same download"
        shell.why(f"{pods.namespace}/one", lambda seen: joined in seen["waits_for"], "why says whose download it is")
    assert released(stack, pods, "one", uri, content) == node
    prefetches.wait(name, phase="Ready", ready=1)
    assert stack.s3_proxy.bytes_served(bucket.name) <= size + IN_FLIGHT < 1.5 * size


def test_a_pod_for_other_data_goes_first(stack: Stack, pods: Pods, bucket: Bucket, prefetches: Prefetches) -> None:
    node, size = stack.nodes[0], 192 * MIB
    bucket.fill("later", [size // 2, size // 2])
    content, uri = bucket.fill("now", [4 * MIB] * 8), bucket.uri("now")
    with stack.s3_proxy.limited(16 * MIB, at_most=96 * MIB):  # the prefetch cannot have come to its end
        name = prefetches.start(bucket.uri("later"), "--nodes", node)["name"]
        true(lambda: stack.s3_proxy.bytes_served(bucket.name, "later") >= 8 * MIB, "the prefetch runs")
        pods.create_gated("one", uri, spec={"nodeSelector": {"kubernetes.io/hostname": node}})
        assert released(stack, pods, "one", uri, content) == node
        keys = [exchange.key.partition("/")[0] for exchange in stack.s3_proxy.exchanges(bucket.name)]
        its = [place for place, key in enumerate(keys) if key == "now"]
        assert set(keys[its[0] : its[-1]]) == {"now"}, "from the Pod's first byte to its last no range of the prefetch"
        assert not is_there(stack, node, bucket.uri("later"))
    status = prefetches.wait(name, phase="Ready", ready=1)
    assert status["failures"] == []
    assert stack.s3_proxy.bytes_served(bucket.name, "later") <= size + IN_FLIGHT


def test_cancelled_half_way_it_stops_fetching_and_keeps_what_was_verified(
    stack: Stack, pods: Pods, bucket: Bucket, prefetches: Prefetches
) -> None:
    node, size = stack.nodes[1], 256 * MIB
    content, uri = bucket.fill("gpt", [size // 2, size // 2]), bucket.uri("gpt")
    with stack.s3_proxy.only(gets=20):
        name = prefetches.start(uri, "--nodes", node)["name"]
        true(lambda: journaled(stack, node) >= size // 2, "half of it is journaled")
        prefetches.end(name)
        query = f"WorkflowType = '{names.DATASET_ON_NODE}' AND KcDataset = '{uri}' AND ExecutionStatus = 'Running'"
        true(
            lambda: names.DATASET_ON_NODE not in temporal(stack, "workflow", "list", "--query", query),
            "nobody fetches it any more",
        )
    before, kept = stack.s3_proxy.bytes_served(bucket.name), journaled(stack, node)
    assert kept >= size // 2
    assert prefetches.status(name)["phase"] == "Cancelled"
    pods.create_gated("one", uri, spec={"nodeSelector": {"kubernetes.io/hostname": node}})
    released(stack, pods, "one", uri, content)
    assert stack.s3_proxy.bytes_served(bucket.name) - before <= size - kept + IN_FLIGHT


def test_an_operator_that_is_killed_forgets_nothing(stack: Stack, bucket: Bucket, prefetches: Prefetches) -> None:
    node = stack.nodes[2]
    content, uri = bucket.fill("gpt", [64 * MIB]), bucket.uri("gpt")
    with stack.s3_proxy.only(gets=4):  # of 8
        name = prefetches.start(uri, "--nodes", node)["name"]
        true(lambda: stack.s3_proxy.bytes_served(bucket.name) >= 16 * MIB, "the download runs")
        stack.operator.restart(kill=True)
    prefetches.wait(name, phase="Ready", ready=1)
    holds(stack, node, uri, content)
    assert stack.s3_proxy.bytes_served(bucket.name) == 64 * MIB


def test_pause_and_resume(stack: Stack, bucket: Bucket, prefetches: Prefetches) -> None:
    node = stack.nodes[0]
    content, uri = bucket.fill("gpt", [64 * MIB]), bucket.uri("gpt")
    with stack.s3_proxy.only(gets=4):
        name = prefetches.start(uri, "--nodes", node)["name"]
        true(lambda: stack.s3_proxy.bytes_served(bucket.name) >= 16 * MIB, "the download runs")
        prefetches("pause", f"{prefetches.tag}/{name}")
        prefetches.wait(name, phase="Paused", fetching=[])
    prefetches("resume", f"{prefetches.tag}/{name}")
    prefetches.wait(name, phase="Ready", ready=1)
    holds(stack, node, uri, content)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        pytest.param(["--expires", "soon"], ExitCode.USAGE, id="no duration"),
        pytest.param(["--max-bytes", "many"], ExitCode.USAGE, id="no size"),
        pytest.param(["--max-bytes", "1KiB", "--wait"], ExitCode.NO_ROOM, id="over the budget"),
    ],
)
def test_exit_codes(stack: Stack, bucket: Bucket, prefetches: Prefetches, words: list[str], code: int) -> None:
    bucket.fill("gpt", [MIB])
    prefetches(bucket.uri("gpt"), "-n", prefetches.tag, "--name", "one", "--nodes", stack.nodes[0], *words, code=code)
    if code != ExitCode.USAGE:
        prefetches.end("one")


def test_what_is_not_there_ends_the_wait_with_a_code_of_its_own(
    stack: Stack, bucket: Bucket, prefetches: Prefetches
) -> None:
    prefetches.start(bucket.uri("nothing"), "--nodes", stack.nodes[0], "--wait", code=ExitCode.ABSENT)
    prefetches("status", f"{prefetches.tag}/nobody", code=ExitCode.ABSENT)
    prefetches("cancel", f"{prefetches.tag}/nobody", code=ExitCode.ABSENT)
