"""What the observer reads from a disk: since when a snapshot is whole there, also where an inode is used again."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from tests.soak.disks import Disk

DIGEST = "a" * 64


def publish(root: Path, data: bytes) -> None:
    aside = root / "snapshots" / ".building"
    (aside / "data").mkdir(parents=True)
    (aside / "data" / "shard").write_bytes(data)
    aside.rename(root / "snapshots" / DIGEST)


def test_a_snapshot_is_held_from_the_moment_of_its_rename_until_it_is_removed(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    before = time.time() - 1
    publish(tmp_path, b"one")
    disk.look()
    assert disk.held(DIGEST, time.time())
    assert not disk.held(DIGEST, before)
    shutil.rmtree(tmp_path / "snapshots" / DIGEST)
    disk.look()
    assert not disk.held(DIGEST, time.time())


def test_a_snapshot_that_is_fetched_again_is_held_again_whatever_its_inode(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    for number in range(5):  # most file systems use the inode of a folder again at once
        publish(tmp_path, b"%d" % number)
        disk.look()
        sighting = disk.held(DIGEST, time.time())
        assert sighting is not None, disk.history(DIGEST)
        assert len(sighting.files) == 1
        shutil.rmtree(tmp_path / "snapshots" / DIGEST)
        disk.look()


def test_a_file_that_changes_in_its_place_makes_the_snapshot_no_longer_whole(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    publish(tmp_path, b"one")
    disk.look()
    (tmp_path / "snapshots" / DIGEST / "data" / "shard").write_bytes(b"other")
    disk.look()
    assert not disk.held(DIGEST, time.time())
