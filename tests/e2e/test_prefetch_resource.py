"""A Prefetch as an object of Kubernetes: `kubectl` alone fills nodes, sees how far that is, changes and ends it."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml

from kube_cache import names
from kube_cache.kube.client import resource_path
from tests.e2e.prefetch_resources import Resources, result
from tests.e2e.promises import MIB, holds, mounted, released, temporal, workflow_status
from tests.e2e.shell import Shell
from tools.stack import Stack, api, manifest
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.stack import CHECKOUT
from tools.stack.waiting import true, until

PAGE = CHECKOUT / "docs" / "operate" / "prefetch.md"
KIND = "prefetches.kube-cache.openai.com"


def is_there(stack: Stack, node: str, uri: str) -> bool:
    try:
        mounted(stack, node, uri)
    except FileNotFoundError:
        return False
    return True


def keepers(stack: Stack, node: str, uri: str) -> list[str]:
    """Return the prefetches that have marked a dataset on a node's disk."""
    holdings = Shell(stack).json("inventory", "--node", node)["holdings"]
    (held,) = [each for each in holdings if each["dataset"] == uri]
    return [str(owner) for owner in (held["prefetched"] or {"by": []})["by"]]


def documented() -> dict[str, Any]:
    """Return the resource that the page shows."""
    (block,) = re.findall(
        r"^```yaml\n(apiVersion.*?kind: Prefetch.*?name: llama-70b\n.*?)^```",
        PAGE.read_text(),
        re.DOTALL | re.MULTILINE,
    )
    document: dict[str, Any] = yaml.safe_load(block)
    return document


def test_the_documented_resource_fills_nodes_kubectl_shows_how_far_and_its_deletion_ends_it(
    stack: Stack, bucket: Bucket, pods: Pods, resources: Resources
) -> None:
    content, uri = bucket.fill("gpt", [3 * MIB, 5]), bucket.uri("gpt")
    first, second = stack.nodes[:2]
    document = documented()
    assert document["spec"]["copies"] == 2
    pool = bucket.name  # one that no other test has
    for node in (first, second):
        labels = {"metadata": {"labels": {"pool": pool}}}
        stack.api.request("PATCH", f"/api/v1/nodes/{node}", labels, content_type=api.MERGE)
    document["spec"] |= {"datasets": [uri], "nodeSelector": {"pool": pool}}
    resources.apply_document(document)
    resources.kubectl("wait", "prefetch/llama-70b", "--for=condition=Ready", "--timeout=120s")
    for node in (first, second):
        holds(stack, node, uri, content)
    head, row = resources.kubectl("get", "prefetch").splitlines()
    assert head.split() == ["NAME", "PHASE", "PERCENT", "READY", "NODES", "DATA", "AGE"]
    assert head.split() == _documented_columns()
    assert re.split(r" {2,}", row.strip())[:6] == ["llama-70b", "Ready", "100", "2", "2", "6.0 MiB of 6.0 MiB"]
    assert "2 of 2 nodes hold" in resources.kubectl("get", "prefetch", "-o", "wide")
    workflow = resources.workflow("llama-70b")
    assert all(workflow in keepers(stack, node, uri) for node in (first, second))
    resources.kubectl("delete", "prefetch", "llama-70b", "--timeout=30s")
    assert result(stack, workflow)["phase"] == "Cancelled"
    assert not any(workflow in keepers(stack, node, uri) for node in (first, second)), "the marks are gone"
    served = stack.s3_proxy.bytes_served(bucket.name)
    pods.create_gated("one", uri, spec={"nodeSelector": {"pool": pool}})
    released(stack, pods, "one", uri, content)
    assert stack.s3_proxy.bytes_served(bucket.name) == served, "what is there stays until somebody needs the room"
    for node in (first, second):
        labels = {"metadata": {"labels": {"pool": None}}}
        stack.api.request("PATCH", f"/api/v1/nodes/{node}", labels, content_type=api.MERGE)


def _documented_columns() -> list[str]:
    lines = PAGE.read_text().splitlines()
    return lines[lines.index("$ kubectl get prefetch") + 1].split()


def test_an_edit_reaches_the_workflow_that_runs(stack: Stack, bucket: Bucket, resources: Resources) -> None:
    bucket.fill("a", [MIB])
    content, more = bucket.fill("b", [2 * MIB]), bucket.uri("b")
    nodes = stack.nodes[:2]
    resources.apply("one", datasets=[bucket.uri("a")], nodes=nodes, copies=1)
    resources.wait("one", "Ready", ready=1, planned=1, matching=2)
    workflow = resources.workflow("one")
    resources.apply("one", datasets=[bucket.uri("a"), more], nodes=nodes)
    resources.wait("one", "Ready", ready=2, planned=2)
    for node in nodes:
        holds(stack, node, more, content)
    resources.kubectl("patch", "prefetch", "one", "--type=merge", "-p", '{"spec": {"paused": true}}')
    resources.wait("one", "Paused")
    resources.kubectl("patch", "prefetch", "one", "--type=merge", "-p", '{"spec": {"paused": false}}')
    resources.wait("one", "Ready", ready=2)
    assert resources.workflow("one") == workflow


