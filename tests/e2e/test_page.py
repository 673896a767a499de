"""A Pod's way on the operator's page: a bar that grows while it warms, and its steps once it runs."""

from __future__ import annotations

import re
import urllib.request
import uuid

import pytest

from kube_cache import names
from tests.e2e.promises import MIB, released
from tests.e2e.shell import Shell
from tools.stack import Stack
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.ports import free
from tools.stack.waiting import true


@pytest.fixture
def address(stack: Stack) -> str:
    """Of the page; the operator is put right again after the test."""
    port = free(1)[0]
    stack.operator.restart(env={"KUBE_CACHE_OPERATOR__PAGE_ADDRESS": f":{port}"})
    return f"http://127.0.0.1:{port}/"


def section(address: str, name: str) -> str:
    """Return a list of the page, as the first paint has it."""
    with urllib.request.urlopen(address, timeout=60) as answer:
        page = answer.read().decode()
    found = re.search(rf'id="{name}".*?</[uo]l>', page, re.DOTALL)
    return found[0] if found else ""


def row(address: str, name: str, pod: str) -> str:
    """Return a Pod's row without tags; empty if there is none."""
    rows = re.findall(r"<li .*?</li>", section(address, name), re.DOTALL)
    found = [each for each in rows if f"</span>{pod}</span>" in each]
    return " ".join(re.sub(r"<[^>]+>", " ", found[0]).split()) if found else ""


def percent(text: str) -> int:
    found = re.search(r"(\d+) %", text)
    return int(found[1]) if found else -1


def test_a_warm_is_on_the_page_with_a_bar_that_grows_and_then_in_the_waterfall(
    stack: Stack, pods: Pods, bucket: Bucket, address: str
) -> None:
    content, uri = bucket.fill("gpt", [24 * MIB]), bucket.uri("gpt")
    with stack.s3_proxy.limited(2 * MIB, at_most=23 * MIB):
        pods.create_gated("one", uri)
        true(lambda: percent(row(address, "warms", "one")) > 0, "the bar has begun")
        before = row(address, "warms", "one")
        assert "Warming" in before
        assert "of 24.0 MiB" in before
        assert uri in before
        true(lambda: percent(row(address, "warms", "one")) > percent(before), "the bar has grown")
    released(stack, pods, "one", uri, content)
    true(lambda: row(address, "releases", "one"), "the release is listed")
    after = row(address, "releases", "one")
    for part in ("miss", "seat", "fetch", "verify", "bind", pods.get("one")["spec"]["nodeName"]):
        assert part in after, after
    assert row(address, "warms", "one") == ""
    pods.create_gated("two", uri)  # a hit
    true(lambda: "hit" in row(address, "releases", "two"), "the hit is listed")
    digest = pods.get("two")["metadata"]["annotations"][names.SNAPSHOT_ANNOTATION]
    found = f"{address}?find={bucket.name}"  # a node names the first six of what it holds, and others are in use, too
    true(lambda: digest[:12] in section(found, "nodes"), "the node shows what the Pods pin")
    assert "pinned" in section(found, "nodes")
    # The agent measures its disk every 10 s, and tells the figures with its download.
    true(lambda: re.search(r"free \S+ .iB, reserved", section(found, "nodes")), "the disk's figures are there")


def test_a_prefetch_is_on_the_page_until_it_ends(stack: Stack, bucket: Bucket, address: str) -> None:
    bucket.fill("gpt", [MIB])
    shell, uri, name = Shell(stack), bucket.uri("gpt"), f"page-{uuid.uuid4().hex[:8]}"
    shell("prefetch", uri, "--name", name, "--nodes", stack.nodes[0], "--wait")
    true(lambda: "100 %" in row(address, "prefetches", name), "it is listed as complete")
    shown = row(address, "prefetches", name)
    for part in ("Ready", "1 of 1 nodes, kept until", uri):
        assert part in shown, shown
    shell("prefetch", "cancel", name)
    true(lambda: row(address, "prefetches", name) == "", "it has left the page", 120)
