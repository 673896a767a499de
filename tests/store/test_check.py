"""The checks in C and in Python agree, whatever was done to a snapshot; no wrong byte of a manifest is trusted."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kube_cache.dataset.remote import Manifest
from kube_cache.dataset.uri import DatasetUri
from kube_cache.store import check, manifests
from kube_cache.store.check import SnapshotState
from kube_cache.store.disk import Disk
from kube_cache.store.node_store import NodeStore
from tests.store.fakes import DictEngine, Source, open_store

pytestmark = pytest.mark.skipif(check._native is None, reason="the check in C was not built: there is but one")

FILES = {
    "top": b"t",
    "one/alone": b"1",
    "one/deep/er/alone": b"2",
    "a-b/x": b"3",
    "a/b/y": b"4",
    "name with spaces/\u00fc\u4e2d": b"5",
} | {f"many/{number:04d}": b"%d" % number for number in range(300)}


@pytest.fixture
def store(root: Path) -> Iterator[NodeStore]:
    store = open_store(root)
    yield store
    store.close()


@pytest.fixture
def manifest(store: NodeStore, source: Source, engine: DictEngine) -> Manifest:
    manifest = source.dataset("gpt", FILES)
    store.download(manifest, engine)
    return manifest


def both(store: NodeStore, digest: str) -> SnapshotState:
    """What both ways see, which must be the same."""
    states = []
    built = check._native
    for native in (built, None):
        check._native = native
        try:
            states.append(
                check.check_snapshot(store._opened.layout, store._opened.disk, digest, store._opened.context.index)
            )
        finally:
            check._native = built
    quick, slow = states
    assert (quick.complete, quick.present_bytes) == (slow.complete, slow.present_bytes)
    if len(quick.problems) > 100:  # which hundred of them are told is not the same
        assert quick.problems[-1] == slow.problems[-1]
    else:
        assert sorted(quick.problems) == sorted(slow.problems)
    return quick


def touch(data: Path) -> None:
    os.utime(data / "top")


def chmod(data: Path) -> None:
    (data / "many/0007").chmod(0o400)


def rewrite(data: Path) -> None:
    path = data / "one/alone"
    before = path.stat()
    path.write_bytes(b"!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def drop_a_folder(data: Path) -> None:
    shutil.rmtree(data / "one")


def drop_the_data(data: Path) -> None:
    shutil.rmtree(data)


def folder_becomes_a_file(data: Path) -> None:
    shutil.rmtree(data / "many")
    (data / "many").touch()


def folder_becomes_a_link(data: Path) -> None:
    (data / "many").rename(data / "elsewhere")
    (data / "many").symlink_to("elsewhere")


def file_becomes_a_link_to_itself(data: Path) -> None:
    (data / "top").rename(data / "moved")
    (data / "top").symlink_to("moved")


HARMS = [
    touch, chmod, rewrite, drop_a_folder, drop_the_data, folder_becomes_a_file, folder_becomes_a_link,
    file_becomes_a_link_to_itself,
]  # fmt: skip


@pytest.mark.parametrize("harm", HARMS)
def test_both_ways_to_look_see_the_same_harm(
    store: NodeStore, manifest: Manifest, harm: Callable[[Path], None]
) -> None:
    assert both(store, manifest.digest) == SnapshotState(complete=True, present_bytes=manifest.total_bytes)
    harm(store.root / "snapshots" / manifest.digest / "data")
    assert not both(store, manifest.digest).complete


@pytest.mark.slow
def test_both_ways_see_the_same_where_many_things_were_done_at_random(
    store: NodeStore, source: Source, engine: DictEngine
) -> None:
    """Enough files for several frames and threads; more problems than are told."""
    chance = random.Random(5)
    manifest = source.dataset("large", {f"{n % 7}/{n % 3}/{n:05d}": b"x" * (n % 9) for n in range(6500)})
    store.download(manifest, engine)
    # Overlaps: its links change inode times, which the index explains.
    store.download(
        source.dataset("large/1", {f"{n % 3}/{n:05d}": b"x" * (n % 9) for n in range(6500) if n % 7 == 1}), engine
    )
    assert both(store, manifest.digest) == SnapshotState(complete=True, present_bytes=manifest.total_bytes)
    data = store.root / "snapshots" / manifest.digest / "data"
    harmed = chance.sample(manifest.objects, 150)
    for batch in (harmed[:90], harmed[90:]):
        for obj in batch:
            chance.choice([os.unlink, os.utime, lambda path: os.chmod(path, 0o400)])(data / obj.path)
        state = both(store, manifest.digest)
        assert not state.complete
    assert state.problems[-1] == "and 50 more"


def test_inode_times_that_were_explained_once_are_not_asked_for_again_and_others_are(
    store: NodeStore, source: Source, engine: DictEngine, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each link and unlink of a shared object changes its inode's time: 100,000 questions to the index, or one."""
    asked: list[int] = []
    ctimes = store._opened.context.index.ctimes
    monkeypatch.setattr(store._opened.context.index, "ctimes", lambda ids: asked.append(len(ids)) or ctimes(ids))
    store.download(
        inner := source.dataset("gpt/many", {f"{number:04d}": b"%d" % number for number in range(300)}), engine
    )

    monkeypatch.setattr(check, "_MAX_LISTED", 10)

    def checked() -> tuple[bool, int]:
        asked.clear()
        return store.check(manifest.digest).complete, sum(asked)

    assert checked() == (True, 300)
    assert checked() == (True, 0)
    store.evict(inner.digest)
    assert checked() == (True, 300)
    assert checked() == (True, 0)
    store.close()
    again = open_store(store.root)
    monkeypatch.setattr(again._opened.context.index, "ctimes", None)
    assert again.check(manifest.digest).complete, "a restart forgets nothing"
    again.close()
    again = open_store(store.root)
    touch(data := store.root / "snapshots" / manifest.digest / "data")
    chmod(data)
    assert not both(again, manifest.digest).complete
    again.close()


