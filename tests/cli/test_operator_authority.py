"""An operator keeps the authority's files as the cluster has it, and works on while there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cli.operator_authority import AuthorityKeeper
from kube_cache.errors import InvalidRequest, KubeCacheError, SourceUnavailable
from kube_cache.kube.authority_secret import Pair
from tools.stack.waiting import true

ONE, OTHER = Pair(b"key 1", b"certificate 1"), Pair(b"key 2", b"certificate 2")


class Cluster:
    """Stands for the Secret."""

    def __init__(self) -> None:
        self.has: Pair | KubeCacheError = ONE

    def ensure(self) -> Pair:
        if isinstance(self.has, KubeCacheError):
            raise self.has
        return self.has


class Kept:
    """A keeper with its files, and how often it said that they are there."""

    def __init__(self, folder: Path, cluster: Cluster, *, begins_with: KubeCacheError | None = None) -> None:
        self.files = folder / "tls.key", folder / "tls.crt"
        self.told = 0
        self._error = begins_with
        self.keeper = AuthorityKeeper(cluster, *self.files, self._tell, look_s=0.01)  # type: ignore[arg-type]

    def _tell(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
        self.told += 1

    def read(self) -> Pair | None:
        return Pair(*(path.read_bytes() for path in self.files)) if all(path.exists() for path in self.files) else None


@pytest.fixture
def ending() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_the_files_follow_the_cluster(tmp_path: Path, ending: ExitStack) -> None:
    cluster = Cluster()
    kept = Kept(tmp_path, cluster)
    ending.callback(kept.keeper.close)
    true(lambda: kept.told, "the files are there")
    assert kept.read() == ONE
    cluster.has = OTHER
    true(lambda: kept.read() == OTHER, "the files are those of another authority")
    assert kept.told == 1


def test_nothing_is_told_before_there_is_an_authority(tmp_path: Path, ending: ExitStack) -> None:
    cluster = Cluster()
    cluster.has = SourceUnavailable("the Kubernetes API does not answer")
    kept = Kept(tmp_path, cluster)
    ending.callback(kept.keeper.close)
    assert (kept.told, kept.read()) == (0, None)
    cluster.has = ONE
    true(lambda: kept.told == 1, "the files are there")


def test_an_issuer_that_cannot_begin_is_tried_again(tmp_path: Path, ending: ExitStack) -> None:
    kept = Kept(tmp_path, Cluster(), begins_with=InvalidRequest("the address is taken"))
    ending.callback(kept.keeper.close)
    true(lambda: kept.told == 1, "it was told again")
