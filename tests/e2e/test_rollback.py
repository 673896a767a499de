"""What a Pod mounts is what its receipt names, for as long as it lives: a source is rolled back under three Pods."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kube_cache import names
from tests.e2e.disk import DiskNode, digest_of, reconcile, waits_for_disk
from tests.e2e.promises import MIB, released
from tools.stack import Stack
from tools.stack import pods as kubernetes
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true


def link(disk: DiskNode, pods: Pods, name: str) -> Path:
    """What the kubelet mounts: sub-path `pods/$(POD_UID)/0` of the volume `snapshots`."""
    return disk.root / "snapshots" / "pods" / str(pods.get(name)["metadata"]["uid"]) / "0"


def reads_its_receipt(disk: DiskNode, pods: Pods, name: str, content: Mapping[str, bytes]) -> None:
    mounted = link(disk, pods, name)
    assert mounted.resolve(strict=True).parent.name == digest_of(pods, name)
    found = {str(path.relative_to(mounted)): path.read_bytes() for path in mounted.rglob("*") if path.is_file()}
    assert found == content


def test_rollback_of_a_source_under_three_pods(stack: Stack, pods: Pods, bucket: Bucket, disk: DiskNode) -> None:
    """D1, D2, and D1 again: each Pod keeps what it was released on, whatever comes and goes beside it."""
    uri = bucket.uri("gpt")
    good = bucket.fill("gpt", [9 * MIB], seed=1)
    held: dict[str, dict[str, bytes]] = {}
    for name, seed in (("first", 1), ("second", 2), ("third", 1)):
        content = bucket.fill("gpt", [9 * MIB], seed=seed)
        pods.create_gated(name, uri, spec=disk.spec)
        released(stack, pods, name, uri, content)  # `@current` too: it names what was resolved last
        held[name] = dict(content)
        for other, expected in held.items():
            reads_its_receipt(disk, pods, other, expected)
    assert held["third"] == good != held["second"]
    assert digest_of(pods, "first") == digest_of(pods, "third") != digest_of(pods, "second")
    assert stack.s3_proxy.bytes_served(bucket.name) == 18 * MIB, "the rollback was a hit"

    # Others come: what fits is published, what does not is refused, and says who holds the room.
    small = bucket.fill("small", [MIB])
    pods.create_gated("small", bucket.uri("small"), spec=disk.spec)
    released(stack, pods, "small", bucket.uri("small"), small)
    bucket.fill("big", [25 * MIB])
    pods.create_gated("big", bucket.uri("big"), spec=disk.spec)
    assert "pinned by pod/" in waits_for_disk(pods, "big")

    # The agent restarts, with and without the memory of its index.
    for forget in (False, True):
        disk.agent.kill()
        for path in disk.root.glob("index.sqlite*") if forget else ():
            path.unlink()
        disk.agent.start()
        reconcile(stack)
        for name, expected in held.items():
            reads_its_receipt(disk, pods, name, expected)

    # A link that somebody removed is made again. What nobody holds any more goes.
    link(disk, pods, "third").unlink()
    reconcile(stack)
    true(link(disk, pods, "third").exists, "the link is there again")
    reads_its_receipt(disk, pods, "third", good)
    second = str(pods.get("second")["metadata"]["uid"])
    pods.delete("second")
    disk.unpinned(second)
    kubernetes.node(pods.wait_bound("big"))
    for name in ("first", "third"):
        reads_its_receipt(disk, pods, name, good)
    assert names.SNAPSHOT_ANNOTATION in pods.get("big")["metadata"]["annotations"]
