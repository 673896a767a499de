"""You can see why, where people look: `kubectl describe pod`, and columns of `kubectl get pods`."""

from __future__ import annotations

import re
from pathlib import Path

from kube_cache import names
from tests.e2e.promises import MIB, condition_says, kubectl, released
from tools.stack import Stack
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import until

README = Path(__file__).parents[2] / "README.md"


def described_status(stack: Stack, pods: Pods, name: str) -> str:
    """Words of the status annotation as `kubectl describe pod` prints them, its lines joined."""
    text = kubectl(stack, "describe", "pod", "-n", pods.namespace, name)
    found = re.search(rf"{re.escape(names.STATUS_ANNOTATION)}:(.*?)\n(?:\S|\s+\S+/\S+:)", text, re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def columns(stack: Stack, pods: Pods) -> list[str]:
    """Output of the README's command."""
    line = next(line for line in README.read_text().splitlines() if "$ kubectl get pods" in line)
    argument = line.split("'")[1]
    return kubectl(stack, "get", "pods", "-n", pods.namespace, "-o", f"custom-columns={argument}").splitlines()


def test_describe_says_phase_percent_and_rate_of_a_download(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    content = bucket.fill("gpt", [24 * MIB])
    with stack.s3_proxy.limited(MIB, at_most=23 * MIB):
        pods.create_gated("one", bucket.uri("gpt"))
        words = until(
            lambda: described_status(stack, pods, "one"),
            lambda text: re.match(r"Warming: \d+ % of 24\.0 MiB on node gpu-\d; .*/s, done in ", text),
            "describe tells how far the download is",
        )
        assert columns(stack, pods)[1].split()[:2] == ["one", "Warming"]
    node = released(stack, pods, "one", bucket.uri("gpt"), content)
    pods.wait_reason("one", "Done")
    assert described_status(stack, pods, "one").startswith("Done: ")
    assert node in words


def test_describe_says_error_and_remedy(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    pods.create_gated("one", bucket.uri("nothing-here"))
    message = condition_says(pods, "one", "AwaitingOperator", "DatasetNotFound")
    words = until(
        lambda: described_status(stack, pods, "one"),
        lambda text: text.startswith("AwaitingOperator"),
        "describe tells the error",
    )
    assert words == f"AwaitingOperator: {' '.join(message.split())}"
    assert "..." not in words  # which is how describe cuts a line


def test_events_tell_of_the_start_and_the_quarters_of_a_download(stack: Stack, pods: Pods, bucket: Bucket) -> None:
    content = bucket.fill("gpt", [24 * MIB])
    with stack.s3_proxy.limited(2 * MIB):
        pods.create_gated("one", bucket.uri("gpt"))
        pods.wait_bound("one")
    released(stack, pods, "one", bucket.uri("gpt"), content)
    warming = [event["note"] for event in pods.events("one") if event["reason"] == "Warming"]
    assert warming[0].startswith("fetching 24.0 MiB to node")
    assert 1 <= len(warming[1:]) <= 3
    assert all(re.match(r"\d+ % of 24\.0 MiB", note) for note in warming[1:])
