"""What a prefetch asks of a node's disk: what is missing, whether that fits, and to let it go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.node.prefetched import PrefetchedActivities
from kube_cache.contracts.common import Snapshot
from kube_cache.contracts.prefetch import HoldPrefetchedInput, HoldPrefetchedResult, ReleasePrefetchedInput
from kube_cache.dataset.remote import Manifest
from kube_cache.store.node_store import NodeStore
from tests.store.fakes import DictEngine, Source, open_store

OWNER = "prefetch/ml/nightly"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[NodeStore]:
    store = open_store(tmp_path / "cache", capacity_bytes=1_000_000, prefetch_watermark=0.8)
    yield store
    store.close()


def hold(store: NodeStore, *manifests: Manifest, superseded: list[str] | None = None) -> HoldPrefetchedResult:
    snapshots = [Snapshot(str(each.uri), each.digest, len(each.objects), each.total_bytes) for each in manifests]
    arg = HoldPrefetchedInput(OWNER, time.time() + 3600, snapshots, superseded or [])
    return ActivityEnvironment().run(PrefetchedActivities(store).hold_prefetched, arg)


def test_it_tells_what_is_missing_and_how_much_of_it(store: NodeStore, source: Source) -> None:
    one, two = source.dataset("one", {"w": b"1" * 1000}), source.dataset("two", {"w": b"2" * 500})
    assert hold(store, one, two) == HoldPrefetchedResult(store.cache_id, [one.digest, two.digest], 1500)
    store.download(one, DictEngine(source), spare=True)
    assert hold(store, one, two) == HoldPrefetchedResult(store.cache_id, [two.digest], 500)


def test_what_does_not_fit_is_refused_before_anything_is_fetched(store: NodeStore, source: Source) -> None:
    used, wanted = source.dataset("used", {"w": b"1" * 500_000}), source.dataset("wanted", {"w": b"2" * 400_000})
    store.download(used, DictEngine(source))
    with pytest.raises(ApplicationError, match="the prefetch of s3://models/wanted") as refused:
        hold(store, wanted)
    assert (refused.value.type, refused.value.non_retryable) == ("InsufficientDisk", True)


def test_what_is_let_go_or_was_superseded_makes_room(store: NodeStore, source: Source) -> None:
    old, new, next_ = (source.dataset("d", {"w": digit * 700_000}) for digit in (b"1", b"2", b"3"))
    for manifest in (old, new):
        hold(store, manifest, superseded=[old.digest] if manifest is new else [])
        store.download(manifest, DictEngine(source), spare=True)
    assert [header.digest for header in store.snapshots()] == [new.digest]
    for _ in range(2):
        arg = ReleasePrefetchedInput(OWNER, [new.digest, old.digest])
        ActivityEnvironment().run(PrefetchedActivities(store).release_prefetched, arg)
    assert hold(store, next_).missing == [next_.digest]


@pytest.fixture
def source() -> Source:
    return Source()
