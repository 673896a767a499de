"""The sweep while an agent runs: what was abandoned goes in its time, and never what a download owns."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from kube_cache.dataset.remote import Manifest
from kube_cache.errors import Cancelled
from kube_cache.store.filesystem.probe import SCRATCH_PREFIX
from kube_cache.store.layout import object_id
from kube_cache.store.node_store import NodeStore
from tests.store.crashing import SURVIVED, child
from tests.store.fakes import DictEngine, Source, open_store, read_all, settings, wait_for

DAY = 86400


def age(path: Path, seconds: float = 2 * DAY) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def abandoned(store: NodeStore, name: str = "a" * 64) -> list[Path]:
    """A part and its journal, as a download leaves them that nobody takes up again."""
    incoming = store.root / "incoming"
    files = [incoming / f"{name}.part", incoming / f"{name}.journal"]
    for path in files:
        path.write_bytes(b"left")
    return files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_running_agent_sweeps_abandoned_downloads_and_quarantine_in_their_time(
    root: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(root, scrub_bytes_per_s=0)
    young, old = abandoned(store, "b" * 64), abandoned(store)
    (root / "quarantine" / ("c" * 64)).write_bytes(b"wrong")
    scratch = root / f"{SCRATCH_PREFIX}killed"
    scratch.mkdir()
    with store.background(poll_s=0.01):
        for path in old:
            age(path)
        wait_for(lambda: not old[0].exists() and not old[1].exists())
        assert all(path.exists() for path in young)
        assert names(root / "quarantine") == ["c" * 64]
        assert scratch.exists(), "its probe may still be at work"
        monkeypatch.setattr("kube_cache.store.recovery.time.time", lambda now=time.time: now() + 8 * DAY)
        wait_for(lambda: not names(root / "quarantine") and not names(root / "incoming"))
        wait_for(lambda: not scratch.exists())
    store.close()


def test_objects_that_no_snapshot_links_go_in_their_time(
    store: NodeStore, source: Source, engine: DictEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = source.dataset("gpt", {"a": b"a" * 100, "b": b"b" * 100})
    asked = iter([False] * 6)
    with pytest.raises(Cancelled):
        store.download(dataset, engine, cancelled=lambda: next(asked, True))
    landed = list(store.root.glob("objects/??/*"))
    assert landed
    assert store.sweep() == 0
    later = time.time() + 2 * DAY
    monkeypatch.setattr(time, "time", lambda: later)
    assert store.sweep() == len(landed)
    assert not list(store.root.glob("objects/??/*"))
    assert store.usage().objects == 0


def start(store: NodeStore, dataset: Manifest, engine: DictEngine) -> threading.Thread:
    engine.hold = threading.Event()
    download = threading.Thread(target=store.download, args=(dataset, engine))
    download.start()
    assert engine.reached.wait(60)
    return download


def test_a_sweep_spares_what_a_download_of_this_process_owns_and_takes_the_rest(
    store: NodeStore, source: Source, engine: DictEngine
) -> None:
    dataset = source.dataset("gpt", {"a": b"a" * 100, "b": b"b" * 100})
    theirs = abandoned(store, object_id(dataset.objects[1]))
    others = abandoned(store, "d" * 64)
    download = start(store, dataset, engine)
    for path in theirs + others:
        age(path)
    assert store.sweep() == 1
    assert all(path.exists() for path in theirs)
    assert not any(path.exists() for path in others)
    assert engine.hold is not None
    engine.hold.set()
    download.join(60)
    assert read_all(store, dataset) == {"a": b"a" * 100, "b": b"b" * 100}


def test_a_sweep_leaves_everything_alone_while_another_process_downloads(
    store: NodeStore, source: Source, engine: DictEngine
) -> None:
    left = abandoned(store)
    for path in left:
        age(path)
    download = start(store, source.dataset("gpt", {"a": b"a", "b": b"b"}), engine)

    def other_process() -> None:
        other = NodeStore.open(settings(store.root), recover=False)
        assert other.sweep() == 0
        os._exit(SURVIVED)

    assert child(other_process) == SURVIVED
    assert all(path.exists() for path in left)
    assert engine.hold is not None
    engine.hold.set()
    download.join(60)
    assert store.sweep() == 1
