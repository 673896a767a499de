"""What a bound Pod mounts stays until it has ended, and no longer: whoever was away or rebooted meanwhile."""

from __future__ import annotations

from kube_cache import names
from tests.e2e.disk import DiskNode, digest_of, reconcile, waits_for_disk
from tests.e2e.promises import MIB, holds, released, temporal
from tools.stack import Stack
from tools.stack.buckets import Bucket
from tools.stack.pods import Pods
from tools.stack.waiting import true

_ACTIVE = "WorkflowType = 'DatasetOnNode' AND ExecutionStatus = 'Running' AND KcNode = '{}'"


def uid(pods: Pods, name: str) -> str:
    return str(pods.get(name)["metadata"]["uid"])


def holds_pin(disk: DiskNode, pods: Pods, name: str) -> bool:
    return (digest_of(pods, name), f"pod/{uid(pods, name)}") in disk.pins()


def test_pods_that_end_while_nobody_watches_give_their_pins_back(
    stack: Stack, pods: Pods, bucket: Bucket, disk: DiskNode
) -> None:
    """One that had it fetched, and one whose hit no entity counts."""
    content = bucket.fill("gpt", [MIB])
    for name in ("fetched", "hit"):
        pods.create_gated(name, bucket.uri("gpt"), spec=disk.spec)
        released(stack, pods, name, bucket.uri("gpt"), content)
        assert holds_pin(disk, pods, name)
    gone = [uid(pods, "fetched"), uid(pods, "hit")]
    pods.create_gated("stays", bucket.uri("gpt"), spec=disk.spec)
    released(stack, pods, "stays", bucket.uri("gpt"), content)
    stack.operator.kill()
    pods.delete("fetched")
    pods.finish("hit")
    disk.age_pins()
    stack.operator.start()
    for each in gone:
        disk.unpinned(each)
    assert holds_pin(disk, pods, "stays")
    assert disk.store("evict", digest_of(pods, "stays"), code=3)


def test_an_end_that_reached_no_entity_is_found_by_the_reconcile(
    stack: Stack, pods: Pods, bucket: Bucket, disk: DiskNode
) -> None:
    """The signal goes to an entity that an admin has terminated: it is lost."""
    content = bucket.fill("gpt", [MIB])
    other = bucket.fill("other", [MIB])
    for name, prefix, data in (("one", "gpt", content), ("other", "other", other)):
        pods.create_gated(name, bucket.uri(prefix), spec=disk.spec)
        released(stack, pods, name, bucket.uri(prefix), data)
    entity = names.dataset_on_node_id(disk.name, disk.cache_id, digest_of(pods, "one"))
    temporal(stack, "workflow", "terminate", "--workflow-id", entity, "--reason", "test")
    gone = uid(pods, "one")
    pods.delete("one")
    pods.wait_gone("one")
    disk.age_pins()
    assert any(owner == f"pod/{gone}" for _, owner in disk.pins())
    reconcile(stack)
    disk.unpinned(gone)
    assert holds_pin(disk, pods, "other")


def test_a_rebooted_node_that_lost_its_index_has_its_pins_again_and_evicts_nothing_in_use(
    stack: Stack, pods: Pods, bucket: Bucket, disk: DiskNode
) -> None:
    content = bucket.fill("gpt", [20 * MIB])
    pods.create_gated("one", bucket.uri("gpt"), spec=disk.spec)
    released(stack, pods, "one", bucket.uri("gpt"), content)
    disk.agent.kill()
    for path in disk.root.glob("index.sqlite*"):
        path.unlink()
    disk.agent.start()
    true(lambda: holds_pin(disk, pods, "one"), "the pin is there again")
    bucket.fill("more", [20 * MIB])
    pods.create_gated("two", bucket.uri("more"), spec=disk.spec)
    assert f"pod/{uid(pods, 'one')}" in waits_for_disk(pods, "two")
    holds(stack, disk.name, bucket.uri("gpt"), content)
    # The Pod ends, and by itself the other one goes on.
    more = bucket.fill("more", [20 * MIB])
    pods.finish("one")
    released(stack, pods, "two", bucket.uri("more"), more)


def test_a_rebooted_node_with_an_empty_disk_gets_back_what_its_pods_run_on(
    stack: Stack, pods: Pods, bucket: Bucket, disk: DiskNode
) -> None:
    content = bucket.fill("gpt", [3 * MIB, 5])
    size = sum(map(len, content.values()))
    pods.create_gated("one", bucket.uri("gpt"), spec=disk.spec)
    released(stack, pods, "one", bucket.uri("gpt"), content)
    before = disk.cache_id
    disk.agent.kill()
    disk.wipe()
    disk.agent.start()
    assert disk.cache_id != before
    where = disk.root / "snapshots" / digest_of(pods, "one") / "manifest"
    true(where.exists, "it is back")
    true(lambda: holds_pin(disk, pods, "one"), "and pinned")
    holds(stack, disk.name, bucket.uri("gpt"), content)
    assert stack.s3_proxy.bytes_served(bucket.name) == 2 * size, "once a residence"
    old = f"dataset/{disk.name}/{before}/"
    true(lambda: old not in _running(stack, disk), "the old disk's entity has ended")
    # Its receipt names the old disk, so the watcher's word of its end goes astray; the reconcile does not need it.
    gone = uid(pods, "one")
    pods.delete("one")
    pods.wait_gone("one")
    reconcile(stack)
    disk.unpinned(gone)


def _running(stack: Stack, disk: DiskNode) -> str:
    return temporal(stack, "workflow", "list", "--query", _ACTIVE.format(disk.name), "--output", "json")
