"""The probe at start: what the file system cannot do is said, by name, before anything is fetched."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kube_cache.contracts.node import StoreRequest
from kube_cache.errors import DiskFault, NodeUnsuitable
from kube_cache.store import commands
from kube_cache.store.filesystem.probe import SCRATCH_PREFIX, Capabilities, probe
from kube_cache.store.node_store import NodeStore
from tests.store.fakes import open_store

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def refusing(code: int) -> Callable[..., object]:
    def refuse(*_args: object, **_named: object) -> object:
        raise OSError(code, os.strerror(code))

    return refuse


def test_this_file_system_can_do_all_that_is_needed_and_nothing_is_left_behind(tmp_path: Path) -> None:
    found = probe(tmp_path, "ext4")
    assert not any(found.needed.values())
    assert found.direct_writes
    assert found.summary().startswith("ext4: hard links, rename over a file")
    assert Capabilities.of_json(found.to_json()) == found
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("module", "call", "code", "words"),
    [
        pytest.param(os, "link", errno.EPERM, r"hard links \(EPERM\)", id="hard-links"),
        pytest.param(os, "replace", errno.EINVAL, r"rename over a file \(EINVAL\)", id="rename"),
        pytest.param(os, "symlink", errno.EPERM, r"symbolic links \(EPERM\)", id="symbolic-links"),
        pytest.param(fcntl, "flock", errno.ENOLCK, r"locks \(flock\) \(ENOLCK\)", id="locks"),
        pytest.param(os, "fsync", errno.EINVAL, r"sync of a folder \(EINVAL\)", id="folder-sync"),
    ],
)
def test_what_is_needed_and_missing_refuses_the_start_by_name_with_the_remedy(
    root: Path, monkeypatch: pytest.MonkeyPatch, module: object, call: str, code: int, words: str
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(module, call, refusing(code))
        with pytest.raises(NodeUnsuitable, match=f"{words}.*local ext4, XFS or btrfs"):
            open_store(root)
    assert not (root / "cache-id").exists(), "nothing was made of it"
    open_store(root).close()


def test_locks_that_two_can_hold_are_no_locks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with pytest.raises(NodeUnsuitable, match="two hold one lock"):
        open_store(root)


def test_a_disk_that_is_ill_is_a_fault_and_not_a_lack(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refusing(errno.EIO))
    with pytest.raises(DiskFault, match="EIO"):
        open_store(root)


def test_refused_direct_writes_are_told_and_stop_nobody(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", refusing(errno.EINVAL))
    with capture_logs() as logs:
        store = open_store(root)
    monkeypatch.setattr(os, "pwrite", real)
    (line,) = [entry for entry in logs if entry["event"] == "the disk was probed"]
    assert "lacks direct writes (EINVAL)" in line["can"]
    assert any("through the page cache" in entry.get("why", "") for entry in logs)
    store.close()


def test_du_says_what_the_last_start_of_the_agent_found(store: NodeStore) -> None:
    response = commands.handle(store, StoreRequest("", "du"))
    assert "hard links" in json.loads(response.data)["file_system"]
    other = NodeStore.open(store._settings, recover=False)
    assert other.capabilities() == store.capabilities()
    other.close()


@contextmanager
def loop_device(folder: Path, make: str) -> Iterator[Path]:
    image, point = folder / "image", folder / "disk"
    image.write_bytes(b"")
    os.truncate(image, 16 << 20)
    subprocess.run([*make.split(), str(image)], check=True, capture_output=True)
    point.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)


@needs_root
def test_a_real_disk_of_its_own_is_probed_with_its_type(tmp_path: Path) -> None:
    """Also the guard's plain case: an ext4 that is mounted there, without ALLOW_ROOT_DISK."""
    with loop_device(tmp_path, "mkfs.ext4 -q") as disk:
        store = open_store(disk / "cache", allow_root_disk=False)
        found = store.capabilities()
        assert found is not None
        assert found.kind == "ext4"
        assert found.direct_writes
        assert not list((disk / "cache").glob(f"{SCRATCH_PREFIX}*"))
        store.close()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        pytest.param("ext4", None, id="local"),
        pytest.param("nfs4", "no local disk", id="network"),
        pytest.param("fuse.s3fs", "no local disk", id="FUSE"),
        pytest.param("overlay", "other inode numbers after a remount", id="overlay"),
    ],
)
def test_a_file_system_that_is_no_good_place_is_named(tmp_path: Path, kind: str, words: str | None) -> None:
    warnings = probe(tmp_path, kind).warnings()
    assert [kind in warning and words in warning for warning in warnings if words] == ([True] if words else [])
    assert bool(warnings) == bool(words)


def test_a_file_system_that_does_not_count_its_space_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some FUSE file systems, on which no free space could be kept."""
    none = os.statvfs_result((4096, 4096, 0, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: none)
    with pytest.raises(NodeUnsuitable, match="count of free space"):
        probe(tmp_path, "fuse.some")
