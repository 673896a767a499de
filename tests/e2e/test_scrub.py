"""The background scrub finds a bit that flips under a running Pod; that object alone is fetched again."""

from __future__ import annotations

import pytest

from tests.e2e.disk import DiskNode, digest_of, flip
from tests.e2e.promises import MIB, holds, released
from tools.stack import Stack
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true

AGENT_ENV = {"KUBE_CACHE_STORE__SCRUB_EVERY_S": "0.5"}


@pytest.mark.parametrize("user", ["one that fetched it", "one that found it there"])
def test_a_flipped_bit_under_a_running_pod(stack: Stack, pods: Pods, bucket: Bucket, disk: DiskNode, user: str) -> None:
    content = bucket.fill("gpt", {"a": 2 * MIB, "d/b": MIB + 1, "c": 7})
    pods.create_gated("one", bucket.uri("gpt"), spec=disk.spec)
    released(stack, pods, "one", bucket.uri("gpt"), content)
    runs = "one"
    if user == "one that found it there":
        pods.create_gated("two", bucket.uri("gpt"), spec=disk.spec)
        released(stack, pods, "two", bucket.uri("gpt"), content)
        gone = str(pods.get("one")["metadata"]["uid"])
        pods.delete("one")
        disk.unpinned(gone)
        runs = "two"
    served = stack.s3_proxy.bytes_by_key(bucket.name)
    digest = digest_of(pods, runs)
    mended = disk.root / "snapshots" / digest / "data" / "d" / "b"
    bad = mended.stat().st_ino
    flip(mended)
    true(lambda: mended.stat().st_ino != bad, "the object was fetched again")
    true(lambda: not (disk.root / "snapshots" / digest / "damaged").exists(), "the snapshot is whole")
    holds(stack, disk.name, bucket.uri("gpt"), content)
    again = stack.s3_proxy.bytes_by_key(bucket.name)
    assert {key: again[key] - served[key] for key in again} == {"gpt/a": 0, "gpt/d/b": MIB + 1, "gpt/c": 0}
    assert any(path.stat().st_ino == bad for path in (disk.root / "quarantine").iterdir())
    assert (digest, f"pod/{pods.get(runs)['metadata']['uid']}") in disk.pins()
