"""`kube-cache why`, `status`, the requests and the rest as people type them, with kubeconfig and Temporal's address."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from kube_cache import names
from kube_cache.contracts.node import ExitCode
from tests.e2e.disk import DiskNode
from tests.e2e.promises import MIB, released, workflow_ended
from tests.e2e.shell import Shell
from tools.stack import Stack
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.stack import CHECKOUT
from tools.stack.waiting import true, until

GATE = "kueue.x-k8s.io/admission"
PACED = MIB // 4


@pytest.fixture
def shell(stack: Stack) -> Shell:
    return Shell(stack)


@pytest.fixture
def slow(stack: Stack) -> Iterator[None]:
    with stack.s3_proxy.limited(PACED):
        yield


def test_a_throttled_download_is_the_networks_fault_in_why_and_has_its_numbers_in_status(
    stack: Stack, pods: Pods, bucket: Bucket, shell: Shell, slow: None
) -> None:
    bucket.fill("gpt", {f"part-{number}": MIB // 16 for number in range(640)})
    pods.create_gated("one", bucket.uri("gpt"))
    name = f"{pods.namespace}/one"
    pods.wait_reason("one", "Warming")
    answer = shell.why(name, lambda seen: seen["bottleneck"] == "network" and "%" in seen["because"], "it is measured")
    assert answer["stage"] == "warming"
    assert bucket.uri("gpt") in answer["waits_for"]
    assert answer["since"] is not None
    rows = until(
        lambda: shell.json("status", "-n", pods.namespace)["warms"],
        lambda rows: rows and rows[0]["bytes_per_s"],
        "status has the rate",
    )
    (row,) = rows
    assert (row["pod"], row["phase"], row["total_bytes"]) == ("one", "Warming", 40 * MIB)
    assert 0 < row["done_bytes"] <= row["total_bytes"]
    assert row["node"] in stack.nodes
    assert row["eta_s"] > 0
    table = shell("status", "-n", pods.namespace)
    assert f"{pods.namespace}/one" in table
    assert "Warming" in table
    with stack.s3_proxy.held():  # or the download may end before either source was asked alone
        away = {"TEMPORAL_ADDRESS": "127.0.0.1:9"}
        alone = shell.json("why", name, **away)
        assert (alone["stage"], alone["phase"]) == ("warming", "Warming")
        assert "Temporal tells nothing" in alone["text"]
        assert shell.json("status", "-n", pods.namespace, code=6, **away)["warms"][0]["phase"] == "Warming"
        away = {"KUBECONFIG": "/nonexistent"}
        alone = shell.json("why", name, **away)
        assert (alone["stage"], alone["bottleneck"]) == ("warming", "network")
        assert "API server tells nothing" in alone["text"]
        assert shell.json("status", "-n", pods.namespace, code=6, **away)["warms"][0]["pod"] == "one"


def test_a_pod_is_paused_resumed_cancelled_and_retried_and_why_says_so(
    stack: Stack, pods: Pods, bucket: Bucket, shell: Shell
) -> None:
    content = bucket.fill("gpt", [16 * MIB])
    name = f"{pods.namespace}/one"
    with stack.s3_proxy.limited(MIB, at_most=15 * MIB):
        pods.create_gated("one", bucket.uri("gpt"))
        pods.wait_reason("one", "Warming")
        assert shell.json("priority", name, "-5")["value"] == "-5"
        for verb, phase in (("pause", "Paused"), ("resume", "Warming"), ("cancel", "Cancelled")):
            shell(verb, name)
            pods.wait_reason("one", phase)
            if phase != "Warming":
                answer = shell.why(name, lambda seen: seen["stage"] == "stopped", "why says that it is stopped")
                assert (answer["phase"], answer["bottleneck"]) == (phase, "person")
                assert f"kube-cache {'resume' if phase == 'Paused' else 'retry'} {name}" in answer["remedy"]
    shell("retry", name)
    released(stack, pods, "one", bucket.uri("gpt"), content)
    assert "not held by our gate" in shell("retry", name, code=ExitCode.REFUSED)
    assert shell.json("why", f"{pods.namespace}/two", code=ExitCode.ABSENT)["stage"] == "absent"


def test_why_names_a_foreign_gate_a_missing_seat_and_in_the_end_the_release(
    stack: Stack, pods: Pods, bucket: Bucket, shell: Shell
) -> None:
    content = bucket.fill("gpt", [MIB])
    name = f"{pods.namespace}/one"
    pod = pods.create_gated("one", bucket.uri("gpt"), gates=[names.GATE, GATE])
    answer = shell.why(name, lambda seen: seen["bottleneck"] == "foreign gate", "why names the gate")
    assert GATE in answer["text"]
    pods.remove_gate("one", GATE)
    released(stack, pods, "one", bucket.uri("gpt"), content)
    answer = shell.why(name, lambda seen: seen["stage"] == "bound", "why says that it is bound")
    assert answer["bottleneck"] == "none"
    assert answer["waits_for"][:40] in shell.by_kubectl("why", name)
    pods.create_gated("two", bucket.uri("gpt"), gpus=1000)
    answer = shell.why(f"{pods.namespace}/two", lambda seen: seen["phase"] == "WaitingForCapacity", "it has no seat")
    assert answer["bottleneck"] == "seat"
    assert "nvidia.com/gpu" in answer["waits_for"]
    holdings = until(
        lambda: shell.json("inventory", "--dataset", bucket.uri("gpt"))["datasets"], len, "the inventory has it"
    )
    assert (holdings[0]["ready"], holdings[0]["bytes"]) == (1, MIB)
    (node,) = holdings[0]["nodes"]
    held = {each["dataset"]: each for each in shell.json("inventory", "--node", node)["holdings"]}
    assert held[bucket.uri("gpt")]["phase"] == "Ready"
    pods.delete("two")
    workflow_ended(stack, pod)
    saved = until(lambda: shell.json("savings", "--over", "1h"), lambda seen: seen["releases"], "a result is counted")
    assert saved["dollars"] == pytest.approx(saved["gpu_seconds_not_held"] / 3600 * saved["dollars_per_gpu_hour"])
    assert "would have held its GPUs" in shell("savings")


def test_why_names_a_disk_that_is_full(pods: Pods, bucket: Bucket, shell: Shell, disk: DiskNode) -> None:
    bucket.fill("gpt", [60 * MIB])
    pods.create_gated("one", bucket.uri("gpt"), spec=disk.spec)
    name = f"{pods.namespace}/one"
    answer = shell.why(name, lambda seen: seen["phase"] == "WaitingForDisk", "why says that it waits for the disk")
    assert answer["bottleneck"] == "disk"
    assert disk.name in answer["waits_for"]
    assert f"kube-cache retry {name}" in answer["remedy"]


def test_status_is_live_until_ctrl_c(pods: Pods, bucket: Bucket, shell: Shell) -> None:
    bucket.fill("gpt", [5])
    pods.create_gated("one", bucket.uri("gpt"), gates=[names.GATE, GATE])
    pods.wait_reason("one", "WaitingForGates")
    command = ["env", "--default-signal=INT", sys.executable, "-m", "cli.main", "status", "--watch", "--json"]
    with subprocess.Popen(command, env=shell.env, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        looks = [json.loads(watching.stdout.readline()) for _ in range(2)]
        watching.send_signal(2)
        assert watching.wait(120) == ExitCode.INTERRUPTED
    assert all(any(row["pod"] == "one" for row in look["warms"]) for look in looks)
    true(lambda: "WaitingForGates" in looks[-1]["by_phase"], "phases are counted")
