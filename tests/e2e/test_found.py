"""A gated Pod without a workflow is always found, whatever ended the workflow, and says so."""

from __future__ import annotations

import os
import random
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from kube_cache import names
from kube_cache.settings import OperatorSettings
from tests.e2e.promises import (
    MIB,
    condition_says,
    event_reasons,
    released,
    seats,
    temporal,
    workflow_id,
    workflow_started,
)
from tools.stack import Stack
from tools.stack import pods as kubernetes
from tools.stack.api import Document
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.product import Part
from tools.stack.waiting import true

SEED = 20261126
ENDINGS = int(os.environ.get("KUBE_CACHE_TEST_ENDINGS", "9"))
"""Workflows that are ended at random moments; the issue's experiment was made with 50."""
A_MINUTE = 90
"""Seconds: the most that two sweeps of a shipped operator take, on a machine that is busy with other tests."""


def end(stack: Stack, pod: Document, how: str) -> None:
    """End a workflow as people do. One that is over, or has no task to reset to yet, is left as it is."""
    words = {
        "terminate": ("terminate", "--reason", "by mistake"),
        "cancel": ("cancel",),
        "reset": ("reset", "--type", "FirstWorkflowTask", "--reason", "to try again"),
    }[how]
    try:
        temporal(stack, "workflow", *words, "--workflow-id", workflow_id(pod))
    except subprocess.CalledProcessError as error:
        assert re.search("already completed|not found|reset", error.stderr), error.stderr


def test_terminated_cancelled_and_reset_workflows_release_their_pods_once_or_say_why_not(
    stack: Stack, pods: Pods, bucket: Bucket
) -> None:
    moments = random.Random(SEED)
    hows = [("terminate", "cancel", "reset")[number % 3] for number in range(ENDINGS)]
    content = {number: bucket.fill(f"set-{number}", [MIB + number], seed=number) for number in range(ENDINGS)}
    with stack.s3_proxy.limited(2 * MIB):
        for number, how in enumerate(hows):
            made = pods.create_gated(f"run-{number}", bucket.uri(f"set-{number}"), gpus=0)
            # Not a wait for a condition but the experiment itself.
            time.sleep(moments.uniform(0, 1.5))
            end(stack, made, how)
    for number, how in enumerate(hows):
        name = f"run-{number}"
        if how == "cancel":
            true(lambda name=name: _is_bound_or_cancelled(pods, name), f"{name} is bound, or says Cancelled", A_MINUTE)
            pods.annotate(name, action="retry")
        released(stack, pods, name, bucket.uri(f"set-{number}"), content[number], timeout_s=A_MINUTE)
    true(lambda: not seats(stack), "no seat is left", A_MINUTE)


def _is_bound_or_cancelled(pods: Pods, name: str) -> bool:
    pod = pods.get(name)
    return bool(kubernetes.node(pod)) or kubernetes.condition(pod).get("reason") == "Cancelled"


def test_a_terminated_workflow_is_started_again_within_a_minute_and_the_pod_says_so(
    stack: Stack, pods: Pods, bucket: Bucket
) -> None:
    content = bucket.fill("gpt", [MIB])
    made = pods.create_gated("one", bucket.uri("gpt"), gates=(names.GATE, "example.com/held"))
    true(lambda: workflow_started(stack, made), "it has a workflow")
    end(stack, made, "terminate")
    true(lambda: "WorkflowRestarted" in event_reasons(pods, "one"), "the Pod says so", A_MINUTE)
    assert 2 * OperatorSettings().sweep_interval_s <= 60, "found by the second sweep at the latest"
    (note,) = (event["note"] for event in pods.events("one") if event["reason"] == "WorkflowRestarted")
    assert "terminated by" in note
    assert "by mistake" in note
    assert 'kube_cache_workflows_restarted_total{cause="terminated"}' in exported(stack.operator)
    assert 'kube_cache_gated_pods{phase="Warming"}' in exported(stack.operator)
    pods.remove_gate("one", "example.com/held")
    released(stack, pods, "one", bucket.uri("gpt"), content)


def exported(operator: Part) -> str:
    port = re.search(r'"event": "serving health.*"port": (\d+)', operator.process.output())
    port = port or re.search(r'"port": (\d+)', operator.process.output())
    assert port is not None
    with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/metrics", timeout=60) as answer:
        return str(answer.read().decode())


