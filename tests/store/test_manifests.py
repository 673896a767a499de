"""Manifests of other builds: those of older ones are read, and of newer ones nothing is fetched again."""

from __future__ import annotations

import json
import struct
import zlib
from array import array
from pathlib import Path
from typing import Any

import pytest

from kube_cache.contracts.node import StoreRequest
from kube_cache.dataset.remote import Manifest
from kube_cache.errors import SnapshotInUse
from kube_cache.store import commands, manifests
from kube_cache.store.layout import object_id
from kube_cache.store.node_store import NodeStore
from tests.store.fakes import DictEngine, Source, free_space, open_store, read_all
from tests.store.test_crash import account

FILES = {"a": b"a" * 1000, "d/b": b"b" * 2000, "d/e/c": b""}


@pytest.fixture
def manifest(store: NodeStore, source: Source, engine: DictEngine) -> Manifest:
    manifest = source.dataset("gpt", FILES)
    store.download(manifest, engine)
    engine.served.clear()
    return manifest


def path_of(store: NodeStore, manifest: Manifest) -> Path:
    return store.root / "snapshots" / manifest.digest / "manifest"


def frame(kind: int, payload: bytes) -> bytes:
    return struct.pack("=III", kind, len(payload), zlib.crc32(payload, kind)) + payload


def with_header(store: NodeStore, manifest: Manifest, **changes: Any) -> None:
    """Change the header of the snapshot's manifest, as another build would have written it."""
    path = path_of(store, manifest)
    data = path.read_bytes()
    _, length, _ = struct.unpack_from("=III", data)
    header = json.loads(data[12 : 12 + length]) | changes
    path.chmod(0o644)
    path.write_bytes(frame(1, json.dumps(header).encode()) + data[12 + length :])


def test_a_manifest_that_version_0_1_wrote_is_read(store: NodeStore, manifest: Manifest) -> None:
    """Written here by the letter of that format, with the folders that its watch needed."""
    stats = [(store.root / "snapshots" / manifest.digest / "data" / path).stat() for path in FILES]
    index = store._opened.context.index.objects([object_id(obj) for obj in manifest.objects])
    rows = [index[object_id(obj)] for obj in manifest.objects]
    header = {
        "version": 3,
        "digest": manifest.digest,
        "uri": str(manifest.uri),
        "files": 3,
        "bytes": 3000,
        "verified": "full-object",
    }
    names = b"".join(path.encode() + b"\0" for path in FILES)
    columns = (
        array("q", [stat.st_size for stat in stats]),
        array("q", [stat.st_mtime_ns for stat in stats]),
        array("q", [stat.st_ctime_ns for stat in stats]),
        array("Q", [stat.st_ino for stat in stats]),
        array("Q", [row.crc64nvme for row in rows]),
    )
    files = struct.pack("=II", 3, len(names)) + b"".join(column.tobytes() for column in columns)
    files += b"".join(bytes.fromhex(row.id) for row in rows) + bytes([3, 3, 3]) + names
    written = frame(1, json.dumps(header).encode()) + frame(2, json.dumps(["", "d", "d/e"]).encode())
    written += frame(3, files) + frame(4, json.dumps({"end": 3}).encode())
    path = path_of(store, manifest)
    path.chmod(0o644)
    path.write_bytes(written)
    store.close()
    again = open_store(store.root)
    assert again.check(manifest.digest).complete
    assert [header.digest for header in again.snapshots()] == [manifest.digest]
    again.close()


@pytest.mark.parametrize("version", [2, 4], ids=["older", "newer"])
def test_a_manifest_that_cannot_be_read_is_listed_and_its_snapshot_linked_anew_without_a_fetch(
    store: NodeStore, manifest: Manifest, engine: DictEngine, version: int
) -> None:
    """After a roll-back, say. The Pods that run on the snapshot keep their files: the same inodes are linked."""
    data = store.root / "snapshots" / manifest.digest / "data"
    inodes = [(data / path).stat().st_ino for path in FILES]
    with_header(store, manifest, version=version)
    store.close()
    again = open_store(store.root)
    state = again.check(manifest.digest)
    assert not state.complete
    assert f"version {version}" in state.problems[0]
    (row,) = json.loads(commands.handle(again, StoreRequest("", "ls")).data)
    assert (row["digest"], row["verified"]) == (manifest.digest, f"manifest of version {version}")
    assert again.download(manifest, engine).fetched_bytes == 0
    assert again.check(manifest.digest).complete
    assert read_all(again, manifest) == FILES
    assert [(data / path).stat().st_ino for path in FILES] == inodes
    account(again)
    again.close()


def test_a_newer_manifest_that_says_it_can_be_read_is_read(store: NodeStore, manifest: Manifest) -> None:
    with_header(store, manifest, version=manifests._VERSION + 2, readable_from=manifests._VERSION, colour="red")
    assert store.check(manifest.digest).complete
    with_header(store, manifest, version=manifests._VERSION + 2, readable_from=manifests._VERSION + 1)
    assert not store.check(manifest.digest).complete


def test_a_snapshot_whose_manifest_cannot_be_read_is_counted_and_evicted_as_any_other(
    store: NodeStore, manifest: Manifest
) -> None:
    with_header(store, manifest, version=9)
    store.close()
    small = open_store(store.root, capacity_bytes=4000)
    (usage,) = small.usage().snapshots
    assert usage.unique_bytes == 3000
    small.pin(manifest.digest, "user/kim")
    with pytest.raises(SnapshotInUse):
        small.evict(manifest.digest)
    small.unpin(manifest.digest, "user/kim")
    small.check_fits(3500)
    free_space(small, 3500)
    assert not small.snapshots()
    account(small)
    small.close()