def test_deleted_half_way_it_stops_fetching(stack: Stack, bucket: Bucket, resources: Resources) -> None:
    bucket.fill("gpt", [64 * MIB])
    with stack.s3_proxy.only(gets=4):  # of 8
        resources.apply("one", datasets=[bucket.uri("gpt")], nodes=[stack.nodes[0]])
        true(lambda: stack.s3_proxy.bytes_served(bucket.name) >= 16 * MIB, "the download runs")
        workflow = resources.workflow("one")
        resources.kubectl("delete", "prefetch", "one", "--timeout=30s")
        assert result(stack, workflow)["phase"] == "Cancelled"
    assert not is_there(stack, stack.nodes[0], bucket.uri("gpt"))


def test_two_of_the_same_content_fetch_once_and_end_each_for_itself(
    stack: Stack, bucket: Bucket, resources: Resources
) -> None:
    bucket.fill("gpt", [2 * MIB])
    for name in ("one", "two"):
        resources.apply(name, datasets=[bucket.uri("gpt")], nodes=[stack.nodes[0]])
    for name in ("one", "two"):
        resources.wait(name, "Ready", ready=1)
    assert stack.s3_proxy.bytes_served(bucket.name) == 2 * MIB
    first = resources.workflow("one")
    resources.kubectl("delete", "prefetch", "one", "--timeout=30s")
    assert result(stack, first)["phase"] == "Cancelled"
    assert workflow_status(stack, resources.workflow("two")) == "RUNNING"
    assert resources.wait("two", "Ready")["status"]["percent"] == 100


def test_a_terminated_workflow_is_started_again_and_a_cancelled_one_is_not(
    stack: Stack, bucket: Bucket, resources: Resources
) -> None:
    bucket.fill("gpt", [MIB])
    resources.apply("one", datasets=[bucket.uri("gpt")], nodes=[stack.nodes[0]])
    resources.wait("one", "Ready", ready=1)
    workflow = resources.workflow("one")
    temporal(stack, "workflow", "terminate", "--workflow-id", workflow, "--reason", "to see")
    true(lambda: "WorkflowRestarted" in resources.kubectl("get", "events"), "it is told")
    until(lambda: workflow_status(stack, workflow), lambda status: status == "RUNNING", "it runs again")
    resources.wait("one", "Ready", ready=1)
    temporal(stack, "workflow", "signal", "--workflow-id", workflow, "--name", "cancel")
    assert resources.wait("one", "Cancelled")["status"]["conditions"][0]["status"] == "False"
    stack.operator.restart(kill=True)
    resources.kubectl("patch", "prefetch", "one", "--type=merge", "-p", '{"spec": {"expires": "2h"}}')
    resources.wait("one", "Ready", ready=1)


def test_a_deletion_that_no_operator_saw_is_found(stack: Stack, bucket: Bucket, resources: Resources) -> None:
    bucket.fill("gpt", [MIB])
    resources.apply("one", datasets=[bucket.uri("gpt")], nodes=[stack.nodes[0]])
    resources.wait("one", "Ready", ready=1)
    workflow = resources.workflow("one")
    stack.operator.kill()
    resources.kubectl("delete", "prefetch", "one", "--timeout=30s")
    # Another of its name is another prefetch.
    resources.apply("one", datasets=[bucket.uri("gpt")], nodes=[stack.nodes[1]])
    stack.operator.start()
    assert result(stack, workflow)["phase"] == "Cancelled"
    resources.wait("one", "Ready", ready=1)
    assert resources.workflow("one") != workflow


def test_what_the_workflow_cannot_do_is_told(stack: Stack, bucket: Bucket, resources: Resources) -> None:
    resources.apply("absent", datasets=[bucket.uri("nothing")], nodes=[stack.nodes[0]])
    status = resources.wait("absent", "AwaitingOperator")["status"]
    assert status["message"].startswith("DatasetNotFound")
    bucket.fill("gpt", [MIB])
    resources.apply("small", datasets=[bucket.uri("gpt")], nodes=[stack.nodes[0]], maxBytes="1Ki")
    status = resources.wait("small", "Waiting")["status"]
    assert "BudgetExceeded" in status["message"]
    assert status["percent"] < 100


def test_kubectl_is_told_what_is_wrong_and_how_to_put_it_right(resources: Resources) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        resources.apply("one", datasets=["models/gpt"], nodes=["a"], nodeSelector={"pool": "gpu"})
    words = str(refused.value.stderr)
    assert "is no dataset; write it like s3://bucket/prefix" in words
    assert "say where: either nodes, by their names, or nodeSelector" in words


def test_without_the_kind_an_operator_works_and_says_so_once(
    stack: Stack, bucket: Bucket, pods: Pods, resources: Resources
) -> None:
    content, uri = bucket.fill("gpt", [MIB]), bucket.uri("gpt")
    definition = next(each for each in manifest.rules() if each["kind"] == "CustomResourceDefinition")
    path = f"{stack.api.collection(definition)}/{KIND}"
    stack.api.delete(path)
    true(lambda: stack.api.find(path) is None, "the kind is gone")
    before = stack.operator.log.read_text().count("the kind Prefetch cannot be listed")
    try:
        stack.operator.restart()
        pods.create_gated("one", uri)
        released(stack, pods, "one", uri, content)
        told = stack.operator.log.read_text().count("the kind Prefetch cannot be listed")
        assert told == before + 1
    finally:
        stack.api.apply(definition)
    stack.cluster.wait_served(resource_path(names.PREFETCHES))
    resources.apply("one", datasets=[uri], nodes=[stack.nodes[0]])
    resources.wait("one", "Ready", ready=1)
