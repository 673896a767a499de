"""A store on a fresh root, on /dev/shm where there is one (the same kernel, no disk), and a source to fill it from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kube_cache.store.node_store import NodeStore
from tests.store.fakes import DictEngine, Source, open_store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def engine(source: Source) -> DictEngine:
    return DictEngine(source)


@pytest.fixture
def store(root: Path) -> Iterator[NodeStore]:
    store = open_store(root)
    yield store
    store.close()
