"""The index of another build, older or newer: converted at the agent's start, with the pins of people, and no fetch."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kube_cache.dataset.remote import Manifest
from kube_cache.errors import KubeCacheError
from kube_cache.store import index_schema
from kube_cache.store.index_rows import SCHEMA
from kube_cache.store.node_store import NodeStore
from tests.store.fakes import DictEngine, Source, open_store, settings
from tests.store.test_crash import account

OF_VERSION = {1: "0ae0e1d44ed52f21"}
"""First digits of the SHA-256 of the tables, by their number."""


@pytest.fixture
def manifest(root: Path, source: Source, engine: DictEngine) -> Manifest:
    """A closed store with one snapshot that a person pinned."""
    store = open_store(root)
    manifest = source.dataset("gpt", {"a": b"a" * 1000, "d/b": b"b"})
    store.download(manifest, engine)
    store.download(source.dataset("gpt", {"a": b"a" * 1000}), engine)
    store.pin(manifest.digest, "user/kim", until=4e9)
    store.pin(manifest.digest, "pod/1")
    store.close()
    engine.served.clear()
    return manifest


def change(root: Path, *statements: str) -> None:
    db = sqlite3.connect(root / "index.sqlite")
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


OLDER = "PRAGMA user_version = 0"
NEWER = "PRAGMA user_version = 99"


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param([OLDER], id="of-the-builds-before-numbers"),
        pytest.param([NEWER], id="newer-with-the-same-columns"),
        pytest.param([OLDER, "ALTER TABLE objects DROP COLUMN scrubbed"], id="older-without-a-column"),
        pytest.param([OLDER, "ALTER TABLE pins DROP COLUMN created"], id="older-without-the-age-of-pins"),
        pytest.param([NEWER, "ALTER TABLE objects ADD COLUMN colour TEXT NOT NULL DEFAULT 'red'"], id="newer-column"),
        pytest.param([NEWER, "ALTER TABLE pins ADD COLUMN attempt INTEGER NOT NULL DEFAULT 0"], id="newer-pins"),
        pytest.param([NEWER, "ALTER TABLE objects RENAME COLUMN crc TO proof"], id="newer-that-renamed-a-column"),
        pytest.param([NEWER, "DROP TRIGGER more", "DROP TABLE objects", "CREATE TABLE colours (name TEXT)"], id="newer-without-a-table"),
    ],
)  # fmt: skip
def test_an_index_of_another_build_is_converted_with_its_pins_and_nothing_is_fetched(
    root: Path, source: Source, engine: DictEngine, manifest: Manifest, statements: list[str]
) -> None:
    change(root, *statements)
    with capture_logs() as logs:
        store = open_store(root)
    assert [entry for entry in logs if entry["event"] == "the index of another build was converted"]
    assert store.check(manifest.digest).complete
    assert store.recovery.rebuilt, "so that the agent asks for a reconcile"
    pins = {(pin.owner, pin.until) for pin in store.pins() if pin.digest == manifest.digest}
    assert {("user/kim", 4e9), ("pod/1", None)} == pins
    store.download(manifest, engine)
    store.download(source.dataset("gpt", {"a": b"a" * 1000}), engine)
    assert engine.total == 0
    account(store)
    store.close()
    again = open_store(root)
    assert not again.recovery.rebuilt
    again.close()


def test_pins_that_cannot_be_read_are_told(root: Path, manifest: Manifest) -> None:
    change(root, NEWER, "ALTER TABLE pins RENAME COLUMN owner TO holder")
    with capture_logs() as logs:
        store = open_store(root)
    (told,) = [entry for entry in logs if entry["event"] == "the index of another build was converted"]
    assert told["lost"] == ["pins"]
    assert store.pins() == []
    store.close()


def test_there_and_back_loses_nothing(root: Path, engine: DictEngine, manifest: Manifest) -> None:
    """A roll-out, work, and its roll-back: two builds with different tables on one disk, in turn."""
    newer = SCHEMA.replace("scrubbed REAL)", "scrubbed REAL, colour TEXT NOT NULL DEFAULT 'red')")
    assert newer != SCHEMA
    with pytest.MonkeyPatch.context() as other_build:
        other_build.setattr("kube_cache.store.index.SCHEMA", newer)
        other_build.setattr(index_schema, "VERSION", 2)
        store = open_store(root)
        assert store.recovery.rebuilt
        store.pin(manifest.digest, "user/lee")
        store.close()
    store = open_store(root)
    assert store.check(manifest.digest).complete
    assert {pin.owner for pin in store.pins()} == {"user/kim", "user/lee", "pod/1"}
    store.download(manifest, engine)
    assert engine.total == 0
    store.close()


def test_a_draining_agent_of_the_older_build_does_not_undo_the_conversion(
    root: Path, source: Source, engine: DictEngine, manifest: Manifest
) -> None:
    """Both have the index open for a while: it is converted in its file, so that the older build sees no new one."""
    change(root, OLDER)
    old = sqlite3.connect(root / "index.sqlite", isolation_level=None, timeout=30)
    assert old.execute("SELECT COUNT(*) FROM pins").fetchone() == (2,)
    store = open_store(root)
    old.execute("INSERT OR REPLACE INTO uses VALUES ('x', 1, 1.0)")
    assert store.check(manifest.digest).complete
    old.close()
    assert len(store.pins()) == 2
    store.close()


def test_only_the_agent_converts(root: Path, manifest: Manifest) -> None:
    change(root, OLDER)
    before = (root / "index.sqlite").read_bytes()
    with pytest.raises(KubeCacheError, match="schema 0, and this build has 1; the agent converts it"):
        NodeStore.open(settings(root), recover=False)
    assert (root / "index.sqlite").read_bytes() == before


def test_a_change_of_the_tables_raises_their_number() -> None:
    """If this fails: raise `index_schema.VERSION`, and write the new digest here."""
    assert hashlib.sha256(SCHEMA.encode()).hexdigest()[:16] == OF_VERSION[index_schema.VERSION]
