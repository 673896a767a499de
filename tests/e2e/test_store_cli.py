"""`kube-cache store --node` from anywhere: the same tables and exit codes, and a clear message without an answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kube_cache import names
from kube_cache.contracts.node import ExitCode
from tests.e2e.disk import digest_of, store
from tests.e2e.promises import MIB, released, temporal
from tools.stack import Stack
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.stack import CHECKOUT
from tools.stack.waiting import true, until


class Far:
    """A shell with access to Temporal and nothing else."""

    def __init__(self, stack: Stack, node: str) -> None:
        self._env = {
            "PATH": os.environ["PATH"],
            "TEMPORAL_ADDRESS": stack.temporal_address,
            "TEMPORAL_NAMESPACE": stack.temporal_namespace,
        }
        self._node = node

    def __call__(self, *words: str, code: int = 0, **env: str) -> str:
        return store({**self._env, **env}, *words, "--node", self._node, code=code)

    @contextmanager
    def started(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        # As at a terminal: what a script starts in the background ignores Ctrl-C, and its children do.
        hears = ["env", "--default-signal=INT"]
        command = [*hears, sys.executable, "-m", "cli.main", "store", *words, "--node", self._node]
        with subprocess.Popen(command, env=self._env, cwd=CHECKOUT) as shell:
            try:
                yield shell
            finally:
                shell.kill()


@pytest.fixture
def node(stack: Stack) -> str:
    return stack.nodes[1]


@pytest.fixture
def far(stack: Stack, node: str) -> Far:
    return Far(stack, node)


def test_each_verb(stack: Stack, pods: Pods, bucket: Bucket, node: str, far: Far) -> None:
    content = bucket.fill("gpt", {"a": MIB, "b": 5})
    pods.create_gated("one", bucket.uri("gpt"), spec={"nodeSelector": {"kubernetes.io/hostname": node}})
    released(stack, pods, "one", bucket.uri("gpt"), content)
    digest, uid = digest_of(pods, "one"), pods.get("one")["metadata"]["uid"]
    short = digest[:16]
    near = stack.agents[node].environment
    assert digest[:12] in far("ls")
    assert json.loads(far("ls", "--json")) == json.loads(store(near, "ls", "--json"))
    assert "free on the disk" in far("du")
    row = next(one for one in json.loads(far("du", "--json"))["snapshots"] if one["digest"] == digest)
    assert (row["bytes"], row["pinned_by"]) == (MIB + 5, [f"pod/{uid}"])
    assert json.loads(far("verify", short, "--full", "--json"))[0]["complete"] is True
    assert "no snapshot begins with" in far("verify", "0" * 20, code=5)
    far("pin", short, "--owner", "user/ann", "--for", "1h")
    assert "user/ann" in far("ls")
    assert "is not a duration" in far("pin", short, "--for", "soon", code=2)
    far("unpin", short, "--owner", "user/ann")
    assert f"in use by {pods.namespace}/one" in far("evict", short, code=3)
    # A hit that the inventory knew may be counted by no entity: then the disk's own pins refuse.
    pods.create_gated("two", bucket.uri("gpt"), spec={"nodeSelector": {"kubernetes.io/hostname": node}})
    released(stack, pods, "two", bucket.uri("gpt"), content)
    pods.delete("one")
    pods.wait_gone("one")
    said = _until_not_counted(far, short, f"{pods.namespace}/one")
    assert "pinned by pod/" in said or f"in use by {pods.namespace}/two" in said
    pods.delete("two")
    assert json.loads(_until_evicted(far, short)) == [{"digest": digest, "size": MIB + 5}]
    assert digest[:12] not in far("ls")
    entity = names.dataset_on_node_id(node, _cache_id(stack, node), digest)
    assert "COMPLETED" in temporal(stack, "workflow", "describe", "--workflow-id", entity).upper()
    assert "no snapshot" in far("evict", short, code=5)


def test_damage_is_found_from_afar(stack: Stack, pods: Pods, bucket: Bucket, node: str, far: Far) -> None:
    content = bucket.fill("gpt", {"a": 1000, "b": 5})
    pods.create_gated("one", bucket.uri("gpt"), spec={"nodeSelector": {"kubernetes.io/hostname": node}})
    released(stack, pods, "one", bucket.uri("gpt"), content)
    digest = digest_of(pods, "one")
    path = stack.cache_root(node) / "snapshots" / digest / "data" / "a"
    whole = path.read_bytes()
    path.write_bytes(b"x" * 1000)
    assert "a was changed" in far("verify", digest, code=4)
    # The Pod runs on it, so it is repaired at once.
    true(lambda: path.exists() and path.read_bytes() == whole, "it is fetched again")
    # Without the Pod nothing is, so what is damaged stays so until the scrub comes.
    pods.delete("one")
    true(lambda: not _pinned_by(far, digest), "the Pod's pin is gone")
    path.write_bytes(b"x" * 1000)
    (bad,) = [one for one in json.loads(far("scrub", "--rate", "0", "--json", code=4))["bad"] if one["path"] == "a"]
    assert bad["digest"] == digest


def test_ctrl_c_stops_a_scrub_on_the_node(stack: Stack, pods: Pods, bucket: Bucket, node: str, far: Far) -> None:
    content = bucket.fill("gpt", [4 * MIB])
    pods.create_gated("one", bucket.uri("gpt"), spec={"nodeSelector": {"kubernetes.io/hostname": node}})
    released(stack, pods, "one", bucket.uri("gpt"), content)
    before = _scrubs(stack)
    with far.started("scrub", "--rate", "0.01") as shell:
        # What is listed may be a moment old, so one that an earlier test ended may still be said to run.
        begun = true(lambda: _scrubs(stack) - before, "it is under way")
        shell.send_signal(signal.SIGINT)
        assert shell.wait(120) == ExitCode.INTERRUPTED
    true(lambda: begun <= _scrubs(stack, "Canceled"), "it has stopped on the node")


def test_who_does_not_answer_is_named(stack: Stack, node: str, far: Far) -> None:
    stack.agents[node].kill()
    assert f"no living agent on node {node}" in far("ls", code=6)
    stack.operator.kill()
    assert "no operator answers" in far("ls", code=6)
    assert "Temporal does not answer" in far("ls", code=6, TEMPORAL_ADDRESS="127.0.0.1:9")


def _scrubs(stack: Stack, status: str = "Running") -> set[str]:
    """Their workflow ids."""
    query = f"WorkflowType = '{names.STORE_COMMAND}' AND ExecutionStatus = '{status}'"
    found = json.loads(temporal(stack, "workflow", "list", "--query", query, "--output", "json"))
    return {one["execution"]["workflowId"] for one in found if "/scrub/" in one["execution"]["workflowId"]}


def _pinned_by(far: Far, digest: str) -> list[str]:
    (found,) = [row["pinned_by"] for row in json.loads(far("ls", "--json")) if row["digest"] == digest]
    return list(found)


def _until_not_counted(far: Far, digest: str, pod: str) -> str:
    """The Pod's end takes a moment to arrive."""
    return until(lambda: far("evict", digest, code=3), lambda said: pod not in said, "the entity lets go")


def _until_evicted(far: Far, digest: str) -> str:
    def evicted() -> str:
        try:
            return far("evict", digest, "--json")
        except AssertionError as error:
            if "pinned by pod/" in str(error):
                return ""
            raise

    return str(true(evicted, "the last Pod's pin is gone"))


def _cache_id(stack: Stack, node: str) -> str:
    return (stack.cache_root(node) / "cache-id").read_text().strip()
