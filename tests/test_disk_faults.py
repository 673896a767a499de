"""A fault of the disk reads the same on the Pod, whether the engine or the store met it."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kube_cache.disk_faults import disk_fault
from kube_cache.engine import part_file
from kube_cache.errors import DiskFault
from kube_cache.store.disk import Disk
from kube_cache.store.node_store import NodeStore
from tests.store.fakes import settings


class Failing(Disk):
    """Answers the creation of a file with one error, once `code` is set."""

    code = 0

    def write(self, path: Path, chunks: object) -> None:
        if self.code:
            raise OSError(self.code, os.strerror(self.code), str(path))
        super().write(path, chunks)


def fault_of_engine(root: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> DiskFault:
    def refuse(path: Path, *, direct: bool) -> tuple[int, bool]:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(part_file, "_open", refuse)
    with pytest.raises(DiskFault) as met:
        part_file.PartFile(root / "incoming" / "a.part", 1)
    return met.value


def fault_of_store(root: Path, code: int) -> DiskFault:
    disk = Failing()
    store = NodeStore.open(settings(root), disk=disk)
    disk.code = code
    with pytest.raises(DiskFault) as met:
        store.probe()
    store.close()
    return met.value


def words(fault: DiskFault) -> str:
    """Reason and remedy, without the path."""
    return fault.message.removeprefix(f"{fault.details['path']}: ")


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        pytest.param(errno.EMFILE, "raise the agent's limit of open files", id="EMFILE"),
        pytest.param(errno.EMLINK, "evict old snapshots", id="EMLINK"),
        pytest.param(errno.ENOSPC, "make room", id="ENOSPC"),
        pytest.param(errno.EROFS, "remount it read-write", id="EROFS"),
        pytest.param(errno.ENOSYS, "look at the agent's log and dmesg", id="one that the table lacks"),
    ],
)
def test_engine_and_store_name_the_same_reason_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, remedy: str
) -> None:
    of_engine = fault_of_engine(tmp_path, code, monkeypatch)
    of_store = fault_of_store(tmp_path / "cache", code)
    assert words(of_engine) == words(of_store)
    assert remedy in words(of_engine)
    assert errno.errorcode[code] in words(of_engine)
    assert of_engine.details["errno"] == of_store.details["errno"] == code


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    point = tmp_path / "disk"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,nr_inodes=400", "none", str(point)], check=True)
    yield point
    subprocess.run(["umount", "-l", str(point)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_engine_and_store_tell_a_lack_of_inodes_from_a_lack_of_bytes(small_disk: Path) -> None:
    store = NodeStore.open(settings(small_disk / "cache"))
    for number in range(400):
        try:
            (small_disk / str(number)).touch()
        except OSError:
            break
    with pytest.raises(DiskFault, match="no inodes left") as of_engine:
        part_file.PartFile(small_disk / "cache" / "incoming" / "a.part", 1)
    with pytest.raises(DiskFault, match="no inodes left") as of_store:
        store.probe()
    assert words(of_engine.value) == words(of_store.value)
    assert "remove small files" in words(of_engine.value)
    store.close()


def test_a_path_that_is_not_there_is_judged_by_the_folder_that_is(tmp_path: Path) -> None:
    fault = disk_fault(OSError(errno.ENOSPC, "full"), tmp_path / "not" / "there")
    assert "make room" in fault.message
    assert fault.details["path"] == str(tmp_path / "not" / "there")
