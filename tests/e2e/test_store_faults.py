"""A failing disk is named on the Pod, and the Pod goes on without a restart or a signal when the cause is gone.

EIO comes from no kernel on request: test_ill_node.py has a shim for it. Quotas are in tests/store/test_faults.py.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

import pytest

from tests.e2e.disk import DiskNode, says
from tests.e2e.promises import MIB, event_reasons, released, still_gated
from tools.stack import Stack
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true

FAULTS: dict[str, tuple[Callable[[DiskNode], AbstractContextManager[None]], str, str]] = {
    "ENOSPC": (DiskNode.filled, "ENOSPC", "make room"),
    "inodes": (DiskNode.without_inodes, "no inodes", "remove small files"),
    "EROFS": (DiskNode.read_only, "EROFS", "remount it read-write"),
    "EPERM": (lambda disk: disk.forbidden("incoming"), "EPERM", "write permission"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_disk_that_fails_is_named_and_waited_for(
    stack: Stack, pods: Pods, bucket: Bucket, disk: DiskNode, fault: str
) -> None:
    content = bucket.fill("gpt", [MIB, 5])
    agent = disk.agent.pid
    begin, words, remedy = FAULTS[fault]
    with begin(disk):
        pods.create_gated("one", bucket.uri("gpt"), spec=disk.spec)
        message = says(pods, "one", words)
        assert remedy in message
        still_gated(pods, "one")
    assert released(stack, pods, "one", bucket.uri("gpt"), content) == disk.name
    assert disk.agent.pid == agent


def test_a_disk_that_others_fill_during_a_download(stack: Stack, pods: Pods, bucket: Bucket, disk: DiskNode) -> None:
    """The download stops before the last block is taken, says so, and goes on with what it had."""
    content = bucket.fill("gpt", [MIB] * 20)
    with stack.s3_proxy.limited(8 * MIB, at_most=18 * MIB):
        pods.create_gated("one", bucket.uri("gpt"), spec=disk.spec)
        true(lambda: stack.s3_proxy.bytes_served(bucket.name) > 6 * MIB, "the download runs")
        with disk.filled(leave=4 * MIB):
            # The message depends on the part that meets the full disk first: index, reservation or download.
            says(pods, "one", "ENOSPC", "can be used", "takes the space")
            still_gated(pods, "one")
    assert released(stack, pods, "one", bucket.uri("gpt"), content) == disk.name
    assert stack.s3_proxy.bytes_served(bucket.name) < 2 * 20 * MIB


def test_a_pod_leaves_a_disk_that_fails_under_its_download(
    stack: Stack, pods: Pods, bucket: Bucket, disk: DiskNode
) -> None:
    content = bucket.fill("gpt", [MIB] * 8)
    with ExitStack() as broken:
        with stack.s3_proxy.limited(2 * MIB, at_most=7 * MIB):
            pods.create_gated("one", bucket.uri("gpt"), spec=disk.preferred)
            true(lambda: stack.s3_proxy.bytes_served(bucket.name) > 2 * MIB, "the download runs")
            broken.enter_context(disk.forbidden("incoming"))
        with stack.s3_proxy.limited(2 * MIB):
            assert released(stack, pods, "one", bucket.uri("gpt"), content) != disk.name
    assert "PersistentDiskFault" in event_reasons(pods, "one")
