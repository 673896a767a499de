"""The store's metrics: bytes by source and proof, evictions by reason, what the disk holds."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path

import pytest

from kube_cache.errors import Cancelled, InsufficientDisk
from kube_cache.store.node_store import NodeStore
from kube_cache.store.prefetched import Mark
from tests.store.fakes import DictEngine, Source, open_store, wait_for
from tests.store.test_store import data, flip
from tests.telemetry.scrape import Changes, value

LANDED, PROVED = "kube_cache_landed_bytes_total", "kube_cache_proved_bytes_total"


def gauge(store: NodeStore, name: str) -> float | None:
    store.show_capacity()
    return value(f"kube_cache_disk_{name}", disk=str(store.root))


def test_a_byte_lands_once_however_often_its_download_runs(
    store: NodeStore, source: Source, engine: DictEngine
) -> None:
    changes, first = Changes(), source.dataset("gpt", {"a": b"a" * 1000, "b": b"b" * 500})
    for _ in range(3):
        store.download(first, engine)
    assert changes.of(LANDED, source="origin") == 1500
    assert changes.of(PROVED, proof="full-object") == 1500
    assert changes.of(LANDED, source="resumed") == 0
    assert changes.of("kube_cache_bucket_bytes_total", bucket="models") == 1500
    assert changes.of("kube_cache_stage_seconds_count", stage="publish") >= 1


def test_what_an_earlier_attempt_fetched_is_resumed_and_not_fetched(
    store: NodeStore, source: Source, engine: DictEngine
) -> None:
    changes, dataset = Changes(), source.dataset("gpt", {"a": b"a" * 1000, "b": b"b" * 500})
    cancelled = iter([False, False, False])
    with pytest.raises(Cancelled):
        store.download(dataset, engine, cancelled=lambda: next(cancelled, True))
    store.download(dataset, engine)
    assert changes.of(LANDED, source="origin") == 1500
    assert engine.total == 1500


def test_evictions_are_counted_by_their_reason(root: Path, source: Source, engine: DictEngine) -> None:
    changes, store = Changes(), open_store(root, capacity_bytes=100_000)
    old, new = (source.dataset(name, {"w": name.encode() * 20_000}) for name in ("old", "new"))
    store.download(old, engine)
    store.download(new, engine)
    assert changes.of("kube_cache_evictions_total", reason="room") == 1
    assert changes.of("kube_cache_evicted_bytes_total", reason="room") == 60_000
    for _ in range(2):
        store.evict(new.digest)
    assert changes.of("kube_cache_evictions_total", reason="request") == 1, "the second call found nothing"
    with pytest.raises(InsufficientDisk):
        store.download(source.dataset("huge", {"w": b"h" * 200_000}), engine)
    assert changes.of("kube_cache_evictions_total", reason="room") == 1
    store.close()


def test_the_disk_shows_what_it_holds_and_for_whom(store: NodeStore, source: Source, engine: DictEngine) -> None:
    dataset = source.dataset("gpt", {"a": b"a" * 1000})
    store.download(dataset, engine)
    assert gauge(store, "snapshots") == 1
    assert gauge(store, "used_bytes") == 1000
    assert gauge(store, "pinned_bytes") == 0
    store.pin(dataset.digest, "ann")
    assert gauge(store, "pinned_bytes") == 1000
    size, free = gauge(store, "size_bytes"), gauge(store, "free_bytes")
    assert size is not None
    assert free is not None
    assert size > free > 0
    assert gauge(store, "reserved_bytes") == 0


def test_the_agent_measures_its_disk_by_itself(store: NodeStore, source: Source, engine: DictEngine) -> None:
    store.download(source.dataset("gpt", {"a": b"a" * 1000}), engine)
    with store.background(poll_s=0.01):
        wait_for(lambda: value("kube_cache_disk_used_bytes", disk=str(store.root)) == 1000)


def test_a_corrupt_object_is_counted_once(store: NodeStore, source: Source, engine: DictEngine) -> None:
    changes, dataset = Changes(), source.dataset("gpt", {"a": b"a" * 1000})
    store.download(dataset, engine)
    flip(data(store, dataset) / "a")
    for _ in range(2):
        store.scrub(0)
    assert changes.of("kube_cache_corrupt_objects_total") == 1


def test_prefetched_data_is_counted_when_it_comes_is_found_and_goes_in_vain(
    root: Path, source: Source, engine: DictEngine
) -> None:
    changes, store = Changes(), open_store(root, capacity_bytes=200_000)
    used, unused, plain = (
        source.dataset(name, {"w": name[:1].encode() * 30_000}) for name in ("used", "vain", "plain")
    )
    store.download(plain, engine)
    for dataset in (used, unused, plain):
        store.hold_prefetched(dataset.digest, "prefetch/ml/nightly", time.time() + 3600)
        store.download(dataset, engine, spare=True)
    assert changes.of("kube_cache_prefetched_bytes_total") == 60_000, "what was there before was not brought"
    for _ in range(3):
        for dataset in (used, plain):
            uid = str(uuid.uuid4())
            store.link_pod(uid, 1, [dataset.digest])
            assert store.check_for_pod(uid, 0, dataset.digest, dataset.uri).complete
            store.unlink_pod(uid, dataset.digest)
    assert [changes.of("kube_cache_prefetch_hits_total", use=use) for use in ("first", "again")] == [1, 2]

    def on_disk(state: str) -> float | None:
        store.show_capacity()
        return value("kube_cache_disk_prefetched_bytes", disk=str(store.root), state=state)

    assert (on_disk("kept"), on_disk("unwanted")) == (30_000, 0)
    store.release_prefetched(unused.digest, "prefetch/ml/nightly")
    assert (on_disk("kept"), on_disk("unwanted")) == (0, 30_000)
    store.evict(used.digest)
    assert changes.of("kube_cache_prefetched_unused_evictions_total") == 0
    store.evict(unused.digest)
    assert changes.of("kube_cache_prefetched_unused_evictions_total") == 1
    assert changes.of("kube_cache_prefetched_unused_evicted_bytes_total") == 30_000
    assert on_disk("unwanted") == 0


def test_a_mark_of_an_older_agent_still_counts(root: Path, source: Source, engine: DictEngine) -> None:
    store, dataset = open_store(root, capacity_bytes=100_000), source.dataset("old", {"w": b"o" * 1000})
    store.download(dataset, engine)
    store.hold_prefetched(dataset.digest, "prefetch/ml/nightly", time.time() + 3600)
    index = store._opened.current().index
    (key,) = index.meta_under("prefetched/")
    index.set_meta(key, json.dumps({"until": {"prefetch/ml/nightly": 5.0}, "used": False}))
    assert dict(store.prefetched()) == {dataset.digest: Mark({"prefetch/ml/nightly": 5.0})}