def test_no_wrong_byte_of_a_manifest_and_no_torn_one_is_believed(
    store: NodeStore, source: Source, engine: DictEngine
) -> None:
    manifest = source.dataset("small", {"a": b"a", "d/b": b"b"})
    store.download(manifest, engine)
    path = store.root / "snapshots" / manifest.digest / "manifest"
    whole = path.read_bytes()
    path.chmod(0o644)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        assert not both(store, manifest.digest).complete, f"byte {place}"
        path.write_bytes(whole[:place])
        assert not both(store, manifest.digest).complete, f"{place} bytes"
    path.write_bytes(whole)
    assert both(store, manifest.digest).complete


def test_the_native_look_refuses_frames_that_contradict_themselves(tmp_path: Path) -> None:
    """With a right checksum, too: it never reads beyond what it was given."""
    chance = random.Random(7)
    chunk = manifests.Chunk(["a", "d/b"], ["00" * 32, "ff" * 32], *[[1, 2]] * 5, ["md5", "md5"])
    frame = manifests.encode_chunk(chunk)
    for _ in range(20_000):
        payload = bytearray(frame[12:])
        for _ in range(chance.randrange(1, 4)):
            payload[chance.choice([*range(12), *range(len(payload) - 6, len(payload))])] = chance.choice(
                [0, 1, 47, 255]
            )
        piece = manifests._frame(manifests._FILES, bytes(payload[: chance.randrange(len(payload) + 1)]))
        try:
            used, files, *_ = check._native.check_piece(piece, -1, True, 2, 0, 10)
        except ValueError:
            continue
        assert (used, files <= 2) == (len(piece), True)


@pytest.mark.parametrize("proof", list(manifests.Verified))
def test_a_manifest_is_read_back_as_it_was_written(tmp_path: Path, proof: manifests.Verified) -> None:
    chunk = manifests.Chunk(
        ["plain", "d/\u4e2d \udcff"], ["0f" * 32, "f0" * 32], [0, 1 << 40], [-1, 1 << 62], [-5, 7], [1, (1 << 64) - 1],
        [(1 << 64) - 1, 0], ["full-object", str(proof)],
    )  # fmt: skip
    header = manifests.Header("d" * 64, DatasetUri("s3", "models", "\u00fc"), 2, 1 << 40, proof)
    path = tmp_path / "manifest"
    path.write_bytes(manifests.encode_header(header) + manifests.encode_chunk(chunk) + manifests.encode_end(header))
    disk = Disk()
    disk.open(tmp_path)
    assert manifests.read_header(disk, "manifest") == header
    assert list(manifests.read_chunks(disk, "manifest")) == [chunk]


def test_a_manifest_of_an_older_build_which_lists_its_folders_is_read(store: NodeStore, manifest: Manifest) -> None:
    path = store.root / "snapshots" / manifest.digest / "manifest"
    old, now = (manifests._frame(manifests._FOLDERS, manifests._json(names)) for names in (["", "many"], None))
    content = path.read_bytes()
    assert content.count(now) == 1
    path.write_bytes(content.replace(now, old))
    assert both(store, manifest.digest) == SnapshotState(complete=True, present_bytes=manifest.total_bytes)
