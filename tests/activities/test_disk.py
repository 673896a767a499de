"""What a node's activities do to the Pods' links: check twice, check late, unpin late, and put right what is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.node.disk import DiskActivities
from kube_cache.contracts.common import PodRef, Snapshot
from kube_cache.contracts.node import CheckDiskInput, CheckDiskResult, UnpinInput
from kube_cache.contracts.reconcile import ReconcileDiskInput, ReconcileDiskResult
from kube_cache.dataset.remote import Manifest
from kube_cache.store.node_store import NodeStore
from tests.store.fakes import DictEngine, Source, open_store

UID = "aaaaaaaa-1111-4222-8333-aaaaaaaaaaaa"
POD = PodRef("ml", "p", UID)


class Node:
    def __init__(self, store: NodeStore) -> None:
        self.store = store
        self.source = Source()
        self.one = self.source.dataset("gpt", {"w": b"1" * 100})
        self.two = self.source.dataset("gpt", {"w": b"2" * 100})
        self._activities = DiskActivities(store)

    def fetch(self, manifest: Manifest) -> None:
        self.store.download(manifest, DictEngine(self.source), resolved_at=1)

    def check(self, *manifests: Manifest, attempt: int, keep_current: bool = False) -> CheckDiskResult:
        snapshots = [
            Snapshot(str(each.uri), each.digest, len(each.objects), each.total_bytes, resolved_at=attempt)
            for each in manifests
        ]
        arg = CheckDiskInput(snapshots, POD, attempt=attempt, keep_current=keep_current)
        return ActivityEnvironment().run(self._activities.check_disk, arg)

    def unpin(self, *manifests: Manifest, attempt: int) -> None:
        arg = UnpinInput([each.digest for each in manifests], POD, attempt)
        ActivityEnvironment().run(self._activities.unpin, arg)

    def reconcile(self, receipt: list[str]) -> list[str]:
        arg = ReconcileDiskInput([UID], receipts={UID: receipt})
        return ActivityEnvironment().run(self._activities.reconcile_disk, arg).wrong_links

    def ask(
        self, *, living: Sequence[str] = (), ended: Sequence[str] = (), expected: Sequence[str] = ()
    ) -> ReconcileDiskResult:
        arg = ReconcileDiskInput(list(living), ask=True, ended=list(ended), expected=list(expected))
        return ActivityEnvironment().run(self._activities.reconcile_disk, arg)

    @property
    def mounted(self) -> Path:
        return self.store.root / "snapshots" / "pods" / UID / "0"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    store = open_store(tmp_path / "cache")
    yield Node(store)
    store.close()


def test_a_check_links_first_and_tells_how_well_a_complete_snapshot_was_verified(node: Node) -> None:
    (missed,) = node.check(node.one, attempt=5).snapshots
    assert (missed.complete, missed.verified) == (False, "")
    assert os.path.lexists(node.mounted)
    node.fetch(node.one)
    for _ in range(2):
        (hit,) = node.check(node.one, attempt=5).snapshots
        assert (hit.complete, hit.verified) == (True, "full-object")
    assert (node.mounted / "w").read_bytes() == b"1" * 100


def test_a_check_for_an_earlier_placement_changes_nothing_and_is_not_tried_again(node: Node) -> None:
    node.fetch(node.one)
    node.check(node.one, attempt=6)
    with pytest.raises(ApplicationError) as stale:
        node.check(node.two, attempt=5)
    assert (stale.value.type, stale.value.non_retryable) == ("StalePlacement", True)
    assert (node.mounted / "w").read_bytes() == b"1" * 100


def test_an_unpin_that_comes_late_leaves_the_newer_placement_its_links(node: Node) -> None:
    node.fetch(node.one)
    node.check(node.one, attempt=5)
    node.check(node.one, attempt=6)
    node.unpin(node.one, attempt=5)
    assert (node.mounted / "w").exists()
    node.unpin(node.one, attempt=6)
    node.unpin(node.one, attempt=6)
    assert not os.path.lexists(node.mounted)


def test_the_reconcile_makes_a_lost_link_again_and_tells_of_one_that_leads_elsewhere(node: Node) -> None:
    for manifest in (node.one, node.two):
        node.fetch(manifest)
    node.check(node.one, attempt=5)
    node.mounted.unlink()
    assert node.reconcile([node.one.digest]) == []
    assert (node.mounted / "w").read_bytes() == b"1" * 100
    assert node.reconcile([node.two.digest]) == [UID]
    assert (node.mounted / "w").read_bytes() == b"1" * 100


def test_who_has_a_pin_and_is_not_named_is_asked_about_and_loses_it_when_he_is_gone(node: Node) -> None:
    """As the operator sees it: it names the Pods that it knows on the node, not those of the whole cluster."""
    for manifest in (node.one, node.two):
        node.fetch(manifest)
    node.check(node.one, attempt=5)
    assert node.ask().doubtful == [], "it is young: its Pod may be younger than the operator's lists"
    os.utime(node.store.root / "pods" / UID, (1, 1))
    asked = node.ask(expected=[node.two.digest, "0" * 64])
    assert (asked.doubtful, asked.unpinned, asked.complete) == ([UID], 0, [node.two.digest])
    assert node.ask(living=[UID]).doubtful == []
    assert node.mounted.exists()
    gone = node.ask(ended=[UID])
    assert (gone.doubtful, gone.unpinned) == ([], 1)
    assert not os.path.lexists(node.mounted)


def test_an_operator_of_an_older_build_names_all_pods_and_removes_the_pins_of_the_others(node: Node) -> None:
    node.fetch(node.one)
    node.check(node.one, attempt=5)
    os.utime(node.store.root / "pods" / UID, (1, 1))
    older = ReconcileDiskInput(["another"])
    result = ActivityEnvironment().run(DiskActivities(node.store).reconcile_disk, older)
    assert (result.unpinned, result.complete) == (1, [node.one.digest])


def test_a_pod_that_mounts_current_keeps_what_it_names(node: Node) -> None:
    node.fetch(node.one)
    node.check(node.one, attempt=5, keep_current=True)
    node.store.download(node.two, DictEngine(node.source), resolved_at=9)
    holders = {pin.digest for pin in node.store.pins()}
    assert holders == {node.one.digest, node.two.digest}
