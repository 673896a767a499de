"""Data is there before a time of day: schedules of prefetches, by a resource and by `kube-cache prefetch`."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid

import pytest

from kube_cache import names
from kube_cache.contracts.node import ExitCode
from tests.e2e.prefetch_resources import Resources, result
from tests.e2e.promises import MIB, holds, temporal, workflow_status
from tools.stack import Stack
from tools.stack.buckets import Bucket
from tools.stack.stack import CHECKOUT
from tools.stack.waiting import true, until

SELDOM = "0 0 1 1 *"
"""A time that comes in no test's life: tests have the schedule fire by Temporal's own command."""


def fire(stack: Stack, schedule: str) -> None:
    temporal(stack, "schedule", "trigger", "--schedule-id", schedule)


def has_schedule(stack: Stack, schedule: str) -> bool:
    try:
        temporal(stack, "schedule", "describe", "--schedule-id", schedule)
    except subprocess.CalledProcessError as error:
        assert "not found" in error.stderr
        return False
    return True


def test_a_schedule_fires_fills_nodes_and_goes_with_its_resource(
    stack: Stack, bucket: Bucket, resources: Resources
) -> None:
    content, uri = bucket.fill("gpt", [MIB]), bucket.uri("gpt")
    window = {"cron": SELDOM, "timeZone": "Europe/Berlin", "window": "10h"}
    resources.apply("one", datasets=[uri], nodes=[stack.nodes[0]], schedule=window)
    status = resources.wait("one", "Scheduled")["status"]
    assert status["nextStart"].endswith("-12-31T23:00:00Z"), "midnight in Berlin"
    assert status["message"] == f"the next one begins at {status['nextStart']}"
    assert stack.s3_proxy.bytes_served(bucket.name) == 0
    workflow = resources.workflow("one")
    fire(stack, workflow)
    status = resources.wait("one", "Ready", ready=1)["status"]
    assert status["nextStart"].endswith("-12-31T23:00:00Z")
    holds(stack, stack.nodes[0], uri, content)

    # What somebody terminates lives again, to the end of the same window.
    ends_at = status["expiresAt"]
    temporal(stack, "workflow", "terminate", "--workflow-id", workflow)
    true(lambda: "WorkflowRestarted" in resources.kubectl("get", "events"), "it is told")
    status = resources.wait("one", "Ready", ready=1)["status"]
    assert status["expiresAt"][:-4] == ends_at[:-4], "to ten seconds"

    resources.kubectl("delete", "prefetch", "one", "--timeout=30s")
    assert result(stack, workflow)["phase"] == "Cancelled"
    true(lambda: not has_schedule(stack, workflow), "the schedule is gone")


def test_a_window_ends_and_an_edit_changes_the_schedule(stack: Stack, bucket: Bucket, resources: Resources) -> None:
    bucket.fill("gpt", [MIB])
    spec = {"datasets": [bucket.uri("gpt")], "nodes": [stack.nodes[0]]}
    resources.apply("one", **spec, schedule={"cron": SELDOM, "window": "8s"})
    first = resources.wait("one", "Scheduled")["status"]["nextStart"]
    assert first.endswith("-01-01T00:00:00Z")
    workflow = resources.workflow("one")
    fire(stack, workflow)
    until(lambda: _runs(stack, workflow), bool, "it has begun")
    true(lambda: workflow_status(stack, workflow) == "COMPLETED", "its window is over")
    resources.wait("one", "Scheduled")
    resources.apply("one", **spec, schedule={"cron": "30 6 2 1 *", "window": "10h"})
    status = resources.wait("one", "Scheduled")["status"]
    assert status["nextStart"].endswith("-01-02T06:30:00Z")
    resources.apply("one", **spec, paused=True, schedule={"cron": "30 6 2 1 *", "window": "10h"})
    assert "nextStart" not in resources.wait("one", "Scheduled")["status"]
    resources.kubectl("patch", "prefetch", "one", "--type=json", "-p", '[{"op": "remove", "path": "/spec/schedule"}]')
    resources.kubectl("patch", "prefetch", "one", "--type=merge", "-p", '{"spec": {"paused": false}}')
    resources.wait("one", "Ready", ready=1)
    true(lambda: not has_schedule(stack, workflow), "the schedule is gone")


def _runs(stack: Stack, workflow: str) -> bool:
    try:
        workflow_status(stack, workflow)
    except subprocess.CalledProcessError as error:
        assert "not found" in error.stderr
        return False
    return True


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        pytest.param({"cron": "8 o'clock", "window": "10h"}, "write five fields", id="no cron expression"),
        pytest.param({"cron": SELDOM, "window": "long"}, "write it like 10h", id="no duration"),
        pytest.param({"cron": SELDOM, "window": "1h", "timeZone": "CET DST"}, "is no time zone", id="no time zone"),
    ],
)
def test_a_wrong_schedule_is_refused(resources: Resources, schedule: dict[str, str], words: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        resources.apply("one", datasets=["s3://models/gpt"], nodes=["a"], schedule=schedule)
    assert words in refused.value.stderr


def test_what_temporal_alone_can_refuse_is_told_on_the_resource(resources: Resources, stack: Stack) -> None:
    schedule = {"cron": SELDOM, "window": "1h", "timeZone": "Mars/Olympus"}
    resources.apply("one", datasets=["s3://models/gpt"], nodes=stack.nodes[:1], schedule=schedule)

    def refusal() -> str:
        conditions = resources.get("one").get("status", {}).get("conditions", [])
        return next((each["message"] for each in conditions if each["reason"] == "SpecRefused"), "")

    said = true(refusal, "it is told")
    assert "Mars/Olympus" in said
    assert said.endswith("look at cron and timeZone")


def test_a_schedule_that_no_operator_saw_go_is_found(stack: Stack, bucket: Bucket, resources: Resources) -> None:
    resources.apply("one", datasets=[bucket.uri("a")], nodes=stack.nodes[:1], schedule={"cron": SELDOM, "window": "1h"})
    resources.wait("one", "Scheduled")
    workflow = resources.workflow("one")
    assert has_schedule(stack, workflow)
    stack.operator.kill()
    resources.kubectl("delete", "prefetch", "one", "--timeout=30s")
    stack.operator.start()
    true(lambda: not has_schedule(stack, workflow), "the schedule is gone")


def test_a_schedule_by_the_command_line(stack: Stack, bucket: Bucket) -> None:
    content, uri = bucket.fill("gpt", [MIB]), bucket.uri("gpt")
    namespace = f"team-{uuid.uuid4().hex[:8]}"
    environment = {
        "PATH": "/usr/bin:/bin",
        "TEMPORAL_ADDRESS": stack.temporal_address,
        "TEMPORAL_NAMESPACE": stack.temporal_namespace,
    }

    def prefetch(*words: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "cli.main", "prefetch", *words]
        done = subprocess.run(
            command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    full, where = f"{namespace}/one", ("-n", namespace, "--name", "one", "--nodes", stack.nodes[1])
    assert "--window" in prefetch(uri, *where, "--schedule", SELDOM, code=ExitCode.USAGE)
    assert "five fields" in prefetch(uri, *where, "--schedule", "noon", "--window", "1h", code=ExitCode.USAGE)
    wrong = ("--schedule", SELDOM, "--window", "1h", "--time-zone", "Mars/Olympus")
    assert "Mars/Olympus" in prefetch(uri, *where, *wrong, code=ExitCode.USAGE)
    made = json.loads(prefetch(uri, *where, "--schedule", SELDOM, "--window", "1h", "--json"))
    assert made["workflow"] == names.prefetch_id(namespace, "one")
    assert made["next_at"] > 0
    assert "Scheduled" in prefetch("list", "-n", namespace)
    prefetch("pause", full)
    assert "it is paused" in prefetch("status", full)
    prefetch("resume", full)
    assert "the next one begins at" in prefetch("status", full)
    fire(stack, made["workflow"])
    until(
        lambda: json.loads(prefetch("status", full, "--json"))["phase"], lambda phase: phase == "Ready", "it is there"
    )
    holds(stack, stack.nodes[1], uri, content)
    prefetch("cancel", full)
    assert not has_schedule(stack, made["workflow"])
    assert result(stack, made["workflow"])["phase"] == "Cancelled"
