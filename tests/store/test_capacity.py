"""A request that cannot be met evicts nothing; the estimate of what could be freed is neither too low nor made up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from kube_cache.dataset.remote import Manifest
from kube_cache.dataset.uri import DatasetUri
from kube_cache.errors import Cancelled, InsufficientDisk
from kube_cache.store import reclaimable
from kube_cache.store.node_store import NodeStore
from kube_cache.store.reclaimable import Space
from tests.store.fakes import DictEngine, Source, manifest, open_store, wait_for

CAPACITY = 1_000_000


@pytest.fixture
def tight(root: Path) -> NodeStore:
    store = open_store(root, capacity_bytes=CAPACITY)
    yield store
    store.close()


def dataset(source: Source, name: str, *, own: int, shared: int = 0) -> Manifest:
    """shared: size of one object that every such dataset holds, as datasets of overlapping prefixes do."""
    files = [source.put(f"{name}/w", name.encode() * (own // len(name)))]
    if shared:
        files.append(source.put("common/t", b"t" * shared))
    return manifest(DatasetUri("s3", "models", name), tuple(files))


def test_a_dataset_that_cannot_fit_evicts_nothing(tight: NodeStore, source: Source, engine: DictEngine) -> None:
    small, huge = dataset(source, "small", own=100_000), dataset(source, "huge", own=2_000_000)
    tight.download(small, engine)
    with pytest.raises(InsufficientDisk, match="nothing pinned"):
        tight.download(huge, engine)
    assert tight.check(small.digest).complete


def test_what_a_pin_keeps_and_what_its_end_would_free(tight: NodeStore, source: Source, engine: DictEngine) -> None:
    old, new = dataset(source, "old", own=600_000), dataset(source, "new", own=600_000)
    tight.download(old, engine)
    tight.pin(old.digest, "pod/1")
    with pytest.raises(InsufficientDisk, match="pinned by pod/1") as refused:
        tight.check_fits(600_000)
    assert refused.value.details["needed"] == 600_000
    tight.unpin(old.digest, "pod/1")
    tight.check_fits(600_000)
    assert tight.check(old.digest).complete, "asking evicts nothing"
    tight.download(new, engine)
    assert not tight.check(old.digest).complete


def test_shared_objects_are_freed_by_the_last_that_links_them(
    tight: NodeStore, source: Source, engine: DictEngine
) -> None:
    one = dataset(source, "one", own=100_000, shared=600_000)
    two = dataset(source, "two", own=100_000, shared=600_000)
    tight.download(one, engine)
    tight.download(two, engine)
    assert engine.total == pytest.approx(800_000, abs=10)
    tight.check_fits(900_000)
    tight.pin(two.digest, "pod/2")
    tight.check_fits(300_000 - 10)
    with pytest.raises(InsufficientDisk):
        tight.check_fits(400_000)


def test_what_a_download_counts_on_is_not_offered_to_another(
    tight: NodeStore, source: Source, engine: DictEngine
) -> None:
    one = dataset(source, "one", own=100_000, shared=500_000)
    engine.hold = threading.Event()
    thread = threading.Thread(target=tight.download, args=(one, engine), daemon=True)
    thread.start()
    try:
        wait_for(engine.reached.is_set)
        with pytest.raises(InsufficientDisk, match="reserved by other downloads"):
            tight.check_fits(900_000)
    finally:
        engine.hold.set()
        thread.join(60)
    tight.check_fits(900_000)


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda store, source: store.check_fits(600_000), id="check_fits"),
        pytest.param(
            lambda store, source: store.download(dataset(source, "two", own=600_000), DictEngine(source)), id="download"
        ),
    ],
)
def test_room_that_another_download_gives_back_while_a_request_is_weighed_is_not_refused(
    tight: NodeStore,
    source: Source,
    engine: DictEngine,
    monkeypatch: pytest.MonkeyPatch,
    ask: Callable[[NodeStore, Source], object],
) -> None:
    one = dataset(source, "one", own=100_000, shared=500_000)
    engine.hold = threading.Event()
    stop = threading.Event()

    def download() -> None:
        with suppress(Cancelled):
            tight.download(one, engine, cancelled=stop.is_set)

    thread = threading.Thread(target=download, daemon=True)
    thread.start()
    wait_for(engine.reached.is_set)
    with pytest.raises(InsufficientDisk, match="reserved by other downloads"):
        tight.check_fits(600_000)
    estimate = reclaimable.estimate

    def estimate_just_before_it_ends(*args: object, **how: bool) -> Space:
        space = estimate(*args, **how)  # type: ignore[arg-type]
        stop.set()
        thread.join(60)
        return space

    monkeypatch.setattr(reclaimable, "estimate", estimate_just_before_it_ends)
    ask(tight, source)
    assert not thread.is_alive()


def test_parts_of_what_was_given_up_are_room(tight: NodeStore) -> None:
    (tight.root / "incoming" / "gone.part").write_bytes(b"p" * 500_000)
    tight.check_fits(900_000)


def test_a_probe_leaves_nothing(tight: NodeStore) -> None:
    before = sorted(path.name for path in tight.root.iterdir())
    tight.probe()
    assert sorted(path.name for path in tight.root.iterdir()) == before
