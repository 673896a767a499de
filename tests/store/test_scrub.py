"""The scrub: in rounds that end, whatever the clock or the process does, and never in the way of a download."""

from __future__ import annotations

import errno
import os
import threading
import time

import pytest

from kube_cache.dataset.remote import Manifest
from kube_cache.errors import Cancelled, DiskFault
from kube_cache.store import scrub
from kube_cache.store.node_store import NodeStore
from tests.store.crashing import SURVIVED, child
from tests.store.fakes import DictEngine, Source, open_store, settings, wait_for
from tests.store.test_store import data, flip

FILES = {f"f{number}": bytes([number]) * 1000 for number in range(10)}


@pytest.fixture
def manifest(store: NodeStore, source: Source, engine: DictEngine) -> Manifest:
    manifest = source.dataset("gpt", FILES)
    store.download(manifest, engine)
    return manifest


def test_a_clock_that_jumps_back_hides_nothing_from_the_next_scrub(
    store: NodeStore, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 10 * 365 * 86400)
    assert store.scrub(0).objects == 10
    monkeypatch.setattr(time, "time", lambda: now)
    assert store.scrub(0).objects == 10


def test_a_background_round_that_is_cut_short_goes_on_where_it_was_and_then_waits_its_time(
    store: NodeStore, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter([False] * 4 + [True] * 100)
    with pytest.raises(Cancelled):
        store.scrub_if_due(lambda: next(left))
    store.close()
    again = open_store(store.root)
    rest = again.scrub_if_due()
    assert rest is not None
    assert 0 < rest.objects < 10
    assert again.scrub_if_due() is None, "the next one is due in a week"
    week = time.time() + 7 * 86400
    monkeypatch.setattr(time, "time", lambda: week)
    assert (next_one := again.scrub_if_due()) is not None
    assert next_one.objects == 10
    monkeypatch.setattr(time, "time", lambda: week - 365 * 86400)
    assert again.scrub_if_due() is not None, "a clock that jumped back tells nothing: better once too often"
    again.close()


def test_what_a_person_scrubs_is_read_whole_though_the_background_is_half_through(
    store: NodeStore, manifest: Manifest
) -> None:
    left = iter([False] * 4 + [True] * 100)
    with pytest.raises(Cancelled):
        store.scrub_if_due(lambda: next(left))
    assert store.scrub(0).objects == 10
    result = store.scrub_if_due()
    assert result is not None
    assert result.objects == 0, "all was read since its round began"


def test_the_background_finds_a_flipped_bit_and_the_next_warm_mends_it(
    store: NodeStore, manifest: Manifest, engine: DictEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(store._opened.context.disk), "trusts_ctime", False)
    flip(data(store, manifest) / "f3")
    with store.background(poll_s=0.01):
        wait_for(lambda: not store.check(manifest.digest).complete)
    assert store.download(manifest, engine).fetched_bytes == 1000
    assert store.check_full(manifest.digest).complete


def test_the_background_is_silent_where_its_rate_is_none(
    store: NodeStore, manifest: Manifest, engine: DictEngine
) -> None:
    other = NodeStore.open(settings(store.root, scrub_bytes_per_s=0), recover=False)
    with other.background(poll_s=0.01):
        assert not [thread for thread in threading.enumerate() if thread.name == "scrub"]
    other.close()


def test_what_the_process_lacks_condemns_no_object(
    store: NodeStore, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_descriptors(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(scrub, "crc_of", out_of_descriptors)
    with pytest.raises(DiskFault, match="EMFILE"):
        store.scrub(0)
    assert store.check(manifest.digest).complete


def test_a_scrub_waits_for_the_download_of_another_process(
    store: NodeStore, source: Source, engine: DictEngine, manifest: Manifest
) -> None:
    engine.hold = threading.Event()
    download = threading.Thread(
        target=store.download, args=(source.dataset("other", {"f": b"f" * 10, "g": b"g"}), engine)
    )
    download.start()
    assert engine.reached.wait(60)

    def person() -> None:
        other = NodeStore.open(settings(store.root), recover=False)
        asked = iter([False] * 5 + [True] * 1000)
        with pytest.raises(Cancelled):
            other.scrub(0, cancelled=lambda: next(asked))
        assert {row.scrubbed for row in other._opened.context.index.objects(ids).values()} == {None}
        os._exit(SURVIVED)

    ids = [name for shard in range(256) for name in store._opened.context.index.objects_under(shard)]
    assert child(person) == SURVIVED
    engine.hold.set()
    download.join(60)
