"""What a prefetch may evict, what keeps what it brought, and what goes first when nobody wants it any more."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from kube_cache.contracts.node import StoreRequest
from kube_cache.dataset.remote import Manifest
from kube_cache.dataset.uri import DatasetUri
from kube_cache.errors import InsufficientDisk
from kube_cache.store.commands import handle
from kube_cache.store.node_store import NodeStore
from tests.store.fakes import DictEngine, Source, manifest, open_store

CAPACITY = 1_000_000
LATER = time.time() + 3600
OWNER = "prefetch/ml/nightly"


@pytest.fixture
def tight(root: Path) -> Iterator[NodeStore]:
    store = open_store(root, capacity_bytes=CAPACITY, prefetch_watermark=0.8)
    yield store
    store.close()


def dataset(source: Source, name: str, size: int) -> Manifest:
    return manifest(DatasetUri("s3", "models", name), (source.put(f"{name}/w", name.encode() * (size // len(name))),))


def prefetch(store: NodeStore, data: Manifest, engine: DictEngine, until: float = LATER) -> None:
    store.hold_prefetched(data.digest, OWNER, until)
    store.download(data, engine, spare=True)


def use(store: NodeStore, data: Manifest) -> None:
    """Do what a Pod's check does, and the Pod's end."""
    uid = str(uuid.uuid4())
    store.link_pod(uid, 1, [data.digest])
    assert store.check_for_pod(uid, 0, data.digest, data.uri).complete
    store.unlink_pod(uid, data.digest)


def present(store: NodeStore) -> list[str]:
    return [header.digest for header in store.snapshots()]


def test_a_prefetch_evicts_nothing_that_was_used(tight: NodeStore, source: Source, engine: DictEngine) -> None:
    used, wanted = dataset(source, "used", 500_000), dataset(source, "wanted", 400_000)
    tight.download(used, engine)
    with pytest.raises(InsufficientDisk, match="the prefetch of s3://models/wanted"):
        prefetch(tight, wanted, engine)
    with pytest.raises(InsufficientDisk):
        tight.check_fits(400_000, spare=True)
    assert present(tight) == [used.digest]
    tight.download(wanted, engine)
    assert set(present(tight)) == {used.digest, wanted.digest}, "a Pod's download has the room up to the last byte"


def test_a_prefetch_stays_below_the_watermark(tight: NodeStore, source: Source, engine: DictEngine) -> None:
    with pytest.raises(InsufficientDisk, match="that prefetches leave to Pods"):
        prefetch(tight, dataset(source, "huge", 850_000), engine)
    prefetch(tight, dataset(source, "large", 790_000), engine)
    tight.check_fits(150_000)
    with pytest.raises(InsufficientDisk):
        tight.check_fits(150_000, spare=True)


def test_a_prefetch_replaces_what_an_ended_one_brought_and_nobody_used(
    tight: NodeStore, source: Source, engine: DictEngine
) -> None:
    ended, wanted = dataset(source, "ended", 700_000), dataset(source, "wanted", 700_000)
    prefetch(tight, ended, engine)
    with pytest.raises(InsufficientDisk, match=r"683\.\d KiB kept for prefetches, which a Pod may have"):
        prefetch(tight, wanted, engine)
    tight.release_prefetched(ended.digest, OWNER)
    with pytest.raises(InsufficientDisk) as refused:
        tight.check_fits(2 * CAPACITY)
    assert "kept for prefetches" not in refused.value.message, "its end has come"
    prefetch(tight, wanted, engine)
    assert present(tight) == [wanted.digest]


def test_what_a_pod_used_since_is_not_taken_by_the_next_prefetch(
    tight: NodeStore, source: Source, engine: DictEngine
) -> None:
    ended, wanted = dataset(source, "ended", 700_000), dataset(source, "wanted", 700_000)
    prefetch(tight, ended, engine)
    use(tight, ended)
    tight.release_prefetched(ended.digest, OWNER)
    with pytest.raises(InsufficientDisk):
        prefetch(tight, wanted, engine)
    assert present(tight) == [ended.digest]


@pytest.mark.parametrize(
    ("until", "goes"),
    [pytest.param(LATER, "old", id="before its end it goes last"), pytest.param(1.0, "fetched", id="after it, first")],
)
def test_the_end_of_a_prefetch_decides_when_its_data_goes(
    tight: NodeStore, source: Source, engine: DictEngine, until: float, goes: str
) -> None:
    names = ("fetched", "old", "newer")
    data = {name: dataset(source, name, 300_000) for name in names}
    tight.download(data["old"], engine)
    prefetch(tight, data["fetched"], engine, until)
    tight.download(data["newer"], engine)
    tight.download(dataset(source, "pods", 300_000), engine)
    assert {name for name in names if data[name].digest not in present(tight)} == {goes}


def test_a_pod_that_needs_the_room_gets_it_from_a_live_prefetch_too(
    tight: NodeStore, source: Source, engine: DictEngine
) -> None:
    prefetch(tight, dataset(source, "fetched", 700_000), engine)
    pods = dataset(source, "pods", 900_000)
    tight.download(pods, engine)
    assert present(tight) == [pods.digest]


def test_of_two_prefetches_the_one_that_lasts_longer_counts(
    tight: NodeStore, source: Source, engine: DictEngine
) -> None:
    data, wanted = dataset(source, "fetched", 700_000), dataset(source, "wanted", 700_000)
    tight.hold_prefetched(data.digest, "prefetch/ml/other", LATER)
    prefetch(tight, data, engine)
    tight.release_prefetched(data.digest, OWNER)
    with pytest.raises(InsufficientDisk):
        prefetch(tight, wanted, engine)


def test_data_that_was_there_before_its_prefetch_counts_as_used(
    tight: NodeStore, source: Source, engine: DictEngine
) -> None:
    data, wanted = dataset(source, "there", 700_000), dataset(source, "wanted", 700_000)
    tight.download(data, engine)
    prefetch(tight, data, engine)
    tight.release_prefetched(data.digest, OWNER)
    with pytest.raises(InsufficientDisk):
        prefetch(tight, wanted, engine)
    assert engine.total == pytest.approx(700_000, abs=10), "nothing was fetched twice"


def test_a_check_for_a_prefetch_is_no_use(tight: NodeStore, source: Source, engine: DictEngine) -> None:
    first, second = dataset(source, "first", 100_000), dataset(source, "second", 100_000)
    tight.download(first, engine)
    tight.download(second, engine)
    tight.hold_prefetched(first.digest, OWNER, 1.0)
    assert present(tight) == [first.digest, second.digest]


def test_ls_and_du_say_which_snapshot_is_prefetched_until_when_and_whether_a_pod_has_used_it(
    tight: NodeStore, source: Source, engine: DictEngine
) -> None:
    plain, wanted = dataset(source, "plain", 100_000), dataset(source, "wanted", 100_000)
    tight.download(plain, engine)
    prefetch(tight, wanted, engine)

    def told(verb: str) -> dict[str, object]:
        data = json.loads(handle(tight, StoreRequest("", verb)).data)
        rows = data["snapshots"] if verb == "du" else data
        return {row["digest"]: row["prefetched"] for row in rows}

    mark = {"by": [OWNER], "until": LATER, "used": False}
    assert told("ls") == told("du") == {plain.digest: None, wanted.digest: mark}
    use(tight, wanted)
    tight.release_prefetched(wanted.digest, OWNER)
    assert told("ls")[wanted.digest] == {"by": [], "until": None, "used": True}
