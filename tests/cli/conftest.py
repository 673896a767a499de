"""A store on a fresh root, with one snapshot in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kube_cache.dataset.remote import Manifest
from kube_cache.store.node_store import NodeStore
from tests.store.fakes import DictEngine, Source, open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[NodeStore]:
    store = open_store(tmp_path / "cache")
    yield store
    store.close()


@pytest.fixture
def manifest(store: NodeStore) -> Manifest:
    source = Source()
    manifest = source.dataset("gpt", {"a": b"a" * 2048, "b": b"b"})
    store.download(manifest, DictEngine(source))
    return manifest