def test_a_workflow_that_is_told_that_its_living_pod_is_gone_releases_it_all_the_same(
    stack: Stack, pods: Pods, bucket: Bucket
) -> None:
    content = bucket.fill("gpt", [MIB])
    made = pods.create_gated("one", bucket.uri("gpt"), gates=(names.GATE, "example.com/held"))
    true(lambda: workflow_started(stack, made), "it has a workflow")
    temporal(stack, "workflow", "signal", "--workflow-id", workflow_id(made), "--name", "pod_gone")
    pods.remove_gate("one", "example.com/held")
    released(stack, pods, "one", bucket.uri("gpt"), content, timeout_s=A_MINUTE)


def test_an_annotation_of_two_hundred_datasets_starts(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    many = ",".join(bucket.uri(f"{'long-' * 20}{number}") for number in range(200))
    pods.create_gated("one", many)
    condition_says(pods, "one", "AwaitingOperator", "DatasetNotFound")


def test_workflows_of_our_types_with_foreign_ids_do_not_stop_the_reconcile(
    stack: Stack, pods: Pods, bucket: Bucket
) -> None:
    bucket.fill("gpt", [MIB])
    for kind in (names.WARM_POD, names.DATASET_ON_NODE):
        temporal(
            stack, "workflow", "start", "--type", kind, "--workflow-id", f"foreign-{kind}", "--task-queue", "nobody"
        )
    try:
        before = _completed_reconciles(stack)
        temporal(stack, "schedule", "trigger", "--schedule-id", names.RECONCILE_SCHEDULE)
        true(lambda: _completed_reconciles(stack) > before, "a reconcile has completed")
    finally:
        for kind in (names.WARM_POD, names.DATASET_ON_NODE):
            temporal(stack, "workflow", "terminate", "--workflow-id", f"foreign-{kind}")


def test_an_annotation_that_is_taken_away_for_a_while_does_not_end_the_workflow(
    stack: Stack, pods: Pods, bucket: Bucket
) -> None:
    content = bucket.fill("gpt", [MIB])
    made = pods.create_gated("one", bucket.uri("gpt"), gates=(names.GATE, "example.com/held"))
    true(lambda: workflow_started(stack, made), "it has a workflow")
    _write_dataset(pods, "one", None)
    before = _completed_reconciles(stack)
    temporal(stack, "schedule", "trigger", "--schedule-id", names.RECONCILE_SCHEDULE)
    true(lambda: _completed_reconciles(stack) > before, "a reconcile has completed")
    _write_dataset(pods, "one", bucket.uri("gpt"))
    pods.remove_gate("one", "example.com/held")
    released(stack, pods, "one", bucket.uri("gpt"), content, timeout_s=A_MINUTE)


def _write_dataset(pods: Pods, name: str, dataset: str | None) -> None:
    pods.api.request(
        "PATCH",
        f"/api/v1/namespaces/{pods.namespace}/pods/{name}",
        {"metadata": {"annotations": {names.DATASET_ANNOTATION: dataset}}},
        content_type="application/merge-patch+json",
    )


def _completed_reconciles(stack: Stack) -> int:
    query = f"WorkflowType = '{names.RECONCILE}' AND ExecutionStatus = 'Completed'"
    return int(re.findall(r"\d+", temporal(stack, "workflow", "count", "--query", query))[0])


_KILLER = """
import os, kube_cache.kube.reflector as reflector
hand_on = reflector.Reflector._hand_on
def hand_on_or_die(self, kind, item):
    if self.name == "unreleased-pods" and item["metadata"]["name"] == "deadly":
        raise SystemExit  # what no `except Exception` catches: the thread ends without a word
    return hand_on(self, kind, item)
reflector.Reflector._hand_on = hand_on_or_die
"""


@pytest.fixture
def mortal(stack: Stack, tmp_path: Path) -> Iterator[Part]:
    """The operator, with a watch whose thread dies of a Pod that is called `deadly`."""
    (tmp_path / "sitecustomize.py").write_text(_KILLER)
    stack.operator.restart(kill=False, env={"PYTHONPATH": str(tmp_path)})
    yield stack.operator
    stack.operator.repair()


def test_a_watch_whose_thread_dies_ends_the_process_which_comes_back_and_releases_the_pod(
    stack: Stack, mortal: Part, pods: Pods, bucket: Bucket
) -> None:
    content = bucket.fill("gpt", [MIB])
    pods.create_gated("deadly", bucket.uri("gpt"))
    assert mortal.process.wait(120), "the process has ended"
    assert mortal.process.code == 1
    last = mortal.process.output().strip().splitlines()[-1]
    assert "the thread of the watch of unreleased-pods has ended" in last
    mortal.restart(env={"PYTHONPATH": ""})  # as the kubelet does
    released(stack, pods, "deadly", bucket.uri("gpt"), content)
